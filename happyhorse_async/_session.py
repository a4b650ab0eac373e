"""Session: builds the parts, opens and closes them, and forwards the verbs. The only composition
root.

Imports nothing heavy: aiohttp, anyio and cattrs are loaded once an open session needs them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack, overload

import attrs

from ._config import Budget, Limits, Network, Polling, RetryPolicy, Timeouts, time_limit
from ._dispatcher import on_behalf_of
from ._formats.texts import shown
from ._models import TASK_ID
from ._request import (
    ImageLike,
    ImageToVideo,
    RequestFields,
    made_path,
    made_request,
    made_requests,
    require_count,
    require_path,
    require_several,
    require_word,
)
from ._settings import Settings
from ._tasks import FoundTasks, TaskHandle, handle_of
from .errors import HappyHorseError, InvalidRequestError, SessionClosedError

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp
    from rich.console import Console

    from ._account import Credits, Estimate, TaskPage, UploadedFile
    from ._downloader import Leftover
    from ._models import Task
    from ._parts import Parts
    from ._poller import Watch
    from ._progress import Progress
    from ._submissions import Submissions
    from ._submitter import Orphan
    from ._video import Video
    from .batch._batch import Batch
    from .events import Event

    E1 = TypeVar("E1", bound=Event)
    E2 = TypeVar("E2", bound=Event)
    E3 = TypeVar("E3", bound=Event)


class Session:
    """The way to the service: pooled connections, one submitter, one poller, one downloader.

    `api_key` defaults to EVOLINK_API_KEY. Without any, `estimate` and `problems` work, and every
    verb that needs a key raises `ConfigurationError` before anything is sent. `base_url` defaults
    to EVOLINK_BASE_URL or the service's host, `files_url` to EVOLINK_FILES_BASE_URL or the
    service's file host. The policies are frozen values with sensible defaults. `http` is an
    `aiohttp.ClientSession` to borrow for API calls. It is used and not closed, and goes its own way
    past `network`. Downloads never go through it, because result links are followed under stricter
    rules. `public_url` is where the service can call back, see `webhook_url`.

    Use it with `async with`, or let the first call open it and close it with `aclose()`. All tasks
    of the event loop that opened it may share it. In another loop its verbs, handles and watches
    raise `WrongEventLoopError`. Raises `ConfigurationError` at once for wrong settings.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        files_url: str | None = None,
        limits: Limits = Limits(),  # noqa: B008 frozen values are safe as defaults, and show themselves in the signature
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008
        polling: Polling = Polling(),  # noqa: B008
        network: Network = Network(),  # noqa: B008
        budget: Budget | None = None,
        http: aiohttp.ClientSession | None = None,
        public_url: str | None = None,
    ) -> None:
        self._parts: Parts | None = None
        self._orphans: list[Orphan] = []
        self._closed = False
        self._settings = Settings.resolve(
            api_key,
            base_url=base_url,
            files_url=files_url,
            limits=limits,
            timeouts=timeouts,
            retry=retry,
            polling=polling,
            network=network,
            budget=budget,
            http=http,
            public_url=public_url,
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._parts is not None else "not opened"
        return f"<Session {self._settings.base_url} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Session cannot be pickled or copied: make one in each process and event loop, "
            "and pass task ids to it"
        )

    # --- life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._open(public=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _open(self, *, public: bool = False) -> Parts:
        """Return the parts, built on first use; what is not public needs a key."""
        if not public:
            self._settings.require_key()
        if self._closed:
            raise SessionClosedError(
                "this session is closed; make a new one", next_step="Open a new Session."
            )
        if self._parts is None:
            from ._parts import Parts

            self._parts = Parts(self._settings)
            self._orphans = self._parts.submitter.orphans
        else:
            self._parts.here()
        return self._parts

    async def aclose(self) -> None:
        """Close the session: background work ends, and all who wait get `SessionClosedError`.

        May be called twice, from any task and any event loop, also when the session's own has
        ended.
        """
        parts, self._parts, self._closed = self._parts, None, True
        if parts is not None:
            await parts.aclose()

    def __del__(self) -> None:
        if getattr(self, "_parts", None) is not None:
            warnings.warn(
                f"{self!r} was never closed: use `async with`, or await aclose()",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )

    # --- submitting -------------------------------------------------------------------------------

    async def submit(
        self,
        request: ImageToVideo | ImageLike,
        *,
        idempotency_key: str | None = None,
        tag: Any = None,
        **fields: Unpack[RequestFields],
    ) -> TaskHandle:
        """Submit one request, which costs money, and return the handle of its task.

        `request` is an `ImageToVideo`, or an image with the request's fields as keywords. A local
        image is checked and uploaded first. `idempotency_key` is 16 to 96 characters of
        A-Za-z0-9._-; by default a new one is made. `tag` is anything of your own. It is not sent,
        and every event of this submission and its task carries it. Raises `InvalidRequestError`
        before anything is sent; every other error says with `.charged` whether money was spent.
        """
        parts = self._open()
        if (turn := parts.submitter.turn()) is not None:
            await turn
        checked = await self._checked(parts, request, fields, idempotency_key)
        return await self._submit(parts, checked, idempotency_key, tag)

    def submit_many(
        self,
        requests: Iterable[ImageToVideo] | AsyncIterable[ImageToVideo],
        *,
        ordered: bool = False,
    ) -> Submissions:
        """Submit many requests at once; an async context manager that yields each `Submission` as
        it is decided.

        One bad request is one failed submission, not an exception. The input is read only as fast
        as it can be submitted. With `ordered` the submissions come in the input's order. Leaving
        early stops submitting; what has left by then is finished and kept in `orphans` unless it
        was yielded. Raises `InvalidRequestError` for one request instead of several.
        """
        from ._submissions import Submissions

        require_several("requests", requests)
        return Submissions(self._open(), requests, ordered=ordered)

    @property
    def orphans(self) -> list[Orphan]:
        """Submissions that were accepted, or may have been, after their caller was cancelled."""
        return self._orphans

    # --- tasks ------------------------------------------------------------------------------------

    def task(self, task_id: str, *, tag: Any = None) -> TaskHandle:
        """Re-attach to a task by its id, from this process or another one; nothing is sent.

        The events of the task carry `tag`, as with `submit`.
        """
        return TaskHandle(self._open(), _task_id(task_id), tag=tag)

    def watch(self, tasks: Iterable[TaskHandle | str], *, timeout: float | None = None) -> Watch:
        """Merge the updates of many tasks. It is an async context manager that yields a `Task` at
        each change, and ends when all have ended. Raises `InvalidRequestError` for what is neither
        a handle nor an id.
        """
        require_several("tasks", tasks, asynchronous=False)
        ids = [task.id if isinstance(task, TaskHandle) else self.task(task).id for task in tasks]
        return self._open().poller.watch(ids, timeout=time_limit(timeout))

    def find_tasks(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        page: int = 1,
        page_size: int = 50,
    ) -> FoundTasks:
        """Read the account's tasks, newest first: `await` gives one page, `async for` all of them.

        `async for` begins with `page` and reads further pages as they are needed. Of a task that
        moves to the next page meanwhile, it tells once. `status` is "processing" (queued ones
        included), "completed", "failed" or "cancelled"; `page_size` at most 50. Seen in the
        vendor's clients, not promised: a server without it gives `NotFoundError`. Raises
        `InvalidRequestError` at once for a number or a text that is none.
        """
        require_word("status", status)
        require_word("model", model)
        require_count("page", page, 1)
        require_count("page_size", page_size, 1, 50)

        async def read(number: int) -> TaskPage:
            return await self._open().api.list_tasks(
                status=status, model=model, page=number, page_size=page_size
            )

        return FoundTasks(read, page)

    # --- all in one -------------------------------------------------------------------------------

    async def generate(
        self,
        request: ImageToVideo | ImageLike,
        *,
        save_to: str | os.PathLike[str] = "",
        overwrite: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        tag: Any = None,
        **fields: Unpack[RequestFields],
    ) -> Video:
        """Turn one image into one saved video: submit, wait, download.

        Takes what `submit` and `TaskHandle.download` take, and raises what they raise. `timeout`
        (seconds) bounds the wait. When it is cancelled, or ends with an error that is none of this
        package's, the task goes on, and is in `orphans`.
        """
        parts = self._open()
        timeout = time_limit(timeout, paid=True)
        base = require_path("save_to", save_to)
        if (turn := parts.submitter.turn()) is not None:
            await turn
        checked = await self._checked(parts, request, fields, idempotency_key)
        reserved = parts.downloader.reserved(save_to, checked, base=base, overwrite=overwrite)
        async with reserved as place:
            # A listener may have started this in the context of another generation.
            caller = on_behalf_of(idempotency_key, tag)
            with caller, parts.events.work("generate", request=checked):
                task = await self._submit(parts, checked, idempotency_key, tag)
                try:
                    return await task.download(place, overwrite=overwrite, timeout=timeout)
                except BaseException as error:
                    # Its caller never saw the task's id, which errors of ours name.
                    if isinstance(error, SessionClosedError):
                        error.with_facts(charged="yes")
                    elif isinstance(error, HappyHorseError):
                        raise
                    parts.submitter.orphan(task.request, task.idempotency_key, task.id)
                    raise

    async def _checked(
        self, parts: Parts, request: Any, fields: Mapping[str, Any], key: str | None
    ) -> ImageToVideo:
        try:
            return made_request(request, fields)
        except InvalidRequestError as error:
            problems: Iterable[str] = error.problems
        # The file is looked at as well, so that one error names everything that is wrong.
        problems = dict.fromkeys((*problems, *await parts.uploader.problems(request)))
        raise InvalidRequestError([*problems]).with_facts(idempotency_key=key)

    async def _submit(
        self, parts: Parts, checked: ImageToVideo, key: str | None, tag: Any
    ) -> TaskHandle:
        drawn = key is None
        key = key if key is not None else parts.submitter.new_key()
        submitting = parts.submitter.submit(checked, idempotency_key=key, drawn=drawn)
        if tag is None and not parts.events:  # nobody is told anything
            return handle_of(parts, await submitting)
        with on_behalf_of(key, tag):
            accepted = await submitting
        return handle_of(parts, accepted, tag=tag)

    # --- batches ----------------------------------------------------------------------------------

    def batch(
        self,
        folder: str | os.PathLike[str],
        *,
        max_in_flight: int = 200,
        budget: Budget | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        verify: bool = False,
        wait_for_reset: bool = True,
        out: str | None = None,
    ) -> Batch:
        """Open a durable batch in a folder; an async context manager whose `run(requests)` yields
        each job's `Outcome`.

        The folder gets the videos and a ledger. Running the same input again goes on where it
        stopped, whatever ended the process. `max_in_flight` bounds the tasks that are being made at
        once. `budget` bounds what the folder's jobs may cost together, over all runs. `retry` says
        how often and how slowly a job is tried again; `timeout` (seconds) bounds a run's wait for
        one task. A run checks that the saved videos are still here. It fetches missing ones again
        while their links live. With `verify` it reads them all. When the key's daily limit is used
        up, a run waits until it resets; with `wait_for_reset=False` it stops instead. `out` is an
        object store's link such as "s3://bucket/prefix". The videos go there, and only the ledger
        into the folder. The store is asked for its rights before anything is paid. Opening raises
        `LedgerError` when the ledger is damaged or another process works on the folder. It also
        does when jobs of another account are unfinished in it.
        """
        from .batch._batch import Batch
        from .batch._follow import BatchOptions

        require_path("folder", folder)
        parts, settings = self._open(), self._settings
        settings.require_key()
        options = BatchOptions(
            max_in_flight=max_in_flight,
            budget=budget,
            timeout=time_limit(timeout, paid=True),
            verify=verify,
            wait_for_reset=wait_for_reset,
        )
        return Batch(
            parts,
            folder,
            options if retry is None else attrs.evolve(options, retry=retry),
            # A sandbox comes back on another port, and is the same one to the user.
            service="a service on this machine" if settings.on_loopback else settings.base_url,
            out=out,
        )

    # --- money and files --------------------------------------------------------------------------

    async def estimate(
        self,
        requests: ImageToVideo | ImageLike | Iterable[ImageToVideo | ImageLike],
        **fields: Unpack[RequestFields],
    ) -> Estimate:
        """Say what one or more requests will cost together; nothing is spent and no image is read.

        Takes what `submit` takes, or several of those, and the fields are for each image. With a
        key the account's own price is asked for, discounts included. Without one, or where the
        service does not tell it, the public price counts: `Estimate.scope` says which. The public
        price follows the service's live pricing rule, or the bundled one when that cannot be had.
        Raises `PriceUnavailableError` when the rule is not understood.
        """
        pricing = self._open(public=True).pricing
        return await pricing.estimate(made_requests(requests, fields))

    async def credits(self) -> Credits:
        """Read what is left in the account and in the key."""
        return await self._open().api.credits()

    async def models(self) -> tuple[str, ...]:
        """List the ids of the models that the key may use.

        Seen in the vendor's clients, not promised: a server without it gives `NotFoundError`.
        """
        return await self._open().api.models()

    async def upload(self, image: str | os.PathLike[str] | bytes) -> UploadedFile:
        """Check a first frame and put it on the service's file host, where it is public and lives
        72 hours. The same content is the same file.
        """
        return await self._open().uploader.upload(image)

    async def problems(
        self, request: ImageToVideo | ImageLike, **fields: Unpack[RequestFields]
    ) -> list[str]:
        """List everything that is wrong with a request, a local image's content included; nothing
        is sent, and [] means fine.
        """
        uploader, found = self._open(public=True).uploader, list[str]()
        try:
            request = made_request(request, fields).image
            found += filter(None, [self._settings.frame_problem(request)])
        except InvalidRequestError as error:
            found += error.problems
        return list(dict.fromkeys([*found, *await uploader.problems(request)]))

    async def leftovers(self, folder: str | os.PathLike[str]) -> list[Leftover]:
        """Find the downloads that were interrupted in a folder:
        `task(left.task_id).download(left.path)` finishes one.
        """
        where = made_path("folder", folder)
        return await self._open(public=True).downloader.leftovers(where)

    # --- listening --------------------------------------------------------------------------------

    @overload
    def subscribe(self, listener: Callable[[Event], object]) -> Callable[[], None]:
        """Hear of every event."""

    @overload
    def subscribe(
        self, listener: Callable[[E1], object], kind: type[E1], /, *kinds: type[E1]
    ) -> Callable[[], None]:
        """Hear of the events of kinds with one type in common."""

    @overload
    def subscribe(
        self, listener: Callable[[E1 | E2], object], kind: type[E1], other: type[E2], /
    ) -> Callable[[], None]:
        """Hear of two kinds of events."""

    @overload
    def subscribe(
        self,
        listener: Callable[[E1 | E2 | E3], object],
        kind: type[E1],
        other: type[E2],
        third: type[E3],
        /,
    ) -> Callable[[], None]:
        """Hear of three kinds of events."""

    @overload
    def subscribe(
        self,
        listener: Callable[[Any], object],
        kind: type[Event],
        other: type[Event],
        third: type[Event],
        fourth: type[Event],
        /,
        *more: type[Event],
    ) -> Callable[[], None]:
        """Hear of four or more kinds of events."""

    def subscribe(
        self, listener: Callable[[Any], object], *kinds: type[Event]
    ) -> Callable[[], None]:
        """Call `listener` with each event of the given kinds (all by default), in the event loop.

        Return a function that ends it.
        """
        return self._open(public=True).events.subscribe(listener, *kinds)

    def progress(self, *, console: Console | None = None) -> Progress:
        """Show live bars of all tasks, as long as it is open: `with session.progress():`.

        On a terminal rich draws them, to stderr unless it is given a console; that needs the extra
        `cli`. In a notebook they are the cell's output. Elsewhere only the last state appears.
        """
        from ._progress import Progress

        return Progress(self._open(public=True).events, console)

    # --- callbacks --------------------------------------------------------------------------------

    @property
    def webhook_url(self) -> str | None:
        """Where the service calls back: the session's `public_url` and a secret token; None without
        a public URL.

        Requests get it as their `callback_url` unless they have one. Serve it with
        `webhooks.Webhooks`; keep it out of logs.
        """
        return self._settings.webhook_url

    def hint(self, task_id: str) -> bool:
        """Read a task soon, if anyone waits for it, because something says that it has changed.

        May be called from any thread. Return False when the session is closed.
        """
        parts = self._parts
        return not self._closed if parts is None else parts.hint(task_id)

    async def read(self, task_id: str) -> Task:
        """Ask the service for one task, once, now."""
        return await self._open().poller.read(_task_id(task_id))


def _task_id(given: object) -> str:
    found = TASK_ID.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise InvalidRequestError(
            [
                "task_id: expected the id of a task, such as 'task-unified-...': 1 to 128 of "
                f"A-Za-z0-9._:-, got {shown(given)}"
            ]
        )
    return found[0]  # as plain text: a member of an enum writes its name into a URL
