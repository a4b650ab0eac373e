"""`Sandbox`: the service on this machine, as tests and commands hold it in their hands."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeVar
from urllib.parse import urlsplit

from ._accounts import Account
from ._clock import Clock
from ._features import Features
from ._handlers import api, control, files
from ._http import Router
from ._server import Front, Listener, bind, url_of
from ._service import Options, SandboxTask, Service
from ._videos import choose_video
from ._world import Lifetimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    import aiohttp

    from ._accounts import Entry
    from ._callbacks import CallbackRecord
    from ._faults import Fault
    from ._service import RequestRecord

_T = TypeVar("_T")


class Sandbox:
    """The service on a loopback port: `async with Sandbox() as sandbox`.

    A plain `with` runs it in a thread of its own, which suits tests that are not async. Every
    attribute and method can be used from any thread.

    Args:
        video: "real" renders with PyAV, "stub" sends a small flat MP4. "auto" renders when PyAV and
        Pillow are installed.
        speed: sandbox seconds per real second; 0: time stands still until `advance`.
        task_seconds: the life of every task in sandbox seconds; None: a realistic distribution.
        accounts: the customers; by default one with `credits`, `file_quota` and `rate_limit`, whose
            key is `key`.
        features: what the server offers beyond the service's reference.
        rate_limit: submissions a real second and key; None: no limit.
        link_seconds: the life of result links, `file_seconds` that of uploads, both in sandbox
            seconds.
        expired_link: the status of a dead result link; 403, 404, 410, or 200 with a page.
        allow_loopback: whether callbacks and image URLs may be on loopback addresses, and callbacks
        on plain http there. Other private addresses are never accepted.
        callback_timeout: real seconds that a receiver of callbacks has.
        stub_bytes: the least size of a stub video, for tests of long downloads.
        control: whether other processes may steer the sandbox through `/sandbox/...`; None: only
            when it listens on loopback.
        hosts: names under which the page and the control paths may be called, beside loopback ones
            and addresses.
        seed: of everything random here.
        start: the sandbox's Unix time at the beginning; None: the real time.
        real: the clock that `speed` multiplies; None: the steady clock of this machine. Another one
            makes time virtual.
        host: the address to listen on; None: no socket at all, see `protocol`.
        port: the port of the API; 0: any free one. `files_port` is that of the file service.
        connector: makes what callbacks and fetched image URLs go out through; None: sockets.
    """

    _service: Service | None = None
    _listeners: tuple[Listener, ...] = ()
    _urls = ("http://api.sandbox.test", "http://files.sandbox.test")
    _home: tuple[asyncio.AbstractEventLoop, int] | None = None
    """The event loop and the thread in which the sandbox runs; None when it does not."""
    _thread: ExitStack | None = None

    def __init__(
        self,
        *,
        video: str = "auto",
        speed: float = 1.0,
        task_seconds: float | None = None,
        accounts: Iterable[Account] | None = None,
        features: Features | None = None,
        rate_limit: float | None = None,
        link_seconds: float = 86_400,
        file_seconds: float = 259_200,
        expired_link: int = 403,
        allow_loopback: bool = True,
        callback_timeout: float = 10.0,
        stub_bytes: int = 0,
        control: bool | None = None,
        hosts: Iterable[str] = (),
        credits: float = 1_000_000,  # noqa: A002  # the service's word, and callers read it as such
        file_quota: int = 2000,
        seed: int = 0,
        start: float | None = None,
        real: Callable[[], float] | None = None,
        host: str | None = "127.0.0.1",
        port: int = 0,
        files_port: int = 0,
        connector: Callable[[], aiohttp.BaseConnector] | None = None,
    ) -> None:
        _require_numbers(
            task_seconds=task_seconds,
            rate_limit=rate_limit,
            link_seconds=link_seconds,
            file_seconds=file_seconds,
            callback_timeout=callback_timeout,
            stub_bytes=stub_bytes,
            file_quota=file_quota,
            start=start,
        )
        if isinstance(hosts, str):  # else each of its letters would be a name
            hosts = (hosts,)
        default = Account(
            key=f"sk-sandbox-{seed:08d}",
            credits=str(credits),
            file_quota=file_quota,
            rate_limit=rate_limit,
        )
        self._options = Options(
            accounts=tuple(accounts) if accounts is not None else (default,),
            features=features or Features(),
            video=choose_video(video),
            stub_bytes=stub_bytes,
            lifetimes=Lifetimes(task=task_seconds, link=link_seconds, file=file_seconds),
            expired_link=expired_link,
            allow_loopback=allow_loopback,
            callback_timeout=callback_timeout,
            control=_is_loopback(host) if control is None else control,
            hosts=frozenset(name.lower() for name in hosts),
            connector=connector,
            seed=seed,
        )
        self._clock = Clock(
            start=time.time() if start is None else start, speed=speed, real=real or time.monotonic
        )
        self._host, self._ports = host, (port, files_port)

    async def __aenter__(self) -> Self:
        sockets = [] if self._host is None else bind(self._host, *self._ports)
        if sockets:
            self._urls = url_of(sockets[0]), url_of(sockets[1])
        self._service = service = Service(
            self._options, self._clock, url=self.url, files_url=self.files_url
        )
        self._home = asyncio.get_running_loop(), threading.get_ident()
        steering = control.ROUTES if self._options.control else ()
        routes = Router((*api.ROUTES, *control.PAGES, *steering))
        other = Router((*files.ROUTES, control.DOCUMENT))
        self._listeners = (
            Listener(Front(service, routes, "api")),
            Listener(Front(service, other, "files")),
        )
        for listener, bound in zip(self._listeners, sockets, strict=False):
            await listener.listen(bound)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and end all background work; what the sandbox has seen stays readable."""
        if self._service is None or self._service.closing.is_set():
            return
        self._service.closing.set()
        for listener in self._listeners:
            await listener.stop()
        await self._service.close()
        self._home = None

    def __enter__(self) -> Self:
        from anyio.from_thread import start_blocking_portal  # only threads need it

        with ExitStack() as thread:
            portal = thread.enter_context(start_blocking_portal())
            thread.enter_context(portal.wrap_async_context_manager(self))
            self._thread = thread.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.close()

    def protocol(self, service: Literal["api", "files"] = "api") -> asyncio.Protocol:
        """Return the server's end of a new connection, for a transport of your own.

        Give it to `connection_made` of an in-memory transport whose other end is a client's. It
        works beside sockets, and with `host=None` instead of them. Only in the sandbox's own loop.
        """
        return self._listeners[service == "files"].protocol()

    def connect(self, url: str) -> asyncio.Protocol:
        """Return `protocol` of the service that has a URL; raises `ConnectionRefusedError`."""
        asked = urlsplit(url)
        for listener, own in zip(self._listeners, map(urlsplit, self._urls), strict=True):
            if (asked.hostname, asked.port) == (own.hostname, own.port):
                return listener.protocol()
        raise ConnectionRefusedError(f"nothing of the sandbox listens at {url}")

    @property
    def photo(self) -> Path:
        """The path of a photograph that the service takes, for a first try."""
        return Path(__file__).parent / "photos" / "cat.jpg"

    @property
    def url(self) -> str:
        """Return the API's base URL, without a slash at the end."""
        return self._urls[0]

    @property
    def files_url(self) -> str:
        """Return the file service's base URL, without a slash at the end."""
        return self._urls[1]

    @property
    def key(self) -> str:
        """Return the API key of the first account."""
        return self._options.accounts[0].key

    def env(self) -> dict[str, str]:
        """Return the environment variables that point a client at this sandbox."""
        return {
            "EVOLINK_API_KEY": self.key,
            "EVOLINK_BASE_URL": self.url,
            "EVOLINK_FILES_BASE_URL": self.files_url,
        }

    @property
    def now(self) -> float:
        """Return the sandbox's Unix time in seconds."""
        return self._clock.now()

    @property
    def speed(self) -> float:
        """Sandbox seconds per real second; it can be set while the sandbox runs."""
        return self._clock.speed

    @speed.setter
    def speed(self, speed: float) -> None:
        """Change how fast the clock runs."""
        self._do(lambda service: service.set_speed(speed))

    @property
    def paid(self) -> int:
        """Return how many tasks were accepted and charged; replays of an idempotency key do not
        count again.
        """
        return self._do(lambda service: len(service.world.tasks))

    @property
    def refunded(self) -> int:
        """Return how many of the paid tasks were refunded since."""
        return self._do(lambda service: service.world.refunded)

    @property
    def ledger(self) -> list[Entry]:
        """Return every reservation, settlement and refund, in order."""
        return self._do(lambda service: list(service.world.ledger))

    @property
    def tasks(self) -> list[SandboxTask]:
        """Return the accepted tasks in order of acceptance; each shows its present state whenever
        it is read.
        """
        return self._do(
            lambda service: [
                SandboxTask(record, self._do) for record in service.world.tasks.values()
            ]
        )

    def task(self, task_id: str) -> SandboxTask:
        """Return one task; raises `KeyError` when there is none."""
        return self._do(lambda service: SandboxTask(service.world.tasks[task_id], self._do))

    @property
    def requests(self) -> list[RequestRecord]:
        """Return the requests that arrived, in order; the sandbox's own pages and control calls are
        left out.
        """
        return self._do(lambda service: service.journal.all())

    def count(self, method: str | None = None, path: str | None = None) -> int:
        """Return how many requests arrived with this method and exactly this path."""
        return self._do(lambda service: service.journal.count(method, path))

    def watch_requests(self, listener: Callable[[RequestRecord], None] | None) -> None:
        """Call this with every request once its answer is decided; None ends it."""

        def change(service: Service) -> None:
            service.journal.on_answer = listener

        self._do(change)

    @property
    def callbacks(self) -> list[CallbackRecord]:
        """Return every try of every callback whose outcome is known, in order."""
        return self._do(lambda service: list(service.callbacks.records))

    def advance(self, seconds: float) -> None:
        """Move the sandbox's clock forward: tasks go on, links and files die,
        callbacks fall due.
        """
        self._do(lambda service: service.advance(seconds))

    def finish(self, task_id: str | None = None) -> None:
        """Let one task, or all that are unfinished, come to their end now: completed unless
        something made them fail.
        """
        self._do(lambda service: service.finish(task_id))

    def end(
        self,
        task_id: str,
        status: str,
        *,
        error_code: str | None = None,
        message: str | None = None,
        refund: bool = True,
    ) -> None:
        """End a task with a final status now; any other status, known or not, is shown from now on.

        Without a code a failed task has `unknown_error`, a cancelled one `request_cancelled`.
        `refund=False` keeps the charge of a failed task. Raises `KeyError` and, when the task has
        ended, `ValueError`.
        """
        self._do(lambda service: service.end(task_id, status, error_code, message, refund=refund))

    def scenario(self, name: str) -> None:
        """Add the faults of a scenario; raises `ValueError` when there is none of that name."""
        self._do(lambda service: service.add_scenario(name))

    def fail(self, fault: Fault, /) -> Fault:
        """Add a fault, which is returned."""
        return self._do(lambda service: service.faults.add(fault))

    def clear_faults(self) -> None:
        """Forget all faults, of scenarios too."""
        self._do(lambda service: service.faults.clear())

    def fired(self, fault: Fault) -> int:
        """Return how many requests or callbacks have suffered a fault."""
        return self._do(lambda service: service.faults.fired(fault))

    def _do(self, action: Callable[[Service], _T]) -> _T:
        """Run an action where the sandbox lives: here, or in the thread of its event loop."""
        service = self._service
        if service is None:
            raise RuntimeError("the sandbox is not running: use `async with Sandbox() as sandbox`")
        if self._home is None or self._home[1] == threading.get_ident():
            return action(service)

        async def _there() -> _T:
            return action(service)

        return asyncio.run_coroutine_threadsafe(_there(), self._home[0]).result()


def _is_loopback(host: str | None) -> bool:
    return host in (None, "localhost", "::1") or str(host).startswith("127.")


def _require_numbers(**values: object) -> None:
    """Raise `ValueError` for what is no number: it would be an error of the service, much later."""
    for name, value in values.items():
        is_one = value is None or (isinstance(value, (int, float)) and value >= 0)
        if not is_one or isinstance(value, bool):
            raise ValueError(f"{name} is a number that is not negative, not {value!r:.100}")
