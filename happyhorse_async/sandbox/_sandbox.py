"""`Sandbox`: the service on this machine, as tests and commands hold it in their hands."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ._accounts import Account
from ._clock import Clock
from ._features import Features
from ._handlers import api, control, files
from ._http import Router
from ._server import Front, Listener, bind, url_of
from ._service import Options, Service
from ._videos import choose_video
from ._world import Ending, Lifetimes, usual_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal
    from types import TracebackType

    from ._accounts import Entry
    from ._callbacks import CallbackRecord
    from ._faults import Fault
    from ._service import RequestRecord, Service
    from ._world import TaskRecord

__all__ = ["Sandbox"]

_T = TypeVar("_T")


class Sandbox:
    """The service on a loopback port: `async with Sandbox() as sandbox`.

    A plain `with` runs it in a thread of its own, which suits tests that are not async. Every
    attribute and method can be used from any thread.

    Args:
        video: "real" renders with PyAV, "stub" sends a small flat MP4, "auto" renders when PyAV and Pillow are installed.
        speed: sandbox seconds per real second; 0: time stands still until `advance`.
        task_seconds: the life of every task in sandbox seconds; None: a realistic distribution.
        accounts: the customers; by default one with `credits`, `file_quota` and `rate_limit`, whose key is `key`.
        features: what the server offers beyond the service's reference.
        rate_limit: submissions a real second and key; None: no limit.
        link_seconds: the life of result links, `file_seconds` that of uploads, both in sandbox seconds.
        expired_link: the status of a dead result link; 403, 404, 410, or 200 with a page.
        allow_loopback: whether callbacks and image URLs may be on loopback addresses, and callbacks on plain http there;
            other private addresses are never accepted.
        callback_timeout: real seconds that a receiver of callbacks has.
        stub_bytes: the least size of a stub video, for tests of long downloads.
        control: whether other processes may steer the sandbox through `/sandbox/...`.
        seed: of everything random here.
        start: the sandbox's Unix time at the beginning; None: the real time.
        host: the address to listen on, `port` and `files_port` the two ports; 0: any free one.
    """

    _service: Service | None = None
    _listeners: tuple[Listener, ...] = ()
    _urls = ("", "")
    _home: tuple[asyncio.AbstractEventLoop, int] | None = None
    """The event loop and the thread in which the sandbox runs; None when it does not."""
    _thread: SandboxThread | None = None

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
        control: bool = True,
        credits: float = 1_000_000,  # noqa: A002  # the service's word, and callers read it as such
        file_quota: int = 2000,
        seed: int = 0,
        start: float | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        files_port: int = 0,
    ) -> None:
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
            control=control,
            seed=seed,
        )
        self._clock = Clock(
            start=time.time() if start is None else start, speed=speed, real=time.monotonic
        )
        self._address = host, port, files_port

    async def __aenter__(self) -> Self:
        host, port, files_port = self._address
        sockets = bind(host, port, files_port)
        self._urls = url_of(sockets[0]), url_of(sockets[1])
        self._service = service = Service(
            self._options, self._clock, url=self.url, files_url=self.files_url
        )
        self._home = asyncio.get_running_loop(), threading.get_ident()
        steering = control.ROUTES if self._options.control else ()
        routes = Router((*api.ROUTES, *api.MONEY_ROUTES, *api.PAGE_ROUTES, *steering))
        other = Router((*files.ROUTES, *files.RESULT_ROUTES, *api.FILES_PAGE_ROUTES))
        self._listeners = (
            Listener(sockets[0], Front(service, routes, "api")),
            Listener(sockets[1], Front(service, other, "files")),
        )
        for listener in self._listeners:
            await listener.start()
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
        self._thread = SandboxThread(self)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.stop()

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
        """Move the sandbox's clock forward: tasks go on, links and files die, callbacks fall due."""
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
        ending = Ending(status, error_code or usual_code(status), message, refund)
        self._do(lambda service: service.end(task_id, ending))

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
        return run_in_loop(self._home[0], lambda: action(service))


# --- A task as a test looks at it: live, so that an assertion after `advance` sees the new state.


class SandboxTask:
    """One accepted task; every attribute shows the state at the moment when it is read."""

    def __init__(self, record: TaskRecord, do: Callable[[Callable[[Service], Any]], Any]) -> None:
        self._record = record
        self._do = do

    def __repr__(self) -> str:
        return f"SandboxTask(id={self.id!r}, status={self.status!r}, progress={self.progress})"

    @property
    def id(self) -> str:
        """Return the task's id."""
        return self._record.id

    @property
    def status(self) -> str:
        """Return the status that a query shows."""
        status: str = self._do(
            lambda service: service.views.status(self._record, service.catch_up())
        )
        return status

    @property
    def progress(self) -> int:
        """Return the progress, 0 to 100."""
        progress: int = self._do(lambda service: self._record.progress_at(service.catch_up()))
        return progress

    @property
    def request(self) -> dict[str, Any]:
        """Return the submitted body."""
        return self._record.submission.body

    @property
    def created(self) -> float:
        """Return the sandbox time of acceptance."""
        return self._record.created

    @property
    def results(self) -> list[str]:
        """Return the present result links; none before completion."""
        link: str | None = self._do(
            lambda service: service.catch_up() and service.views.link(self._record)
        )
        return [link] if link else []

    @property
    def error(self) -> dict[str, Any] | None:
        """Return the error that a query shows."""
        self._do(lambda service: service.catch_up())
        return self._record.error()

    @property
    def idempotency_key(self) -> str | None:
        """Return the key that the task was submitted with."""
        return self._record.idempotency_key

    @property
    def charged(self) -> Decimal:
        """Return the credits that were settled: zero before the end and after a refund."""
        self._do(lambda service: service.catch_up())
        return self._record.charge.charged

    @property
    def reserved(self) -> Decimal:
        """Return the credits that were reserved on acceptance."""
        return self._record.charge.reserved


# --- A sandbox in a thread of its own, so that tests of every kind can use one.


def run_in_loop(loop: asyncio.AbstractEventLoop, action: Callable[[], _T]) -> _T:
    """Run a function in another thread's event loop and return, or raise, what it does."""
    outcome: Future[_T] = Future()

    def _run() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # noqa: BLE001  # it belongs to the caller in the other thread
            outcome.set_exception(error)

    loop.call_soon_threadsafe(_run)
    return outcome.result()


class SandboxThread:
    """Keeps something open in an event loop of its own until it is stopped."""

    def __init__(self, opened: AbstractAsyncContextManager[Any]) -> None:
        self._opened = opened
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="happyhorse-sandbox", daemon=True)

    def start(self) -> None:
        """Return when it is open; raises what opening it raises."""
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """Return when it is closed."""
        loop, leave = self._ready.result()
        loop.call_soon_threadsafe(leave.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._stay())

    async def _stay(self) -> None:
        leave = asyncio.Event()
        try:
            await self._opened.__aenter__()
        except BaseException as error:  # noqa: BLE001  # it belongs to the caller of `start`
            self._ready.set_exception(error)
            return
        self._ready.set_result((asyncio.get_running_loop(), leave))
        await leave.wait()
        await self._opened.__aexit__(None, None, None)
