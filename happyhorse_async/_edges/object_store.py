"""Videos into an object store: `save_to="s3://bucket/prefix/"`, gs://, az://. Needs the extra
`object-store` (obstore).

Credentials and endpoints come from the environment, as usual for each store. A video is fetched
into a part file on this machine, verified, and put under its key with one request: so a store never
holds half of one, and whatever ends the process leaves nothing behind in it. With
`overwrite=False` that request is conditional: the store itself refuses to replace an object.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .._concurrency import Threads
from .._formats import filenames
from .._rules import retry
from ..errors import ConfigurationError, DestinationExistsError, DownloadError, HappyHorseError
from ..events import Events, Retrying
from . import disk
from .file_sink import FileSink, disk_error
from .part_files import PartFile

if TYPE_CHECKING:
    from .._config import RetryPolicy
    from .._formats.http_ranges import Held
    from .._formats.mp4 import Movie

T = TypeVar("T")
Data = bytes | memoryview

LONGEST_KEY = 1024
"""Bytes of a key, in all usual stores."""
CALL_SECONDS = 60.0
SLOWEST = 64 * 1024
"""Bytes a second that a put must reach, beyond `CALL_SECONDS`."""
KEPT_SECONDS = 48 * 3600.0
"""A part that nobody resumed for so long is taken away: its link died a day ago."""
PROBE = ".happyhorse-async"
"""The key, under a video's prefix, of the empty object by which a store is asked for its rights."""
MOST_PROVEN = 10_000
"""Prefixes that are remembered; a template can make endlessly many."""
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "GOOGLE_STORAGE_ENDPOINT",
)
_STATUS = re.compile(r"status code: (\d{3})")
_MD5 = re.compile(r"[0-9a-f]{32}")


def library() -> Any:
    """Return the package obstore; raises `ConfigurationError` when it is not installed."""
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise ConfigurationError(
            "saving to an object store needs the package obstore",
            next_step='Install it: pip install "happyhorse-async[object-store]".',
        ) from None
    return obstore


def split_link(link: str) -> tuple[str, str]:
    """Split "s3://bucket/prefix/name" into the store's link and the key; raises `DownloadError`
    when there is no bucket.
    """
    scheme, _, rest = link.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise DownloadError(
            f"{link!r} names no bucket",
            path=link,
            charged="no",
            next_step="Write s3://bucket/prefix/.",
        )
    return f"{scheme.lower()}://{bucket}", key


def key_problem(key: str) -> str:
    """Say why no object can have this key; "" when it can."""
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        return 'its key has an empty segment, or one that is "." or ".."'
    if not key.isprintable():
        return "its key has characters that cannot be printed"
    size = len(key.encode())
    return f"its key has {size} bytes, more than {LONGEST_KEY}" if size > LONGEST_KEY else ""


# --- A bucket.


class StoreBusyError(Exception):
    """The store did not answer, or was busy; it may have done what was asked all the same."""


@contextmanager
def our_errors(link: str, *, missing: bool = False) -> Iterator[None]:
    """Turn the library's errors into ours; with `missing` an object may be missing."""
    exceptions = library().exceptions
    try:
        yield
    except (HappyHorseError, exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise
    except FileNotFoundError as error:
        if missing:
            raise
        raise _refusal(link, "there is no such bucket") from error
    except (TimeoutError, exceptions.GenericError) as error:
        if _is_transient(str(error)):
            raise StoreBusyError(_first_line(error) or "no answer in time") from error
        raise _refusal(link, _first_line(error)) from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise _refusal(link, _first_line(error)) from error


def _refusal(link: str, problem: str) -> DownloadError:
    return DownloadError(
        f"{link} cannot be written: {problem}",
        path=link,
        next_step="Put the bucket or its rights in order, or choose another place.",
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _is_transient(message: str) -> bool:
    """Whether the same request can work in a moment, from the words of the library."""
    found = _STATUS.search(message)
    if found is None:
        return "redirect" not in message  # one to another region stays one
    status = int(found[1])
    return status in (408, 409, 425, 429) or (status >= 500 and status != 501)


class Bucket:
    """One bucket of a session: its requests, tried again as the retry policy says."""

    def __init__(
        self,
        link: str,
        store: Any,
        *,
        policy: RetryPolicy,
        events: Events,
        threads: Threads,
        rest: Callable[[float], Awaitable[None]],
    ) -> None:
        self.link = link
        self._store = store
        self._policy = policy
        self._events = events
        self._threads = threads
        self._rest = rest
        self._proven: set[tuple[str, bool]] = set()
        self._asking = asyncio.Lock()

    async def _retried(self, key: str, once: Callable[[], Awaitable[T]], seconds: float) -> T:
        link = f"{self.link}/{key}"
        for attempt in range(1, self._policy.attempts + 1):
            try:
                with our_errors(link):
                    async with asyncio.timeout(seconds):
                        return await once()
            except StoreBusyError as error:
                failed = _refusal(link, str(error))
                if attempt == self._policy.attempts:
                    raise failed from error
                pause = retry.pause_before(self._policy, attempt, None, random.random())
            what = "saving to an object store"
            self._events.emit(Retrying(what=what, error=failed, pause=pause, attempt=attempt))
            await self._rest(pause)
        raise AssertionError("a policy has at least one attempt")

    async def size(self, key: str) -> int | None:
        """Return how many bytes an object has; None when there is none, or nobody may look."""
        found = await self._head(key)
        return found["size"] if found is not None else None

    async def _head(self, key: str) -> Any:
        async def once() -> Any:
            try:
                return await library().head_async(self._store, key)
            except (FileNotFoundError, library().exceptions.PermissionDeniedError):
                return None

        return await self._retried(key, once, CALL_SECONDS)

    async def _look(self, key: str) -> Any:
        """Look at an object that the store says is there; None when it is not."""
        try:
            return await library().head_async(self._store, key)
        except FileNotFoundError:
            return None
        except library().exceptions.PermissionDeniedError as error:
            link = f"{self.link}/{key}"
            raise DestinationExistsError(
                f"{link} exists already, and may not be looked at", path=link
            ) from error

    async def put(self, key: str, data: Data, *, create: bool, kind: str = "video/mp4") -> None:
        """Put an object with one request; raises `DestinationExistsError` with `create` when
        another one is there.

        An answer may be lost, and the request be made again: so what is there is looked at, and
        our own bytes are not another object.
        """
        size = len(data)
        exists = (library().exceptions.AlreadyExistsError, library().exceptions.PreconditionError)

        async def once() -> bool:
            try:
                await library().put_async(
                    self._store,
                    key,
                    data,
                    mode="create" if create else "overwrite",
                    use_multipart=False,
                    attributes={"Content-Type": kind},
                )
            except exists as error:
                found = await self._look(key)
                if found is None:
                    raise StoreBusyError("another request for this key is under way") from error
                return await self._is(key, found, data)
            return True

        try:
            ours = await self._retried(key, once, CALL_SECONDS + size / SLOWEST)
        except DownloadError:
            # The last answer may be one of those that were lost.
            found = await self._head(key)
            if found is None or not await self._is(key, found, data):
                raise
            return
        if not ours:
            link = f"{self.link}/{key}"
            raise DestinationExistsError(f"{link} exists already", path=link)

    async def _is(self, key: str, found: Any, data: Data) -> bool:
        """Whether an object is these bytes: by its ETag, or by reading it where that is no MD5."""
        if found["size"] != len(data):
            return False
        tag = str(found["e_tag"] or "").strip('"').lower()
        if _MD5.fullmatch(tag):
            md5 = partial(hashlib.md5, data, usedforsecurity=False)
            if tag == (await self._threads.run(md5)).hexdigest():
                return True
        digest = hashlib.sha256()
        answer = await library().get_async(self._store, key)
        async for piece in answer.stream():
            await self._threads.run(partial(digest.update, piece))
        mine = await self._threads.run(partial(hashlib.sha256, data))
        return digest.digest() == mine.digest()

    async def prove(self, key: str, *, create: bool) -> None:
        """Raise `DownloadError` unless objects can be put beside a key, as a video will be: an
        empty one is put there, and taken away again. Asked once for each prefix.
        """
        prefix = key[: key.rfind("/") + 1]
        async with self._asking:
            if (prefix, create) in self._proven:
                return
            await self._prove(prefix + PROBE, create=create)
            if len(self._proven) >= MOST_PROVEN:
                self._proven.clear()
            self._proven.add((prefix, create))

    async def _prove(self, key: str, *, create: bool) -> None:
        try:
            await self.put(key, b"", create=create, kind="application/octet-stream")
        except DestinationExistsError:
            return  # it could not be taken away once: the store lets us in, and knows the condition
        except DownloadError as error:
            if not create:
                raise
            await self.put(key, b"", create=False, kind="application/octet-stream")
            await self._remove(key)
            raise DownloadError(
                f"{self.link} knows no conditional puts, so nothing would keep an object from "
                "being "
                "replaced",
                path=self.link,
                next_step="Pass overwrite=True, or choose another store.",
            ) from error
        await self._remove(key)

    async def _remove(self, key: str) -> None:
        # Without the right to delete, one empty object stays under each prefix.
        with suppress(DownloadError, FileNotFoundError):
            await self._retried(key, lambda: library().delete_async(self._store, key), CALL_SECONDS)


class Buckets:
    """The buckets of a session, each opened once."""

    def __init__(self, threads: Threads, **settings: Any) -> None:
        self._threads = threads
        self._settings = settings
        self._open: dict[str, Bucket] = {}
        self._opening = asyncio.Lock()

    async def get(self, link: str) -> Bucket:
        """Return a bucket; raises `ConfigurationError` when it cannot be opened."""
        async with self._opening:
            if link not in self._open:
                store = await self._threads.run(partial(opened, link))
                self._open[link] = Bucket(link, store, threads=self._threads, **self._settings)
            return self._open[link]


def opened(link: str) -> Any:
    """Open a bucket; the environment says how."""
    obstore = library()
    # Plain http is for an endpoint that the user has named so. Time limits and repetitions are
    # ours.
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    try:
        return obstore.store.from_url(
            link,
            client_options={"allow_http": plain, "timeout": "1 day"},
            retry_config={"max_retries": 0},
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ConfigurationError(f"{link} cannot be opened: {error}") from error


# --- Videos on their way into a bucket.


async def refuse_unusable(bucket: Bucket, key: str, *, known: bool, overwrite: bool) -> None:
    """Raise `DownloadError` when no video can be put under a key, in all that the store can say:
    the bucket, the key, the rights under its prefix, and conditional puts.

    With `known=False` it is only a key like the one that will be.
    """
    link = f"{bucket.link}/{key}"
    refuse_key(bucket.link, key)
    if known and not overwrite and await bucket.size(key) is not None:
        raise DestinationExistsError(f"{link} exists already", path=link)
    await bucket.prove(key, create=not overwrite)


def refuse_key(link: str, key: str) -> None:
    """Raise `DownloadError` for a key that no object can have."""
    problem = key_problem(key)
    if problem:
        raise _refusal(f"{link}/{key}", problem)


def spool_folder() -> Path:
    """Return the folder of this user for parts, made if need be; raises `DownloadError`."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir()) / f"happyhorse-async{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise disk_error(error, str(folder)) from error
    others = hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022)
    problem = disk.folder_problem(folder)
    if not stat.S_ISDIR(found.st_mode) or others:
        problem = "it is not a folder of this user alone"
    if problem:
        raise DownloadError(
            f"{folder} cannot be used for parts of videos: {problem}",
            path=str(folder),
            next_step="Set TMPDIR to a folder of your own.",
        )
    return folder


def clear_spool(folder: Path) -> None:
    """Take away the parts that nobody will resume; what was rejected stays."""
    for path in folder.iterdir():
        with suppress(OSError):
            old = path.lstat().st_mtime < time.time() - KEPT_SECONDS
            if old and path.name.endswith((filenames.PART_SUFFIX, filenames.NOTE_SUFFIX)):
                path.unlink()


def spooled(bucket: str, key: str, *, task_id: str, index: int) -> PartFile:
    """Make the part file of a video; the next run, or another process, finds the same one."""
    folder = spool_folder()
    clear_spool(folder)
    # Other tasks, and stores behind other endpoints, have parts of their own.
    places = [bucket, key, task_id, str(index), *(os.environ.get(name, "") for name in _ENDPOINTS)]
    name = hashlib.sha256("\n".join(places).encode()).hexdigest()[:32] + ".mp4"
    return PartFile(folder / name, task_id=task_id, index=index, overwrite=True)


class ObjectSink(FileSink):
    """Streams one video into a part file, and puts it under its key once it is verified; see
    `transfer.Sink`.
    """

    def __init__(
        self, bucket: Bucket, key: str, file: PartFile, threads: Threads, *, new: bool, create: bool
    ) -> None:
        super().__init__(file, threads, new=new)
        self.url = f"{bucket.link}/{key}"
        self._bucket = bucket
        self._key = key
        self._create = create
        self._begun = not new

    async def open(self) -> Held:
        """Say what is there already; raises `DestinationExistsError` when another object is.

        An object beside a part may be this very video, whose answer was lost: then that is found
        out when it is put.
        """
        if self._create and not self._begun and await self._bucket.size(self._key) is not None:
            raise DestinationExistsError(f"{self.url} exists already", path=self.url)
        self._begun = True
        return await super().open()

    async def publish(self, pieces: Sequence[bytes]) -> tuple[str, Movie]:
        """Verify the part, and put it under its key."""

        def finish() -> tuple[str, Movie]:
            self._file.write(pieces)
            return self._file.tally.finish()

        described = await self._do(finish)
        await self._bucket.put(self._key, await self._do(self._file.content), create=self._create)
        await self.discard()
        return described

    async def reject(self, page: bytes | None = None) -> str:
        """Keep what is there, or a page that came instead, under a key beside the final one; where
        the store refuses that, on this machine.
        """
        data = page if page is not None else await self._do(self._file.content)
        number = 1
        folder, slash, name = self._key.rpartition("/")
        while True:
            key = folder + slash + filenames.rejected_name(name, number)
            try:
                await self._bucket.put(key, data, create=True, kind="application/octet-stream")
            except DestinationExistsError:
                number += 1
                continue
            except DownloadError:
                return await super().reject(page)
            if page is None:
                await self.discard()
            return f"{self._bucket.link}/{key}"
