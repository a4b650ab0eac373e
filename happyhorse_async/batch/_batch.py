"""`Batch`: a folder, its ledger, and the runs over it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .._budget import BatchBook
from .._concurrency import hand_over, to_the_end, until_closed
from .._downloader.destinations import is_bent_link, is_foreign_link, is_object_link
from .._edges.disk import FolderLock, absolute, home_problem, make_folders
from .._request import require_path, require_several
from ..errors import (
    ConfigurationError,
    DownloadError,
    HappyHorseError,
    LedgerError,
    TaskNotFoundError,
)
from ._admission import Input
from ._database import STORE, Database
from ._feed import Feed
from ._follow import BatchOptions
from ._ledger import Ledger
from ._outcome import Totals
from ._run import Outcomes
from ._videos import StoreFolder, VideoFolder

if TYPE_CHECKING:
    from .._parts import Parts

LONGEST_NAME = 130
"""Characters of the longest name that a video has, and what is put beside it."""


class Batch:
    """A durable batch in a folder. Made by `Session.batch`; an async context manager.

    The folder gets the videos and `happyhorse.sqlite`, the ledger. Whatever ends the process,
    running the same input again goes on where it stopped. Nothing is paid twice, nothing that is
    here is fetched twice. A second process on the same folder is refused with the first one's id.
    """

    def __init__(
        self,
        parts: Parts,
        folder: str | os.PathLike[str],
        options: BatchOptions,
        *,
        service: str,
        out: str | None = None,
    ) -> None:
        for each in (folder, out):
            _refuse_place(each, is_out=each is out)
        # A program may change its working folder while the batch runs.
        self.folder: Path = absolute(folder)
        """Where the ledger is, and the videos when they go to no object store."""
        self._out = out.rstrip("/") if out is not None else None
        self._videos = VideoFolder(self.folder)
        self._parts = parts
        self._options = options
        self._service = service
        self._lock: FolderLock | None = None
        self._ledger: Ledger | None = None
        self._book = BatchBook(options.budget)
        self._outcomes: Outcomes | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def place(self) -> str:
        """Where the videos go: the folder, or an object store's link."""
        return str(self._videos)

    def __repr__(self) -> str:
        return f"<Batch {str(self.folder)!r} {'open' if self._ledger is not None else 'not open'}>"

    async def __aenter__(self) -> Batch:
        self._parts.here()
        self._closing = None
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _open(self) -> None:
        """Take the folder and its ledger. What was opened is kept at once, so that `aclose` finds
        it whatever comes in between.
        """
        self._lock = FolderLock(self.folder)
        await to_the_end(hand_over(None, _take, self._lock, self.folder))
        ledger = self._ledger = await Ledger.open(self.folder)
        if await ledger.call(lambda database: database.fact("moved")) is not None:
            raise LedgerError(
                f"the batch in {self.folder} goes on in a cluster",
                next_step="Look with `happyhorse cluster status`; `cluster enqueue --from` again "
                "enters what was not entered.",
            )
        await ledger.call(lambda database: database.bind(self._service))
        await check_account(ledger, self._parts)
        await self._open_store(ledger)

    async def _open_store(self, ledger: Ledger) -> None:
        """Find out where the videos go, and ask an object store whether they can, before anything
        is paid.
        """
        noted = await ledger.call(lambda database: database.fact(STORE))
        if self._out is None and noted is None:
            return
        totals = await ledger.call(Database.totals)
        if self._out not in (None, noted) and (noted is not None or totals.jobs):
            raise LedgerError(
                f"the videos of the batch in {self.folder} are in {noted or 'that folder'}, and "
                f"not in {self._out}",
                next_step="Leave out= away, or use another folder for another place.",
            )
        link, longest = noted or self._out or "", "_" * LONGEST_NAME
        try:
            async with self._parts.downloader.reserved(f"{link}/{longest}"):
                videos = await hand_over(None, StoreFolder, link)
        except DownloadError as error:
            error.args = (error.message.replace(longest, ""),)  # no video is called so
            raise
        if noted is None:
            names = await hand_over(None, videos.names)
            await ledger.call(lambda database: database.bind_store(link, names))

        def use(database: Database) -> None:
            database.videos = videos

        await ledger.call(use)
        self._videos = videos

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run if one goes on, at once, and close the ledger. What is paid for is found
        again by the next run.
        """
        self._closing = self._closing or asyncio.ensure_future(self._close())
        await until_closed(self._closing)

    async def _close(self) -> None:
        if self._outcomes is not None:
            await self._outcomes.aclose()
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            await ledger.aclose()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    # --- running ----------------------------------------------------------------------------------

    def run(
        self,
        requests: Input,
        *,
        retry_failed: bool = False,
    ) -> Outcomes:
        """Work on the requests until each is done, and iterate over the outcomes as they come.

        `requests` is any iterable or async iterable of `ImageToVideo` or `Job`, of any length. What
        earlier runs have paid for is finished first, whether it is in the input or not. Jobs that
        ended in an earlier run are told again (`Outcome.resumed`). With `retry_failed` those that
        failed begin again, which costs money again.

        Leaving the loop early ends nothing: `aclose()` of what this returns does, and the batch's.
        After the last outcome the iteration raises whatever stopped the batch before its end. That
        is a refused key, no credits left, a budget that is used up, a service that cannot be
        reached. What was not submitted stays for the next run. One request instead of several is an
        `InvalidRequestError`.
        """
        require_several("requests", requests)
        return self._start(
            lambda feed: feed.input(requests, retry=retry_failed), retry=retry_failed
        )

    def retry(self) -> Outcomes:
        """Begin the failed jobs again, from the ledger alone, and iterate over their outcomes.

        Jobs whose fate is unknown are asked for with the same key. That cannot be charged twice
        where the service keeps keys. Until it has shown that it does, the list of tasks is looked
        at first. Failed ones become new tasks, which are charged. Before that the service is asked
        once more about the old one: it may go on after all, or have its video.
        """
        return self._start(Feed.failed, retry=True)

    def resume(self) -> Outcomes:
        """Finish what earlier runs have paid for, and submit nothing."""
        return self._start(lambda feed: feed.input(()))

    def _start(self, source: Callable[[Feed], Awaitable[None]], *, retry: bool = False) -> Outcomes:
        if self._ledger is None:
            raise HappyHorseError(
                "this batch is not open: use `async with session.batch(folder) as batch`"
            )
        if self._outcomes is not None and not self._outcomes.over:
            raise HappyHorseError(
                "a run of this batch is going on already, also when its loop was left early",
                next_step="Take its outcomes to the end, or end it before: `async with "
                "contextlib.aclosing(batch.run(requests)) as outcomes`.",
            )
        self._outcomes = Outcomes(
            self._parts,
            self._ledger,
            self._videos,
            self._book,
            self._options,
            source,
            retry=retry,
        )
        return self._outcomes

    def stop(self) -> None:
        """Submit nothing new from now on, and finish what is paid for; the iteration then ends by
        itself.
        """
        if self._outcomes is not None:
            self._outcomes.stop()

    async def totals(self) -> Totals:
        """Count how the whole batch stands, earlier runs included."""
        if self._ledger is None:
            raise LedgerError("the batch is not open")
        self._parts.here()
        return await self._ledger.call(Database.totals)


def _refuse_place(place: str | os.PathLike[str] | None, *, is_out: bool) -> None:
    """Refuse an object store where a folder must be, and a folder where a store is meant."""
    if place is None:
        return
    require_path("out" if is_out else "folder", place)
    text = os.fspath(place)
    if problem := home_problem(os.fsdecode(text)):
        raise ConfigurationError(f"{text!r} is no folder for a batch: {problem}")
    in_store, names_bucket = is_object_link(text), bool(text.partition("://")[2].strip("/"))
    fits = in_store is is_out and (names_bucket or not is_out)
    if fits and not is_bent_link(text) and not is_foreign_link(text):
        return
    if is_out:
        problem = f"out: expected an object store's link such as s3://bucket/prefix, got {text!r}"
        raise ConfigurationError(problem, next_step="For a folder, pass it as the first argument.")
    raise ConfigurationError(
        f"a batch's ledger needs a folder on this machine, and {text!r} is a link",
        next_step='Pass a folder for the ledger, and the store as out="s3://bucket/prefix".',
    )


def _take(lock: FolderLock, folder: Path) -> None:
    try:
        make_folders(folder)
        lock.take()
    except (OSError, ValueError) as error:  # the latter for what no path can be
        why = getattr(error, "strerror", None) or error
        raise LedgerError(f"nothing can be written in {folder}: {why}") from error


# --- Whose tasks a ledger knows. Another account's key would find none of them and pay for all
# again.


async def check_account(ledger: Ledger, parts: Parts) -> None:
    """Bind a ledger to the account of an API key; raises `LedgerError` when it is another
    account's.

    The ledger keeps a digest of the key, salted with the batch's id, and never the key. A new key
    of the same account is known by what it can read. One task of the ledger is asked for.
    """
    key = parts.settings.require_key()
    mark = hashlib.blake2b(key.encode(), key=ledger.batch_id.encode(), digest_size=16).hexdigest()
    if await ledger.call(lambda database: database.fact("account")) == mark:
        return
    at_stake, task_ids = await ledger.call(lambda database: database.proofs())
    if at_stake and not await _knows_one(parts, task_ids):
        raise LedgerError(
            f"{at_stake} jobs in this folder were submitted with another API key, and this one "
            "knows none of their tasks",
            next_step="Open the batch with a key of the account that it was begun with, or use "
            "another folder.",
        )
    await ledger.call(lambda database: database.set_fact("account", mark))


async def _knows_one(parts: Parts, task_ids: list[str]) -> bool:
    for task_id in task_ids:
        try:
            await parts.poller.read(task_id)
        except TaskNotFoundError:
            continue
        return True
    return False
