"""Traces: each generation is one span, with its parts and every HTTP request below it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from happyhorse_async import (
    HappyHorseError,
    ImageToVideo,
    Session,
    TaskFailedError,
    Video,
    WaitTimeoutError,
)
from happyhorse_async.events import Began, Event, Submitted
from happyhorse_async.integrations import _spans
from happyhorse_async.integrations.otel import instrument
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"
BUSY = {"error": {"code": "service_unavailable", "message": "busy"}}


class Traces:
    """What the SDK has exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """Every span that has ended."""
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans whose name begins so."""
        return [span for span in self.all if span.name.startswith(name)]

    def only(self, name: str) -> ReadableSpan:
        """The one span of a name."""
        (span,) = self.named(name)
        return span

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """A span's children, as they began."""
        found = [span for span in self.all if span.parent and id_of(span.parent) == id_of(parent)]
        return sorted(found, key=lambda span: span.start_time or 0)


def id_of(span: ReadableSpan | trace.SpanContext) -> int:
    """The id of a span."""
    context = span.context if isinstance(span, ReadableSpan) else span
    assert context is not None
    return context.span_id


def said(span: ReadableSpan) -> dict[str, object]:
    """A span's attributes."""
    return dict(span.attributes or {})


@pytest.fixture
def traces() -> Traces:
    """The real SDK with its exporter in memory."""
    return Traces()


async def test_a_generation_is_one_span_with_its_parts_as_children(
    sandbox: Sandbox, session: Session, traces: Traces, cat: Path, tmp_path: Path
) -> None:
    """Upload, submission, wait and download are the children of one client span, in this order,
    inside of it in time; it says what was asked for, what came, and what it cost.
    """
    instrument(session, tracer_provider=traces.provider)
    sandbox.speed = 1000
    request = ImageToVideo(image=cat, prompt="a cat", duration=4, quality="1080p", seed=7)
    with traces.tracer.start_as_current_span("a user's request"):
        video = await session.generate(request, save_to=tmp_path / "a.mp4")
    root = traces.only("generate_content")
    parts = traces.below(root)
    assert [span.name for span in parts] == [
        f"happyhorse.{name}" for name in ("upload", "submit", "wait", "download")
    ]
    assert root.name == f"generate_content {request.model}"
    assert root.kind is trace.SpanKind.CLIENT
    assert root in traces.below(traces.only("a user's request"))
    assert all(
        (root.start_time or 0)
        <= (span.start_time or 0)
        <= (span.end_time or 0)
        <= (root.end_time or 0)
        for span in parts
    )
    facts = said(root)
    estimated, used = (
        facts.pop("happyhorse.credits.estimated"),
        facts.pop("happyhorse.credits.used"),
    )
    assert estimated == pytest.approx(4 * 7.616 * 1.72, abs=0.001)
    assert used == float(video.credits or 0)
    assert facts.pop("happyhorse.request_id")
    assert facts == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "evolink",
        "gen_ai.output.type": "video",
        "gen_ai.request.model": request.model,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": video.task_id,
        "server.address": "127.0.0.1",
        "server.port": int(sandbox.url.rpartition(":")[2]),
        "happyhorse.duration": 4,
        "happyhorse.quality": "1080p",
        "happyhorse.replayed": False,
        "happyhorse.adopted": False,
        "happyhorse.charged": "yes",
    }
    states = [dict(event.attributes or {}) for event in traces.only("happyhorse.wait").events]
    assert states[0]["happyhorse.status"] == "pending"
    assert states[-1] == {"happyhorse.status": "completed", "happyhorse.progress": 100}
    download = said(traces.only("happyhorse.download"))
    assert download["happyhorse.download.bytes"] == video.size
    assert download["happyhorse.download.resumed"] is False


async def test_each_http_attempt_is_a_span_that_counts_how_often_it_was_sent(
    sandbox: Sandbox, session: Session, traces: Traces
) -> None:
    """A submission that is refused twice has three requests below it, numbered, each with its
    status; a request without a repetition has no number.
    """
    instrument(session, tracer_provider=traces.provider)
    sandbox.fail(Fault("refuse", path="/v1/videos*", status=503, body=BUSY, times=2))
    await session.submit(LINK)
    posts = traces.below(traces.only("happyhorse.submit"))
    assert [said(span).get("http.request.resend_count") for span in posts] == [None, 1, 2]
    assert [said(span)["http.response.status_code"] for span in posts] == [503, 503, 200]
    assert [said(span).get("error.type") for span in posts] == ["503", "503", None]
    assert {said(span)["url.full"] for span in posts} == {f"{sandbox.url}/v1/videos/generations"}
    assert {span.name for span in posts} == {"POST"}
    assert {span.kind for span in posts} == {trace.SpanKind.CLIENT}


async def test_calls_of_no_generation_are_spans_of_their_caller(
    sandbox: Sandbox, session: Session, traces: Traces
) -> None:
    """Reading the balance is a request below the caller's own span, also when it is tried again;
    the next call begins to count anew.
    """
    instrument(session, tracer_provider=traces.provider)
    sandbox.fail(Fault("refuse", path="/v1/credits", status=503, body=BUSY))
    with traces.tracer.start_as_current_span("mine"):
        await session.credits()
        await session.credits()
    calls = traces.below(traces.only("mine"))
    assert [said(span).get("http.request.resend_count") for span in calls] == [None, 1, None]


async def test_a_result_links_secret_is_in_no_span(
    sandbox: Sandbox, session: Session, traces: Traces, tmp_path: Path
) -> None:
    """Whoever has a result link can fetch the video: a span shows its host only. Neither the key
    nor the prompt is anywhere.
    """
    instrument(session, tracer_provider=traces.provider)
    sandbox.speed = 1000
    video = await session.generate(LINK, prompt="the secret plan", save_to=tmp_path / "a.mp4")
    assert video.task is not None
    link = video.task.results[0]
    (call,) = traces.below(traces.only("happyhorse.download"))
    assert said(call)["url.full"] == "/".join([*link.split("/")[:3], "REDACTED"])
    everything = "".join(span.to_json() for span in traces.all)
    for secret in (link.split("/", 3)[3], sandbox.key, "the secret plan"):
        assert secret not in everything


async def test_prompts_are_recorded_on_request(session: Session, traces: Traces) -> None:
    """Who asks for prompts gets them, in the form of the conventions for generative models."""
    instrument(session, tracer_provider=traces.provider, prompts=True)
    await session.submit(LINK, prompt="a cat")
    await session.aclose()
    messages = json.loads(str(said(traces.only("generate_content"))["gen_ai.input.messages"]))
    assert messages == [{"role": "user", "parts": [{"type": "text", "content": "a cat"}]}]


async def test_a_shared_read_is_a_root_with_links_to_all_who_wait(
    sandbox: Sandbox, session: Session, traces: Traces, tmp_path: Path
) -> None:
    """One request reads many tasks: it belongs to no caller, and names the waits of all of them."""
    instrument(session, tracer_provider=traces.provider)
    with traces.tracer.start_as_current_span("mine"):
        tasks = [await session.submit(LINK, seed=seed) for seed in range(1, 4)]
        waits = [asyncio.create_task(task.wait()) for task in tasks]
        while not traces.named("happyhorse.read"):
            await asyncio.sleep(0)
        sandbox.finish()
        await asyncio.gather(*waits)
    reads = traces.named("happyhorse.read")
    assert all(span.parent is None for span in reads)
    assert max(len(span.links) for span in reads) == 3
    waiting = {id_of(span) for span in traces.named("happyhorse.wait")}
    assert {id_of(link.context) for span in reads for link in span.links} == waiting
    assert all(span.name in ("GET", "POST") for read in reads for span in traces.below(read))


async def test_a_download_that_was_cut_says_how_often_it_asked(
    sandbox: Sandbox, session: Session, traces: Traces, tmp_path: Path
) -> None:
    """Each request for the rest is a span with its number, and the download says that it was
    resumed.
    """
    instrument(session, tracer_provider=traces.provider)
    sandbox.fail(Fault("truncate", fraction=0.5, times=2))
    task = await session.submit(LINK)
    sandbox.finish()
    video = await task.download(tmp_path / "a.mp4")
    download = traces.only("happyhorse.download")
    facts = said(download)
    assert facts["happyhorse.download.bytes"] == video.size
    assert facts["happyhorse.download.resumed"] is True
    asked = [span for span in traces.below(download) if span.name == "GET"]
    assert [said(span).get("http.request.resend_count") for span in asked] == [None, 1, 2]
    assert [said(span)["http.response.status_code"] for span in asked] == [200, 206, 206]


async def test_a_cancelled_caller_ends_its_span(
    sandbox: Sandbox, session: Session, traces: Traces, tmp_path: Path
) -> None:
    """Whoever is cancelled while waiting leaves no open span; it names the task that goes on."""
    instrument(session, tracer_provider=traces.provider)
    making = asyncio.create_task(session.generate(LINK, save_to=tmp_path / "a.mp4"))
    while not traces.named("happyhorse.read"):
        await asyncio.sleep(0)
    making.cancel()
    await asyncio.wait([making])
    root = traces.only("generate_content")
    assert said(root)["error.type"] == "CancelledError"
    assert said(root)["gen_ai.response.id"] == sandbox.tasks[0].id
    assert traces.only("happyhorse.wait").end_time


async def test_a_key_that_is_used_again_is_another_span_with_the_same_task(
    sandbox: Sandbox, session: Session, traces: Traces
) -> None:
    """The second submission of a key is a generation of its own, which says that it was replayed:
    nothing was paid.
    """
    instrument(session, tracer_provider=traces.provider)
    key = "the-same-key-twice"
    first = await session.submit(LINK, idempotency_key=key)
    second = await session.submit(LINK, idempotency_key=key)
    sandbox.finish()
    await second.wait()
    await session.aclose()
    roots = traces.named("generate_content")
    assert sorted(bool(said(root)["happyhorse.replayed"]) for root in roots) == [False, True]
    assert {said(root)["gen_ai.response.id"] for root in roots} == {first.id}


async def test_a_hundred_callers_at_once_keep_their_traces_apart(
    sandbox: Sandbox, traces: Traces, tmp_path: Path
) -> None:
    """Each caller's request id is the parent of its own generation, with its own requests below,
    while all share connections, reads and downloads.
    """

    async def call(session: Session, number: int) -> None:
        with traces.tracer.start_as_current_span(f"caller {number:03}"):
            await session.generate(LINK, seed=number, save_to=tmp_path / f"{number}.mp4")

    sandbox.speed = 1000
    async with open_session(sandbox) as session:
        instrument(session, tracer_provider=traces.provider)
        await asyncio.gather(*(call(session, number) for number in range(1, 101)))
    for number in range(1, 101):
        (root,) = traces.below(traces.only(f"caller {number:03}"))
        assert said(root)["gen_ai.request.seed"] == number
        parts = {span.name: span for span in traces.below(root)}
        assert list(parts) == ["happyhorse.submit", "happyhorse.wait", "happyhorse.download"]
        task_id = said(root)["gen_ai.response.id"]
        assert said(parts["happyhorse.download"])["gen_ai.response.id"] == task_id
        assert said(parts["happyhorse.wait"])["gen_ai.response.id"] == task_id
        assert [span.name for span in traces.below(parts["happyhorse.submit"])] == ["POST"]
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_what_a_listener_attaches_is_taken_back(session: Session, traces: Traces) -> None:
    """After each call the caller's own span is the current one again, also after an error."""
    instrument(session, tracer_provider=traces.provider)
    with traces.tracer.start_as_current_span("mine") as mine:
        task = await session.submit(LINK)
        assert trace.get_current_span() is mine
        with pytest.raises(WaitTimeoutError):
            await task.download(timeout=0)
        assert trace.get_current_span() is mine


async def test_a_refused_submission_ends_its_span_with_what_was_charged(
    sandbox: Sandbox, session: Session, traces: Traces
) -> None:
    """The span of a refusal is an error, with the error's class, and says that it was free."""
    instrument(session, tracer_provider=traces.provider)
    body = {"error": {"code": "insufficient_quota", "message": "no"}}
    sandbox.fail(Fault("refuse", path="/v1/videos*", status=402, body=body))
    with pytest.raises(HappyHorseError) as refused:
        await session.submit(LINK)
    root = traces.only("generate_content")
    assert root.status.status_code is trace.StatusCode.ERROR
    assert said(root)["error.type"] == type(refused.value).__name__
    assert said(root)["happyhorse.charged"] == "no"


async def test_a_failed_task_ends_its_span_with_the_services_code(
    sandbox: Sandbox, session: Session, traces: Traces
) -> None:
    """A code that the service is known to have is the type of the error."""
    instrument(session, tracer_provider=traces.provider)
    task = await session.submit(LINK)
    sandbox.end(task.id, "failed", error_code="content_policy_violation")
    with pytest.raises(TaskFailedError):
        await task.wait()
    root = traces.only("generate_content")
    assert said(root)["error.type"] == "content_policy_violation"
    assert root.status.status_code is trace.StatusCode.ERROR


async def test_waiting_twice_is_one_wait_and_a_later_download_has_the_same_parent(
    sandbox: Sandbox, session: Session, traces: Traces, tmp_path: Path
) -> None:
    """A wait that was cut short goes on in the next one. A download after the end of the task is
    still a child of its generation.
    """
    instrument(session, tracer_provider=traces.provider)
    task = await session.submit(LINK)
    with pytest.raises(WaitTimeoutError):
        await task.wait(timeout=0)
    sandbox.finish()
    await task.wait()
    await task.download(tmp_path / "a.mp4")
    root = traces.only("generate_content")
    names = [span.name for span in traces.below(root)]
    assert names == ["happyhorse.submit", "happyhorse.wait", "happyhorse.download"]
    assert "error.type" not in said(root)


async def test_a_task_from_elsewhere_is_waited_for_below_its_caller(
    sandbox: Sandbox, session: Session, traces: Traces
) -> None:
    """A task that another process submitted has a wait of its own, where its caller is."""
    task_id = (await session.submit(LINK)).id
    async with open_session(sandbox) as other:
        instrument(other, tracer_provider=traces.provider)
        with traces.tracer.start_as_current_span("mine"):
            waiting = asyncio.create_task(other.task(task_id).wait())
            while not traces.named("happyhorse.read"):
                await asyncio.sleep(0)
            sandbox.finish()
            await waiting
    (wait,) = traces.below(traces.only("mine"))
    assert wait.name == "happyhorse.wait"
    assert dict(wait.events[-1].attributes or {})["happyhorse.status"] == "completed"


async def test_the_sessions_end_ends_all_spans(session: Session, traces: Traces) -> None:
    """What nobody waits for any more is exported when the session closes, and not lost."""
    instrument(session, tracer_provider=traces.provider)
    task = await session.submit(LINK)
    assert not traces.named("generate_content")
    await session.aclose()
    assert said(traces.only("generate_content"))["gen_ai.response.id"] == task.id
    assert traces.only("happyhorse.wait").end_time


async def test_only_so_many_generations_are_remembered(
    session: Session, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that submits for days and never waits ends the oldest spans, and keeps few."""
    monkeypatch.setattr(_spans, "MOST_KNOWN", 2)
    instrument(session, tracer_provider=traces.provider)
    tasks = [await session.submit(LINK, seed=seed) for seed in range(1, 5)]
    ended = [said(span)["gen_ai.response.id"] for span in traces.named("generate_content")]
    assert ended == [task.id for task in tasks[:2]]


async def test_a_batchs_jobs_are_generations_like_all_others(
    sandbox: Sandbox, session: Session, traces: Traces, cat: Path, tmp_path: Path
) -> None:
    """Every job of a batch is one span with its parts, uploads included."""
    instrument(session, tracer_provider=traces.provider)
    sandbox.speed = 1000
    requests = [ImageToVideo(image=cat, seed=seed) for seed in (1, 2)]
    async with session.batch(tmp_path) as batch:
        outcomes = [outcome async for outcome in batch.run(requests)]
    assert all(outcome.ok for outcome in outcomes)
    roots = traces.named("generate_content")
    assert sorted(int(str(said(root)["gen_ai.request.seed"])) for root in roots) == [1, 2]
    for root in roots:
        names = {span.name for span in traces.below(root)}
        assert names >= {"happyhorse.submit", "happyhorse.wait", "happyhorse.download"}
    assert len(traces.named("happyhorse.upload")) == 1


async def test_nothing_is_traced_after_the_instrument_was_taken_off(
    session: Session, traces: Traces
) -> None:
    """The returned function ends all of it, also spans that are open."""
    stop = instrument(session, tracer_provider=traces.provider)
    await session.submit(LINK)
    stop()
    before = len(traces.all)
    await session.submit(LINK)
    assert len(traces.all) == before
    assert traces.only("generate_content").end_time


async def test_two_tracings_of_a_session_are_both_whole(
    sandbox: Sandbox, session: Session, traces: Traces, tmp_path: Path
) -> None:
    """Each has every span, and the caller's context is as it was before: no span is left in it."""
    other = Traces()
    instrument(session, tracer_provider=traces.provider)
    instrument(session, tracer_provider=other.provider)
    sandbox.speed = 1000
    with traces.tracer.start_as_current_span("a user's request") as request:
        await session.generate(LINK, save_to=tmp_path / "a.mp4")
        assert trace.get_current_span() is request
    assert {span.name for span in other.all} == {span.name for span in traces.all} - {
        "a user's request"
    }
    assert len(other.named("generate_content")) == len(traces.named("generate_content")) == 1


async def test_a_processor_that_raises_leaves_no_span_open(
    sandbox: Sandbox, session: Session, traces: Traces, cat: Path
) -> None:
    """Nor one in the caller's context. The SDK lets its errors through. What comes later must not
    look like a part of this work, and what has begun ends, also at the end of the session.
    """
    begun = list[Span]()

    class Broken(SpanProcessor):
        def on_start(self, span: Span, parent_context: object = None) -> None:
            begun.append(span)

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("a broken processor")

    traces.provider.add_span_processor(Broken())
    instrument(session, tracer_provider=traces.provider)
    before = trace.get_current_span()
    await session.upload(cat)
    for seed in (1, 2):
        task = await session.submit(LINK, seed=seed)
        waiting = asyncio.ensure_future(task.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert traces.only("happyhorse.upload")
    assert trace.get_current_span() is before
    await session.aclose()
    assert len(begun) > 6
    assert not [span.name for span in begun if span.end_time is None]


async def test_a_generation_that_a_listener_starts_is_one_of_its_own(
    sandbox: Sandbox, session: Session, traces: Traces, tmp_path: Path
) -> None:
    """It begins in the context of the other one, and has neither its key, nor its tag, nor a part
    in its span.
    """
    instrument(session, tracer_provider=traces.provider)
    sandbox.speed = 1000
    began, second = list[Began](), list[asyncio.Task[Video]]()

    def start(event: Event) -> None:
        if not second:
            making = session.generate(LINK, seed=2, save_to=tmp_path / "b.mp4")
            second.append(asyncio.ensure_future(making))

    session.subscribe(began.append, Began)
    session.subscribe(start, Submitted)
    await session.generate(LINK, seed=1, save_to=tmp_path / "a.mp4", tag="first")
    await second[0]
    assert len(traces.named("generate_content")) == 2
    generations = [one for one in began if one.work == "generate" and type(one) is Began]
    assert [(one.tag, one.idempotency_key is None) for one in generations] == [
        ("first", True),
        ("first", False),
        (None, True),
        (None, False),
    ]


async def test_who_stops_listening_leaves_no_span_open(
    sandbox: Sandbox, session: Session, traces: Traces
) -> None:
    """An exporter is told of ended spans alone. So a wait that goes on is ended as well, and not
    only the generations.
    """
    stop = instrument(session, tracer_provider=traces.provider)
    accepted = await session.submit(LINK)
    async with open_session(sandbox) as other:
        stop_other = instrument(other, tracer_provider=traces.provider)
        waiting = asyncio.ensure_future(other.task(accepted.id).wait())
        while not sandbox.count("GET", f"/v1/tasks/{accepted.id}"):
            await asyncio.sleep(0)
        assert not traces.named("happyhorse.wait")
        stop_other()
        assert traces.only("happyhorse.wait")
        sandbox.finish()
        await waiting
    stop()
    assert len(traces.named("happyhorse.wait")) == 2
    assert len(traces.named("generate_content")) == 1
