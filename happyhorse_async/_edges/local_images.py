"""First frames on this machine. They are looked at before anything is sent, and sent only if they
are still what was looked at.

All but `look_at` blocks, and runs in worker threads.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import BinaryIO, cast

import anyio.to_thread
import attrs

from .._formats import images
from ..errors import InvalidRequestError
from . import disk

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
    """Check an image by its header and its end, and take its digest, in a worker thread."""
    return await anyio.to_thread.run_sync(examined, source)


def file_problems(path: Path) -> list[str]:
    """List what is wrong with an image file, by its header and its end."""
    try:
        with _opened(path) as file:
            return _problems(file, *_header(file))
    except (OSError, ValueError) as error:
        return [_unreadable(path, error)]


def examined(source: Path | bytes) -> LocalImage:
    """Do what `look_at` does, in the calling thread."""
    if isinstance(source, bytes):
        return _described(source, io.BytesIO(source), "frame")
    try:
        with _opened(source) as file:
            return _described(source, file, source.stem)
    except (OSError, ValueError) as error:
        return LocalImage(source=source, problems=(f"image: {_unreadable(source, error)}",))


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(disk.open_regular(path), "rb")


def _unreadable(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        hint = "; only shells put a home for ~" if str(path)[0] == "~" else ""
        return f"there is no such file: {str(path)!r}{hint}"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{str(path)!r} cannot be read: {reason or error}"


def _header(file: BinaryIO) -> tuple[bytes, int]:
    """Read the beginning of an image, as far as it is needed, and its size in bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = file.read(images.HEADER_BYTES)
    if images.needs_more(header, size):
        header += file.read(images.LARGEST_FILE)
    return header, size


def _problems(file: BinaryIO, header: bytes, size: int) -> list[str]:
    """List what is wrong with an open image. Afterwards it stands where the header ends."""

    def find(mark: bytes, start: int) -> bool:
        """Look for bytes from the end of the file on, as far as a start."""
        end = size
        while end > start:
            begin = max(start, end - _PIECE)
            file.seek(begin)
            # A mark may stand on the border of two pieces.
            if mark in file.read(end - begin + len(mark) - 1):
                return True
            end = begin
        return False

    try:
        return images.frame_problems(header, size, find)
    finally:
        file.seek(len(header))


def _described(source: Path | bytes, file: BinaryIO, stem: str) -> LocalImage:
    header, size = _header(file)
    problems = tuple(f"image: {problem}" for problem in _problems(file, header, size))
    if problems:
        return LocalImage(source=source, problems=problems, size=size)
    digest = hashlib.sha256(header)
    while piece := file.read(_PIECE):
        digest.update(piece)
    frame = images.read_frame(header)
    # The name travels in a header of the form, and only its ending matters to the service.
    name = f"{_plain(stem) or 'frame'}.{'jpg' if frame.format == 'jpeg' else frame.format}"
    return LocalImage(
        source=source,
        problems=(),
        sha256=digest.hexdigest(),
        size=file.tell(),
        mime_type=frame.mime_type,
        name=name,
    )


def _plain(stem: str) -> str:
    kept = (
        character if character.isascii() and (character.isalnum() or character in "-_") else "_"
        for character in stem
    )
    return "".join(kept)[:80]


def opened_for_sending(image: LocalImage) -> BinaryIO:
    """Open what is to be sent; raises `InvalidRequestError` when it is not what was looked at."""
    source = image.source
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return cast(BinaryIO, CheckedFile(_opened(source), image))
    except (OSError, ValueError) as error:
        raise InvalidRequestError([f"image: {_unreadable(source, error)}"]) from None


def changed(image: LocalImage) -> InvalidRequestError:
    """Make the error of an image that is not what was looked at."""
    return InvalidRequestError([f"image: {str(image.source)!r} has changed since it was checked"])


class CheckedFile(io.BufferedIOBase):
    """An image file on its way to the service, hashed while it is read.

    When it is not what was looked at, its last piece is withheld, and `changed` says so. The
    service never gets a whole file that nobody has checked.
    """

    def __init__(self, file: BinaryIO, image: LocalImage) -> None:
        super().__init__()
        self._file = file
        self._image = image
        self._digest = hashlib.sha256()
        self.changed = False
        if os.fstat(file.fileno()).st_size != image.size:
            file.close()
            raise changed(image)

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def fileno(self) -> int:
        """Return the file's descriptor, by which the HTTP library learns its size."""
        return self._file.fileno()

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go back to the beginning, for another sending."""
        if offset or whence:
            raise io.UnsupportedOperation("only the beginning can be gone back to")
        self._digest = hashlib.sha256()
        return self._file.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read the next bytes; raises `OSError` when the image has changed."""
        data = self._file.read(-1 if size is None else size)
        self._digest.update(data)
        position, whole = self._file.tell(), self._image.size
        same = self._digest.hexdigest() == self._image.sha256
        if position > whole or ((position == whole or not data) and not same):
            self.changed = True
            raise OSError("the image has changed since it was looked at")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
