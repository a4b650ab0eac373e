"""Local first frames: looked at and opened in worker threads, and sent to the service's file host piece by piece."""

from __future__ import annotations

import asyncio
import hashlib
import io
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import aiohttp
import anyio.to_thread
import attrs

from ..errors import InvalidRequestError
from ..models import UploadedFile
from ..rules import frames, wire
from ..rules.answers import decode_object
from .http import Http

UPLOAD_PATH = "/api/v1/files/upload/stream"
_PIECE = 256 * 1024


@attrs.frozen(kw_only=True)
class LocalImage:
    """What was found out about a first frame before anything is sent."""

    source: Path | bytes
    problems: tuple[str, ...]
    """What the service's reference forbids in it, each as "image: ..."."""
    sha256: str = ""
    size: int = 0
    mime_type: str = ""
    name: str = ""


async def look_at(source: Path | bytes) -> LocalImage:
    """Check an image by its header and take the digest of its content, in a worker thread."""
    return await anyio.to_thread.run_sync(_look_at, source)


def _look_at(source: Path | bytes) -> LocalImage:
    if isinstance(source, bytes):
        return _described(source, io.BytesIO(source), len(source), "frame")
    try:
        if not source.is_file():
            missing = "there is no such file" if not source.exists() else "this is not a file"
            return LocalImage(source=source, problems=(f"image: {missing}: {str(source)!r}",))
        with source.open("rb") as file:
            return _described(source, file, source.stat().st_size, source.stem)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return LocalImage(source=source, problems=(f"image: {str(source)!r} cannot be read: {reason}",))


def _described(source: Path | bytes, file: BinaryIO, size: int, stem: str) -> LocalImage:
    header = file.read(frames.HEADER_BYTES)
    problems = tuple(f"image: {problem}" for problem in frames.frame_problems(header, size))
    if problems:
        return LocalImage(source=source, problems=problems, size=size)
    digest = hashlib.sha256(header)
    while piece := file.read(_PIECE):
        digest.update(piece)
    frame = frames.read_frame(header)
    # The name travels in a header of the form, and only its ending matters to the service.
    name = f"{_plain(stem) or 'frame'}.{'jpg' if frame.format == 'jpeg' else frame.format}"
    return LocalImage(source=source, problems=(), sha256=digest.hexdigest(), size=size, mime_type=frame.mime_type, name=name)


def _plain(stem: str) -> str:
    kept = (character if character.isascii() and (character.isalnum() or character in "-_") else "_" for character in stem)
    return "".join(kept)[:80]


class FileHost:
    """The service's file host."""

    def __init__(self, http: Http, *, timeout: float | None) -> None:
        self._http = http
        self._timeout = timeout

    async def upload_once(self, image: LocalImage) -> UploadedFile:
        """Send an image, one try; a file is read from disk as the network takes it."""
        file = await _opened(image)
        try:
            form = aiohttp.FormData()
            form.add_field("file", file, filename=image.name, content_type=image.mime_type)
            url = self._http.files_url + UPLOAD_PATH
            return wire.decode_upload(await self._http.call("POST", url, form=form, timeout=self._timeout))
        finally:
            file.close()

    async def delete_once(self, file_id: str) -> None:
        """Take a file away, one try; raises the service's error when it will not, or has no such call."""
        url = f"{self._http.files_url}/api/v1/files/{quote(file_id, safe='')}"
        decode_object(await self._http.call("DELETE", url, timeout=self._timeout))


async def _opened(image: LocalImage) -> BinaryIO:
    """Open in a worker thread; a caller who is cancelled meanwhile leaves no open file behind."""
    opening = asyncio.get_running_loop().run_in_executor(None, _open, image)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: asyncio.Future[BinaryIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _open(image: LocalImage) -> BinaryIO:
    if isinstance(image.source, bytes):
        return io.BytesIO(image.source)
    try:
        return image.source.open("rb")
    except OSError as error:
        raise InvalidRequestError([f"image: {str(image.source)!r} cannot be read: {error.strerror or error}"]) from None
