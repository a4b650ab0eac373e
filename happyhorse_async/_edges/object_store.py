"""Object stores: s3://, gs://, az://. Needs the extra `object-store` (obstore).

Credentials and endpoints come from the environment, as usual for each store. `Bucket` is asked by a
session, `ObjectFolder` by worker threads and by reports, which have none.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._concurrency import Closing, Threads
from .._dispatcher import Events
from .._rules import retry
from ..errors import ConfigurationError, DestinationExistsError, DownloadError, HappyHorseError
from ..events import Retrying

if TYPE_CHECKING:
    from .._config import RetryPolicy

T = TypeVar("T")
Data = bytes | memoryview

CALL_SECONDS = 60.0
SLOWEST = 64 * 1024
"""Bytes a second that a put must reach, beyond `CALL_SECONDS`."""
PROBE = ".happyhorse-async"
"""The key, under a video's prefix, of the empty object by which a store is asked for its rights."""
MOST_PROVEN = 10_000
"""Prefixes that are remembered; a template can make endlessly many."""
ENDPOINTS = (
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


# --- A bucket.


class StoreBusyError(Exception):
    """The store did not answer, or was busy; it may have done what was asked all the same."""


@contextmanager
def our_errors(link: str, *, missing: bool = False, cannot_be: str = "written") -> Iterator[None]:
    """Turn the library's errors into ours; with `missing` an object may be missing."""
    refused = partial(refusal, link, cannot_be=cannot_be)
    exceptions = library().exceptions
    try:
        yield
    except (HappyHorseError, StoreBusyError):
        raise
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        # What a put means by it is known there; of any other request it tells of a rival (409).
        raise StoreBusyError(_first_line(error)) from error
    except FileNotFoundError as error:
        if missing:
            raise
        raise refused("there is no such bucket") from error
    except (TimeoutError, exceptions.GenericError) as error:
        if _is_transient(str(error)):
            raise StoreBusyError(_first_line(error) or "no answer in time") from error
        raise refused(_first_line(error)) from error
    except Exception as error:  # what it panics over has a type that it does not publish
        if _PASSING.search(str(error)):
            raise StoreBusyError(_first_line(error)) from error
        raise refused(_first_line(error)) from error


def refusal(link: str, problem: str, *, cannot_be: str = "written") -> DownloadError:
    """Return the error for what cannot be put into a store, or cannot be read there."""
    helps = (step for codes, step in _HELPS if codes.search(problem))
    return DownloadError(
        f"{link} cannot be {cannot_be}: {problem}",
        path=link,
        next_step=next(helps, "Put the bucket or its rights in order, or choose another place."),
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


_PASSING = re.compile(
    r"\b(RequestTimeout|RequestTimeTooSkewed|IncompleteBody|BadDigest|XAmzContentSHA256Mismatch"
    r"|ExpiredToken|TokenRefreshRequired)\b"
)
"""S3's codes with status 400 or 403 that say nothing against the request itself. A body was slow,
cut or damaged on its way, or a clock or a token was of a moment ago."""
_HELPS = (
    (re.compile(r"\bRequestTimeTooSkewed\b"), "Set this machine's clock right."),
    (
        re.compile(
            r"\b(ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId"
            r"|SignatureDoesNotMatch)\b"
        ),
        "Renew the store's credentials, which the environment tells, and open a new session.",
    ),
)
"""What helps where neither the bucket nor its rights are at fault, by S3's codes."""


def _is_transient(message: str) -> bool:
    """Whether the same request can work in a moment, from the words of the library."""
    if _PASSING.search(message):
        return True
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
        closing: Closing,
    ) -> None:
        self.link = link
        self._store = store
        self._policy = policy
        self._events = events
        self._threads = threads
        self._closing = closing
        self._proven: set[tuple[str, bool]] = set()
        self._asking = asyncio.Lock()

    async def _retried(self, key: str, once: Callable[[], Awaitable[T]], seconds: float) -> T:
        link = f"{self.link}/{key}"
        for attempt in range(1, self._policy.attempts + 1):
            try:
                with our_errors(link):
                    async with self._closing.limit(seconds):
                        return await once()
            except StoreBusyError as error:
                failed = refusal(link, str(error))
                if attempt == self._policy.attempts:
                    raise failed from error
                pause = retry.pause_before(self._policy, attempt, None, random.random())
            what = "saving to an object store"
            self._events.emit(Retrying(what=what, error=failed, pause=pause, attempt=attempt))
            await self._closing.rest(pause)
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

        An answer may be lost, and the request be made again. So what is there is looked at, and our
        own bytes are not another object.
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

        seconds = CALL_SECONDS + size / SLOWEST
        try:
            ours = await self._retried(key, once, seconds)
        except DownloadError:
            # The last answer may be one of those that were lost.
            found = await self._head(key)
            if found is None:
                raise
            if not await self._retried(key, lambda: self._is(key, found, data), seconds):
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
        """Raise `DownloadError` unless objects can be put beside a key, as a video will be. An
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


MOST_BUCKETS = 64
"""Buckets that a session keeps open; one that was not used for the longest time is opened anew."""


class Buckets:
    """The buckets of a session, the latest ones open: a service may have one for each customer."""

    def __init__(self, threads: Threads, **settings: Any) -> None:
        self._threads = threads
        self._settings = settings
        self._open: OrderedDict[str, Bucket] = OrderedDict()
        self._opening = asyncio.Lock()

    async def get(self, link: str) -> Bucket:
        """Return a bucket; raises `ConfigurationError` when it cannot be opened."""
        async with self._opening:
            if link not in self._open:
                store = await self._threads.run(partial(opened, link))
                self._open[link] = Bucket(link, store, threads=self._threads, **self._settings)
                if len(self._open) > MOST_BUCKETS:
                    self._open.popitem(last=False)
            self._open.move_to_end(link)
            return self._open[link]


_users: set[int] = set()
"""The processes that have opened a bucket: this one, and those that it was forked from."""


def opened(link: str, **limits: str) -> Any:
    """Open a bucket; the environment says how, and `limits` how long its requests may take."""
    obstore = library()
    _users.add(os.getpid())
    if len(_users) > 1:
        # The library's threads are in the other one, and nothing would ever be answered here.
        raise ConfigurationError(
            f"{link} cannot be opened: this process was forked from one that has used an object "
            "store",
            next_step="Start processes by multiprocessing's 'spawn' or 'forkserver', or before "
            "the first use of a store.",
        )
    _refuse_endpoints(link)
    # Plain http is for an endpoint that the user has named so. Time limits and repetitions are
    # ours.
    plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    try:
        return obstore.store.from_url(
            link,
            client_options={"allow_http": plain, "timeout": "1 day", **limits},
            retry_config={"max_retries": 0},
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ConfigurationError(f"{link} cannot be opened: {error}") from error


def _refuse_endpoints(link: str) -> None:
    """Refuse an endpoint that is no URL: the library would panic over it at the first request."""
    for name in ENDPOINTS:
        value = os.environ.get(name, "")
        url = value.lower().startswith(("http://", "https://"))
        if value and not url and link.startswith("s3") and name.startswith("AWS"):
            raise ConfigurationError(
                f"{name}: expected a URL such as https://{value}, got {value!r:.200}"
            )


# --- A prefix as a folder of videos: what is there, and whether it is what was put.


PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try of a store that is busy."""
PIECE = 256 * 1024
"""Bytes of an object that are read at once."""
SILENCE = "30 s"
"""How long a store may say nothing to a thread, which nobody can cancel."""


class ObjectFolder:
    """One prefix of a bucket; the environment says how to reach it. Blocks."""

    def __init__(self, link: str) -> None:
        """Open it; raises `ConfigurationError` when that cannot be done."""
        self.link = link.rstrip("/")
        bucket, key = split_link(self.link)
        self._prefix = f"{key}/" if key else ""
        self._store = opened(bucket, read_timeout=SILENCE)

    def key(self, name: str) -> str:
        """Return the key of a name in the folder."""
        return self._prefix + name

    def sizes(self) -> dict[str, int]:
        """List what is in the folder: the bytes of each object, by its name."""
        found: dict[str, int] = {}

        def look() -> None:
            for page in library().list(self._store, prefix=self._prefix.rstrip("/") or None):
                for each in page:
                    name = each["path"].removeprefix(self._prefix)
                    if "/" not in name:
                        found[name] = each["size"]

        try:
            self._tried(look)
        except DownloadError as error:
            raise error.with_facts(charged="no") from None
        return found

    def size(self, name: str) -> int | None:
        """Return how many bytes an object has; None when there is none."""

        def look() -> int | None:
            try:
                return int(library().head(self._store, self.key(name))["size"])
            except FileNotFoundError:
                return None

        return self._tried(look)

    def pieces(self, name: str) -> Iterator[bytes]:
        """Read an object from its beginning to its end; raises `FileNotFoundError`."""
        link, at = f"{self.link}/{name}", 0
        for pause in (*PAUSES, None):
            try:
                with our_errors(link, missing=True, cannot_be="read"):
                    options = {"range": {"offset": at}} if at else None
                    answer = library().get(self._store, self.key(name), options=options)
                    for piece in answer.stream(min_chunk_size=PIECE):
                        at += len(piece)
                        yield bytes(piece)
                    return
            except StoreBusyError as error:
                _wait(link, "read", error, pause)

    def move(self, name: str, to: str) -> None:
        """Give an object another name; raises `DestinationExistsError` when that is taken."""
        if self.size(to) is not None:
            taken = f"{self.link}/{to}"
            raise DestinationExistsError(f"{taken} exists already", path=taken)
        move = partial(library().rename, self._store, self.key(name), self.key(to))
        self._tried(move, cannot_be="written")

    def _tried(self, call: Callable[[], T], *, cannot_be: str = "read") -> T:
        for pause in (*PAUSES, None):
            try:
                with our_errors(self.link, cannot_be=cannot_be):
                    return call()
            except StoreBusyError as error:
                _wait(self.link, cannot_be, error, pause)
        raise AssertionError("the last try returns or raises")


def _wait(link: str, cannot_be: str, error: StoreBusyError, pause: float | None) -> None:
    """Pause before another try; raises `HappyHorseError` after the last one."""
    if pause is None:
        raise HappyHorseError(
            f"{link} cannot be {cannot_be}: {error}",
            next_step="Do the same again when the store answers.",
        ) from error
    time.sleep(pause)
