"""Local first frame -> public URL. It is checked first, sent once for each content, and again when
its 72 hours are nearly over.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import aiohttp
import anyio

from ._account import UploadedFile
from ._concurrency import hand_over
from ._config import Limits, Timeouts
from ._dispatcher import Events
from ._edges.api import Api
from ._edges.http import Http
from ._edges.local_images import CheckedFile, LocalImage, changed, look_at, opened_for_sending
from ._formats.texts import shown
from ._request import IMAGES, image_of
from ._rules import account, numbers, refusals
from ._rules.responses import decode_object
from ._rules.throttling import Departures
from .errors import (
    APIStatusError,
    HappyHorseError,
    InvalidRequestError,
    RateLimitError,
    UnreadableAnswerError,
)
from .events import Uploaded

logger = logging.getLogger("happyhorse_async")

MOST_REMEMBERED = 10_000
"""Uploads that are remembered, to be used again; an endless input must not fill the memory."""

SAFETY_MARGIN = 6 * 3600.0
"""Seconds before its end at which a file is not given to a new submission any more. The service
fetches it when the task starts."""

LONGEST_HOLD = 60.0
"""Seconds for which one refused upload holds the others at most."""

QUOTA_STEP = (
    "The account's quota of files is used up. Delete files on the service's dashboard, or "
    "submit links of your own. Old files expire 72 hours after their upload. "
    "Nothing was charged."
)


class Uploader:
    """The session's uploads: the same content is sent once, also when many ask for it at the same
    time.
    """

    def __init__(
        self,
        http: Http,
        api: Api,
        *,
        limits: Limits,
        timeouts: Timeouts,
        events: Events,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = FileHost(http, timeout=timeouts.upload)
        self._api = api
        self._pace = Pace(api, ceiling=limits.max_uploads)
        self._events = events
        self._clock = clock
        self._slots = anyio.Semaphore(limits.max_uploads)
        self._looks = anyio.Semaphore(limits.max_uploads)
        self._files: OrderedDict[str, tuple[UploadedFile, float]] = OrderedDict()
        self._contents: dict[str, str] = {}
        self._sending: dict[str, asyncio.Future[UploadedFile | None]] = {}
        self._stores_anew = False
        """The host has shown that it stores other bytes than it is sent."""
        self._kept: set[str] = set()
        """Contents that somebody asked for who will not say when the file has served."""
        self._asking: Counter[str] = Counter()
        """Contents that borrowers are waiting for."""
        self._borrowers: dict[str, set[Hashable]] = {}
        """Who has borrowed which link."""

    async def url_of(self, image: Path | bytes) -> str:
        """Return the public URL of a local first frame, uploading it when that is needed."""
        return (await self.upload(image)).url

    async def problems(self, image: object) -> list[str]:
        """List what is wrong with a local first frame; nothing for links, which only the service
        can look at.
        """
        source = _source(image)
        # That an image is empty is said by the request itself.
        if source is None or (isinstance(image, (str, bytes)) and not image):
            return []
        async with self._looks:
            return list((await look_at(source)).problems)

    async def upload(self, image: str | os.PathLike[str] | bytes) -> UploadedFile:
        """Check a first frame and put it on the service's file host.

        Raises `InvalidRequestError` before anything is sent, and the service's own error when it
        refuses.
        """
        looked = await self._looked_at(image)
        with self._asked_for(looked.sha256):
            file = await self._shared(looked)
            if looked.sha256 in self._files:
                self._kept.add(looked.sha256)
        return file

    async def borrow(self, image: Path | bytes, borrower: Hashable) -> str:
        """Return the public URL of a local first frame. The caller gives it back when every task
        that was given it has ended.
        """
        looked = await self._looked_at(image)
        with self._asked_for(looked.sha256):
            file = await self._shared(looked)
            self._borrowers.setdefault(file.url, set()).add(borrower)
        return file.url

    @contextmanager
    def _asked_for(self, content: str) -> Iterator[None]:
        """Let nobody take a content's file off the host while somebody waits for it."""
        self._asking[content] += 1
        try:
            yield
        finally:
            self._asking[content] -= 1
            if not self._asking[content]:
                del self._asking[content]

    async def give_back(self, url: str, borrower: Hashable) -> None:
        """Take a file off the host again after its last borrower, which makes room in the account's
        quota of files.

        A file that anybody else was given stays: nobody knows what for. Seen in the vendor's
        clients, not promised. Where the service will not, the file stays until it expires, and
        nothing is raised.
        """
        borrowers = self._borrowers.get(url, set())
        if borrower not in borrowers:
            return
        borrowers.discard(borrower)
        if borrowers:
            return
        del self._borrowers[url]
        content = self._contents.get(url, "")
        if content not in self._kept and not self._asking.get(content):
            await self._discard(url)

    async def _discard(self, url: str) -> None:
        content = self._contents.pop(url, "")
        file, _ = self._files.get(content, (None, 0.0))
        if file is None or file.url != url or not file.id:
            return
        del self._files[content]
        try:
            await self._host.delete_once(file.id)
        except HappyHorseError as error:
            logger.debug("a file stays on the host: %s", error, extra={"action": "file_stays"})

    async def _looked_at(self, image: object) -> LocalImage:
        source = _source(image)
        if source is None:
            raise InvalidRequestError(
                [f"image: expected a path or the bytes of an image to upload, got {shown(image)}"]
            )
        async with self._looks:
            looked = await look_at(source)
        if looked.problems:
            raise InvalidRequestError(looked.problems)
        return looked

    async def _shared(self, image: LocalImage) -> UploadedFile:
        """Return the file of a content: a living one, one being sent just now, or a new one."""
        while True:
            file, end = self._files.get(image.sha256, (None, 0.0))
            if file is not None and self._clock() < end:
                return file
            sending = self._sending.get(image.sha256)
            if sending is None:
                return await self._lead(image)
            try:
                shared = await asyncio.shield(sending)
            except HappyHorseError as error:
                raise copy.copy(error) from error  # each caller lays its own facts over it
            # None: whoever was sending it was cancelled; somebody else has to.
            if shared is not None:
                return shared

    async def _lead(self, image: LocalImage) -> UploadedFile:
        promise: asyncio.Future[UploadedFile | None] = asyncio.get_running_loop().create_future()
        self._sending[image.sha256] = promise
        try:
            with self._events.work("upload", name=image.name, size=image.size):
                async with self._slots:
                    file = await self._send(image)
        except HappyHorseError as error:
            promise.set_exception(copy.copy(error))
            promise.exception()  # marks it as seen: there may be nobody else
            raise
        else:
            self._remember(image, file)
            promise.set_result(file)
        finally:
            del self._sending[image.sha256]
            if not promise.done():
                promise.set_result(None)
        if self._events:
            self._events.emit(Uploaded(file=file))
        return file

    async def _send(self, image: LocalImage) -> UploadedFile:
        upload_id = secrets.token_urlsafe(24)
        lost = False
        told = 0

        async def once() -> UploadedFile:
            nonlocal upload_id, lost, told
            file = await self._receipt(image, upload_id) if lost else None
            if file is None:
                lost = True  # until its answer has come
                file = await self._pace.send(lambda: self._host.upload_once(image, upload_id))
            if self._is_whole(file, image, told):
                return file
            # With an id of its own, so that no answer is repeated.
            upload_id, lost, told = secrets.token_urlsafe(24), False, file.size
            raise UnreadableAnswerError(
                f"the file host says {file.size:,} bytes, and {image.size:,} were sent"
            )

        try:
            return await self._api.retrying(once, "uploading a first frame", promised=True)
        except APIStatusError as error:
            if refusals.is_file_quota(error):
                error.next_step = QUOTA_STEP
            raise

    def _is_whole(self, file: UploadedFile, image: LocalImage, told: int) -> bool:
        """Return whether an upload has arrived, as far as its size says. One of another size may be
        torn. When the host tells the same other size twice, it stores images in its own way.
        """
        if file.size in (0, image.size) or self._stores_anew:
            return True
        if file.size != told:
            return False
        self._stores_anew = True
        logger.warning(
            "the file host has %d bytes of an image of %d, twice: its sizes are not looked at now",
            file.size,
            image.size,
            extra={"action": "stored_anew"},
        )
        return True

    async def _receipt(self, image: LocalImage, upload_id: str) -> UploadedFile | None:
        """Look whether an upload arrived whose answer was lost; if that cannot be said, it is sent
        again.
        """
        try:
            return await self._host.receipt_once(image, upload_id)
        except HappyHorseError as error:
            logger.debug("no receipt of an upload: %s", error, extra={"action": "no_receipt"})
            return None

    def _end_of(self, file: UploadedFile) -> float:
        """Return when, by this machine's clock, a file is too old to be given away.

        The service's two times tell how long it lives; neither is believed beyond its promise.
        """
        uploaded, life = numbers.moment(file.raw.get("upload_time")), account.FILE_LIFE
        if file.expires_at is not None and uploaded is not None:
            life = min(max(file.expires_at - uploaded, timedelta()), life)
        return self._clock() + life.total_seconds() - SAFETY_MARGIN

    def _remember(self, image: LocalImage, file: UploadedFile) -> None:
        """Keep a file for the next who has the same content; the oldest are forgotten."""
        earlier, _ = self._files.pop(image.sha256, (file, 0.0))
        self._contents.pop(earlier.url, None)
        self._files[image.sha256] = file, self._end_of(file)
        self._contents[file.url] = image.sha256
        while len(self._files) > MOST_REMEMBERED:
            content, (oldest, _) = self._files.popitem(last=False)
            self._contents.pop(oldest.url, None)
            self._kept.discard(content)


def _source(image: object) -> Path | bytes | None:
    if not isinstance(image, IMAGES):
        return None
    found = image_of(image)
    return None if isinstance(found, str) else found


# --- How fast uploads may leave.


class Pace:
    """Lets uploads leave as fast as the file host takes them: the 429 of one holds all of them."""

    def __init__(self, api: Api, *, ceiling: int) -> None:
        self._api = api
        self._now = asyncio.get_running_loop().time
        self._departures = Departures(ceiling=ceiling)

    async def send(self, once: Callable[[], Awaitable[UploadedFile]]) -> UploadedFile:
        """Make one try when its turn has come; raises what the try raises."""
        epoch = await self._turn()
        try:
            made = await once()
        except RateLimitError as error:
            wanted = min(self._api.pause_after(error), LONGEST_HOLD)
            self._departures.refused(self._now(), epoch, error.retry_after, wanted)
            raise
        except APIStatusError:
            self._departures.let_in(self._now(), epoch)
            raise
        self._departures.let_in(self._now(), epoch)
        return made

    async def _turn(self) -> int:
        while (wait := self._departures.at - self._now()) > 0:
            await self._api.pause(wait)
        self._departures.leaves(self._now())
        return self._departures.finder.epoch


# --- The service's file host.


UPLOAD_PATH = "/api/v1/files/upload/stream"
RECEIPT_PATH = "/api/v1/files/upload-receipts/"


class FileHost:
    """The service's file host."""

    def __init__(self, http: Http, *, timeout: float | None) -> None:
        self._http = http
        self._timeout = timeout

    async def upload_once(self, image: LocalImage, upload_id: str) -> UploadedFile:
        """Send an image, one try; a file is read from disk as the network takes it.

        Raises `InvalidRequestError` when it is not what was looked at any more.
        """
        file = await _opened(image)
        try:
            form = aiohttp.FormData()
            form.add_field("file", file, filename=image.name, content_type=image.mime_type)
            answer = await self._http.call(
                "POST",
                self._http.files_url + UPLOAD_PATH,
                form=form,
                headers={"X-Evo-Upload-Id": upload_id},
                timeout=self._timeout,
            )
        except HappyHorseError:
            if isinstance(file, CheckedFile) and file.changed:
                raise changed(image) from None
            raise
        finally:
            file.close()
        return account.decode_upload(answer)

    async def receipt_once(self, image: LocalImage, upload_id: str) -> UploadedFile | None:
        """Ask what became of an upload whose answer was lost; None when nothing is certain.

        Seen in the vendor's client, not promised.
        """
        url = self._http.files_url + RECEIPT_PATH + upload_id
        answer = await self._http.call("GET", url, timeout=self._timeout)
        return account.decode_receipt(answer, upload_id=upload_id, size=image.size)

    async def delete_once(self, file_id: str) -> None:
        """Take a file away, one try; raises the service's error when it will not, or has no such
        call.
        """
        url = f"{self._http.files_url}/api/v1/files/{quote(file_id, safe='')}"
        decode_object(await self._http.call("DELETE", url, timeout=self._timeout))


async def _opened(image: LocalImage) -> BinaryIO:
    """Open in a worker thread; a caller who is cancelled meanwhile leaves no open file behind."""
    opening = hand_over(None, opened_for_sending, image)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: asyncio.Future[BinaryIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
