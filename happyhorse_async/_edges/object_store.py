"""Videos straight into an object store: `save_to="s3://bucket/prefix/"`, gs://, az://. Needs the
extra `object-store` (obstore).

Credentials and endpoints come from the environment, as usual for each store. A video is streamed,
verified, and only then visible under its key; with `overwrite=False` the store itself refuses to
replace an object. Small videos are put with one conditional request. Larger ones are uploaded in
parts while they are downloaded, to a temporary key beside the final one, and copied inside the
store by a conditional copy. A download that is cut goes on where it was within one call; between
processes it begins anew.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from .._concurrency import Threads, to_the_end
from .._formats import filenames
from .._formats.http_ranges import Held
from .._formats.mp4 import Movie
from ..errors import ConfigurationError, DestinationExistsError, DownloadError, HappyHorseError
from .part_files import Tally

SINGLE_PUT = 8 * 1024 * 1024
"""Bytes up to which a video is kept in memory and put with one request."""
PART = 8 * 1024 * 1024
"""Bytes of one part of an upload; stores want at least 5 MiB."""
PARTS_AT_ONCE = 2
"""Parts of one upload on the wire at once: eight downloads must not fill the memory when the store
is slower than the file host."""
CLEAN_UP_SECONDS = 10.0
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "GOOGLE_STORAGE_ENDPOINT",
)


def _obstore() -> Any:
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


def open_store(link: str) -> Any:
    """Open a bucket; the environment says how."""
    scheme = link.partition("://")[0]
    # A copy inside the store takes its content type from here. Plain http is for an endpoint that
    # the user has named so.
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    options = {"default_content_type": "video/mp4", "allow_http": plain}
    special = (
        {"copy_if_not_exists": os.environ.get("AWS_COPY_IF_NOT_EXISTS", "multipart")}
        if scheme in ("s3", "s3a")
        else {}
    )
    obstore = _obstore()
    try:
        return obstore.store.from_url(link, client_options=options, **special)
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise ConfigurationError(f"{link} cannot be opened: {error}") from error


@contextmanager
def _our_errors(link: str) -> Iterator[None]:
    exceptions = _obstore().exceptions
    try:
        yield
    except HappyHorseError:
        raise
    except exceptions.AlreadyExistsError as error:
        raise DestinationExistsError(f"{link} exists already", path=link) from error
    except (exceptions.BaseError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise DownloadError(f"{link} cannot be written: {first_line}", path=link) from error


async def refuse_unusable(link: str, key: str | None, *, overwrite: bool) -> None:
    """Raise `DownloadError` when nothing can be saved in a bucket, as far as that is known before
    there is a task; `key` is None where it is not known yet.
    """
    bucket = split_link(link)[0]
    store = await asyncio.to_thread(open_store, bucket)
    try:
        with _our_errors(link):
            # Asked for in any case: it shows before anything is paid whether the store lets us in.
            found = await _exists(store, key or "happyhorse-async-is-this-open")
    except DownloadError as error:
        raise error.with_facts(charged="no") from error.__cause__
    if key is not None and found and not overwrite:
        raise DestinationExistsError(f"{link} exists already", path=link, charged="no")


async def _exists(store: Any, key: str) -> bool:
    try:
        await _obstore().head_async(store, key)
    except FileNotFoundError:
        return False
    return True


class ObjectSink:
    """Streams one video into an object store; see `transfer.Sink`."""

    def __init__(
        self, store: Any, url: str, key: str, *, overwrite: bool, threads: Threads
    ) -> None:
        self.url = url
        self.key = key
        self._store = store
        self._overwrite = overwrite
        self._threads = threads
        self._held = Held()
        self._tally = Tally()
        self._pieces: list[bytes] = []
        """What is there of a small video."""
        self._draft = ""
        """The temporary key of a large one."""
        self._writer: Any = None
        self._closing: asyncio.Future[None] | None = None
        self._sound = True
        """What is there is what was handed over."""

    @classmethod
    async def make(
        cls,
        bucket: str,
        key: str,
        *,
        overwrite: bool,
        threads: Threads,
    ) -> ObjectSink:
        """Open the store; raises `DestinationExistsError` when there is an object already."""
        store = await threads.run(partial(open_store, bucket))
        sink = cls(store, f"{bucket}/{key}", key, overwrite=overwrite, threads=threads)
        if not overwrite:
            with _our_errors(sink.url):
                if await _exists(store, key):
                    raise DestinationExistsError(f"{sink.url} exists already", path=sink.url)
        return sink

    async def open(self) -> Held:
        """Say what was handed over by earlier tries of this call."""
        if not self._sound:
            await self.discard()
        return Held(self._tally.size, self._held.validator, self._held.length)

    async def restart(self, held: Held, pieces: Sequence[bytes]) -> None:
        """Begin anew."""
        await self.discard()
        self._held = held
        await self.write(pieces)

    async def require(self, needed: int) -> None:
        """Object stores have room."""

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Hash bytes and hand them over; a large video's go to the store at once."""
        self._sound = False
        await self._threads.run(partial(self._tally.feed_all, pieces))
        self._pieces += pieces
        if self._writer is None and self._tally.size > SINGLE_PUT:
            self._draft = f"{self.key}.{secrets.token_hex(8)}.part"
            self._writer = _obstore().open_writer_async(
                self._store, self._draft, buffer_size=PART, max_concurrency=PARTS_AT_ONCE
            )
        if self._writer is not None:
            waiting, self._pieces = b"".join(self._pieces), []
            with _our_errors(self.url):
                await self._writer.write(waiting)
        self._sound = True

    async def publish(self, pieces: Sequence[bytes]) -> tuple[str, Movie]:
        """Verify, then make the object visible under its key."""
        await self.write(pieces)
        described = await self._threads.run(self._tally.finish)
        with _our_errors(self.url):
            if self._writer is None:
                mode = "overwrite" if self._overwrite else "create"
                await _obstore().put_async(
                    self._store, self.key, b"".join(self._pieces), mode=mode, use_multipart=False
                )
            else:
                await self._publish_draft()
        return described

    async def reject(self, page: bytes | None = None) -> str:
        """Keep what is there, or a page that came instead, under a key beside the final one."""
        key = self.key + filenames.REJECTED_SUFFIX
        with _our_errors(self.url):
            if page is not None or self._writer is None:
                data = b"".join(self._pieces) if page is None else page
                await _obstore().put_async(self._store, key, data, use_multipart=False)
            else:
                await self._close_writer()
                await _obstore().copy_async(self._store, self._draft, key)
        return self.url + filenames.REJECTED_SUFFIX

    async def _publish_draft(self) -> None:
        await self._close_writer()
        found = await _obstore().head_async(self._store, self._draft)
        if found["size"] != self._tally.size:
            raise DownloadError(
                f"{self.url}: the store has {found['size']} of {self._tally.size} bytes",
                path=self.url,
            )
        await _obstore().copy_async(self._store, self._draft, self.key, overwrite=self._overwrite)
        await self._remove_draft()

    async def _close_writer(self) -> None:
        """End the upload, once, and to its end though the caller is cancelled: only then can what
        it makes be removed.
        """
        if self._writer is not None:
            if self._closing is None:
                self._closing = asyncio.ensure_future(self._writer.close())
            await asyncio.shield(self._closing)
            self._writer = self._closing = None

    async def _remove_draft(self) -> None:
        if self._draft:
            with suppress(FileNotFoundError):
                await _obstore().delete_async(self._store, self._draft)
            self._draft = ""

    async def discard(self) -> None:
        """Throw away what was handed over. An unfinished upload is finished under its temporary
        key, so that it can be removed.
        """
        self._tally, self._held, self._pieces, self._sound = Tally(), Held(), [], True
        with _our_errors(self.url):
            try:
                await self._close_writer()
            finally:
                self._writer = self._closing = None
                await self._remove_draft()

    async def close(self) -> None:
        """Keep what was handed over for the next try."""

    async def release(self) -> None:
        """Leave nothing behind but the object, however often the caller is cancelled meanwhile."""
        await to_the_end(
            asyncio.create_task(self._clean_up(), name="happyhorse_async: clean up an upload")
        )

    async def _clean_up(self) -> None:
        # A store that cannot be reached keeps its temporary object, and the error that matters
        # stays the caller's.
        with suppress(DownloadError, TimeoutError):
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                await self.discard()
