"""Every fault that can befall a submission, run for real over sockets, as a table. `python -m
tests.submitter.faults` writes it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from happyhorse_async import HappyHorseError, ImageToVideo, RetryPolicy, Session, Timeouts
from happyhorse_async.events import Retrying, Submitted, Submitting
from happyhorse_async.sandbox import Fault, Features, Sandbox

TABLE = Path(__file__).with_name("faults_table.md")
SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"
HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"

ALL_FEATURES = Features()
LATER = {"Retry-After": "Thu, 01 Jan 2026 00:00:01 GMT", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
Through = Callable[[Sandbox], Any]


@attrs.frozen
class Row:
    """A fault, and the settings under which it shows."""

    name: str
    fault: Fault | None = None
    often: str = "once"
    features: Features = ALL_FEATURES
    through: Through | None = None
    """Where the session connects to instead of to the sandbox: an async context manager that gives
    the base URL."""


@attrs.frozen
class Outcome:
    """What came of a row."""

    row: Row
    tries: int
    arrived: int
    paid: int
    got: str
    charged: str
    task: bool

    def line(self) -> str:
        """Give the table's line."""
        counted = f"{self.tries} | {self.arrived} | {self.paid}"
        return f"| {self.row.name} | {self.row.often} | {counted} | {self.got} | {self.charged} |"


def on_submit(action: str, **details: Any) -> Fault:
    """Make a fault of the submit endpoint."""
    return Fault(action, method="POST", path=SUBMIT, **details)


def for_ever(action: str, **details: Any) -> Fault:
    """Make a fault of the submit endpoint that never ends."""
    return on_submit(action, times=None, **details)


def free_port() -> int:
    """Find a port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def nobody(sandbox: Sandbox) -> AsyncIterator[str]:
    """Give an address at which nothing listens."""
    yield f"http://127.0.0.1:{free_port()}"


@asynccontextmanager
async def no_such_name(sandbox: Sandbox) -> AsyncIterator[str]:
    """Give a host name that does not exist; the top-level name is reserved for that."""
    yield "https://api.happyhorse.invalid"


@asynccontextmanager
async def no_tls(sandbox: Sandbox) -> AsyncIterator[str]:
    """Speak TLS to a server that does not."""
    yield sandbox.url.replace("http://", "https://")


@asynccontextmanager
async def resetting(sandbox: Sandbox) -> AsyncIterator[str]:
    """Reset the first connection as soon as it stands; hand the later ones on to the sandbox."""
    seen = 0
    port = int(sandbox.url.rpartition(":")[2])

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            peer = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()


NO_LIST = Features(listing=False)
HALF = '{"id": "task-unif'
SOON = {"Retry-After": "1"}
PENDING = {
    "error": {"code": "paid_outcome_unknown", "message": "being decided", "type": "api_error"}
}

ROWS = [
    Row("nothing listens there", through=nobody, often="always"),
    Row("the host name does not exist", through=no_such_name, often="always"),
    Row("TLS cannot be agreed on", through=no_tls, often="always"),
    Row("connection reset before the body left", through=resetting),
    Row("connection reset, nothing accepted", on_submit("drop-before")),
    Row("connection reset, nothing accepted", for_ever("drop-before"), "always"),
    Row("connection reset after acceptance", on_submit("drop-after")),
    Row("connection reset after acceptance", for_ever("drop-after"), "always"),
    Row("connection reset after acceptance, server without a task list", for_ever("drop-after"),
        "always", NO_LIST),
    Row("time-out, nothing accepted", for_ever("hang-before"), "always"),
    Row("time-out after acceptance", on_submit("hang-after")),
    Row("time-out after acceptance", for_ever("hang-after"), "always"),
    Row("429 with Retry-After in seconds", on_submit("refuse", status=429, headers=SOON)),
    Row("429 with Retry-After as a date", on_submit("refuse", status=429, headers=LATER)),
    Row("429 without Retry-After", on_submit("refuse", status=429, times=3), "three times"),
    Row("400, refused", for_ever("refuse", status=400), "always"),
    Row("402, no credits", for_ever("refuse", status=402), "always"),
    Row("500, nothing accepted", on_submit("refuse", status=500)),
    Row("500, nothing accepted", for_ever("refuse", status=500), "always"),
    Row("500 after acceptance", on_submit("answer-after", status=500)),
    Row("502 with HTML, nothing accepted", on_submit("refuse", status=502, body=HTML)),
    Row("502 with HTML after acceptance", on_submit("answer-after", status=502, body=HTML)),
    Row("502 with HTML after acceptance", for_ever("answer-after", status=502, body=HTML),
        "always"),
    Row("503 of the service", on_submit("refuse", status=503, times=2), "twice"),
    Row("503 of the service", for_ever("refuse", status=503), "always"),
    Row("503 of a gateway after acceptance", on_submit("answer-after", status=503, body=HTML)),
    Row("broken JSON after acceptance", on_submit("answer-after", status=200, body=HALF)),
    Row("broken JSON after acceptance", for_ever("answer-after", status=200, body=HALF),
        "always"),
    Row("empty answer after acceptance", on_submit("answer-after", status=200, body="")),
    Row("`paid_outcome_unknown` for a while", on_submit("undecided", seconds=30)),
    Row("`paid_outcome_unknown` for ever", for_ever("answer-after", status=409, body=PENDING),
        "always"),
]  # fmt: skip

SETTINGS: dict[str, Any] = {
    "retry": RetryPolicy(attempts=4, first_pause=0.001, longest_pause=0.002),
    "timeouts": Timeouts(connect=10, submit=10, read=10),
}


async def run(row: Row, **settings: Any) -> Outcome:
    """Submit one request to a server with a fault."""
    async with Sandbox(video="stub", speed=0, features=row.features) as sandbox:
        if row.fault is not None:
            sandbox.fail(row.fault)
        through = row.through(sandbox) if row.through is not None else None
        url = await through.__aenter__() if through is not None else sandbox.url
        if row.fault is not None and row.fault.action.startswith("hang"):
            settings["timeouts"] = Timeouts(submit=0.5)
        async with Session(
            sandbox.key, base_url=url, files_url=sandbox.files_url, **{**SETTINGS, **settings}
        ) as session:
            outcome = await _submit(row, sandbox, session)
        if through is not None:
            await through.__aexit__(None, None, None)
        return outcome


async def _submit(row: Row, sandbox: Sandbox, session: Session) -> Outcome:
    tries: list[Submitting] = []
    accepted: list[Submitted] = []
    session.subscribe(tries.append, Submitting)
    session.subscribe(accepted.append, Submitted)
    # What is "being decided" gets decided when the client has been told so.
    session.subscribe(
        lambda event: sandbox.advance(31) if "paid_outcome_unknown" in str(event.error) else None,
        Retrying,
    )
    keys = set()
    try:
        task = await session.submit(ImageToVideo(LINK))
    except HappyHorseError as error:
        got, charged, ok = f"`{type(error).__name__}`", error.charged, False
        keys.add(error.idempotency_key)
        advised = bool(error.next_step)
    else:
        event = accepted[0]
        got = "its task" + (
            " (replayed)" if event.replayed else " (found in the list)" if event.adopted else ""
        )
        charged, ok = "yes", True
        keys.add(task.idempotency_key)
        advised = sandbox.task(task.id).id == task.id
    assert advised, "whoever gets no task is told what to do next"
    assert keys == {attempt.idempotency_key for attempt in tries}, (
        "one key for all tries, and on what the caller gets"
    )
    return Outcome(row, len(tries), sandbox.count("POST", SUBMIT), sandbox.paid, got, charged, ok)


async def run_all() -> list[Outcome]:
    """Run every row, one after the other."""
    return [await run(row) for row in ROWS]


def table(outcomes: list[Outcome]) -> str:
    """Write outcomes as Markdown."""
    head = [
        "| what goes wrong | how often | tries | POSTs that arrived | tasks paid | the caller "
        "gets | `charged` |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    return "\n".join([*head, *(outcome.line() for outcome in outcomes)]) + "\n"


# --- Every refusal: what it proves --------------------------------------------------------------

CERTAINTY = Path(__file__).with_name("certainty_table.md")

SAID = (
    (200, "internal_error"),
    (308, ""),
    (400, "invalid_request"),
    (401, "unauthorized"),
    (402, "insufficient_quota"),
    (403, "permission_denied"),
    (403, "key_disabled"),
    (404, "task_not_found"),
    (405, "method_not_allowed"),
    (408, "request_timeout"),
    (409, "idempotency_conflict"),
    (409, "paid_outcome_unknown"),
    (413, "request_too_large"),
    (422, "invalid_request"),
    (429, "rate_limit_exceeded"),
    (429, "something_else"),
    (500, "internal_error"),
    (502, "bad_gateway"),
    (503, "service_unavailable"),
    (503, "token_daily_quota_exceeded"),
    (504, "gateway_timeout"),
)
"""Statuses, and the codes that the service's own body has with them; "" where it has no body."""

FIRST, REPLAY, ACCEPTED = "the first sending", "the replay", "the first sending, accepted"
PROOFS = {400, 401, 402, 403, 404, 413, 422}


@attrs.frozen
class Refusal:
    """One way to be refused."""

    status: int
    code: str
    own: bool
    """The body is the service's own error object, not a gateway's page."""
    when: str
    keys: bool
    """The server keeps idempotency keys."""

    @property
    def proves(self) -> bool:
        """Whether the contract takes it for a proof that its own request was not accepted."""
        limited = self.code == "rate_limit_exceeded"
        admission = self.code in (
            "insufficient_quota",
            "key_disabled",
            "token_daily_quota_exceeded",
        )
        return self.own and (self.status in PROOFS or admission or limited)

    @property
    def fault(self) -> Fault:
        """Return the fault that refuses so, for ever."""
        object_ = {"error": {"code": self.code, "message": "no", "type": "x"}}
        body: object = object_ if self.own else HTML
        action = "answer-after" if self.when == ACCEPTED else "refuse"
        return for_ever(action, status=self.status, body=body, after=int(self.when == REPLAY))


def refusals() -> list[Refusal]:
    """Return every row: a service cannot both prove that it refused and accept."""
    own_and_foreign = [(status, code, True) for status, code in SAID if code]
    own_and_foreign += [(status, "", False) for status in dict(SAID)]
    rows = [
        Refusal(status, code, own, when, keys)
        for status, code, own in sorted(own_and_foreign)
        for when in (FIRST, REPLAY, ACCEPTED)
        for keys in (True, False)
    ]
    return [row for row in rows if not (row.when == ACCEPTED and row.proves)]


REFUSED = RetryPolicy(attempts=3, first_pause=0.001, longest_pause=0.002, jitter=0, patience=0.004)


async def refuse(row: Refusal) -> str:
    """Submit one request, and return the table's line."""
    features = Features(idempotency=row.keys)
    async with Sandbox(video="stub", speed=0, features=features) as sandbox:
        if row.when == REPLAY:
            sandbox.fail(on_submit("drop-after"))
        sandbox.fail(row.fault)
        async with Session(
            sandbox.key, base_url=sandbox.url, files_url=sandbox.files_url, retry=REFUSED
        ) as session:
            try:
                await session.submit(ImageToVideo(LINK))
            except HappyHorseError as error:
                got, charged = type(error).__name__, error.charged
            else:
                got, charged = "its task", "yes"
        posts, paid = sandbox.count("POST", SUBMIT), sandbox.paid
    assert charged != "no" or not paid, f"{row}: paid, and said not to be"
    assert (charged == "no") == (row.proves and row.when == FIRST), row
    said = f"{row.status} `{row.code}`" if row.own else f"{row.status} with HTML"
    keys = "keeps keys" if row.keys else "does not"
    return f"| {said} | {row.when} | {keys} | {posts} | {paid} | `{got}` | {charged} |"


async def refuse_all() -> str:
    """Run every refusal, and return the table."""
    head = [
        "| answered for ever | to | the server | POSTs | tasks paid | the caller gets | "
        "`charged` |",
        "|---|---|---|---:|---:|---|---|",
    ]
    return "\n".join([*head, *[await refuse(row) for row in refusals()]]) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(asyncio.run(run_all())))
    CERTAINTY.write_text(asyncio.run(refuse_all()))
    print(TABLE.read_text(), CERTAINTY.read_text(), sep="\n")
