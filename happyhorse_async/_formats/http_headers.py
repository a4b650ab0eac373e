"""What headers of HTTP say: dates, and how a body is encoded.

Pure functions over text and bytes, standard library only.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def http_date(text: str | None) -> datetime | None:
    """Read a date of a header; None when there is none, or when it cannot be read.

    All of them are in UTC (RFC 9110, section 5.6.7), also where no zone stands.
    """
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def date_of(headers: Mapping[str, str]) -> float | None:
    """Read the host's own time, in Unix seconds; None when it does not say it."""
    told = http_date(headers.get("Date"))
    return told.timestamp() if told is not None else None


_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})


def encoding_of(headers: Mapping[str, str]) -> str:
    """Read Content-Encoding; "" when the bytes are sent as they are. That they also are under other
    names than a compression's: a store may tell how a file was once uploaded (`aws-chunked`).
    """
    names = (name.strip() for name in headers.get("Content-Encoding", "").lower().split(","))
    return ", ".join(name for name in names if name in _COMPRESSIONS)


# --- Compressed bodies, read with a limit: a few bytes can stand for gigabytes.


MOST_LAYERS = 3
_GZIP, _ZLIB, _DEFLATE = 31, 15, -15


class TooLargeError(ValueError):
    """What is in there is larger than it may be."""


def decoded(body: bytes, encoding: str, *, most: int) -> bytes:
    """Return a body without its Content-Encoding.

    A JSON object or array under such a label is returned as it is: no encoding begins so. Servers
    have called the charset an encoding, or said gzip of what was plain.

    Raises `TooLargeError` when it has more than `most` bytes at any layer, and `ValueError` when it
    cannot be read.
    """
    if body[:64].lstrip()[:1] in (b"{", b"["):
        return body
    layers = [name for name in encoding.lower().replace(",", " ").split() if name != "identity"]
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{len(layers)} encodings around each other")
    for name in reversed(layers):
        if name in ("gzip", "x-gzip"):
            body = _inflated(body, _GZIP, most)
        elif name == "deflate":
            body = _inflated(body, _ZLIB if _has_zlib_head(body) else _DEFLATE, most)
        else:
            raise ValueError(f"an encoding that nobody asked for: {name[:40]!r}")
    return body


def _has_zlib_head(body: bytes) -> bool:
    # Half of the world's servers send deflate without the head that the standard asks for.
    return len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _inflated(body: bytes, kind: int, most: int) -> bytes:
    whole = bytearray()
    while body:
        machine = zlib.decompressobj(kind)
        try:
            whole += machine.decompress(body, most + 1 - len(whole))
        except zlib.error as error:
            if whole:  # what follows the last member of a gzip is padding
                break
            raise ValueError(str(error)) from None
        if len(whole) > most:
            raise TooLargeError(f"more than {most:,} bytes")
        if not machine.eof:
            raise ValueError("it was cut off")
        body = machine.unused_data
    return bytes(whole)


class Decoder:
    """Undoes a content encoding that a host used although it was not asked to.

    Takes bytes as they come, and gives them back in pieces of bounded size.
    """

    PIECE = 1024 * 1024

    def __init__(self, encoding: str) -> None:
        self._gzip = encoding != "deflate"
        self._inflater = zlib.decompressobj(_GZIP if self._gzip else _ZLIB)
        self._waiting = b""
        self._full = False
        """The last piece was as large as may be: there may be more of what has been taken."""
        self._begun = False

    @staticmethod
    def knows(encoding: str) -> bool:
        """Whether an encoding can be undone."""
        return encoding in ("gzip", "x-gzip", "deflate")

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._waiting += data

    def read(self) -> bytes:
        """Return the next piece, b"" when more bytes are needed; raises `ValueError`."""
        if not self._begun and self._waiting:
            self._begun = True
            if not self._gzip and self._waiting[0] & 0x0F != 8:
                # Some hosts send deflate without the header that its name stands for.
                self._inflater = zlib.decompressobj(_DEFLATE)
        piece = b""
        while (self._waiting or self._full) and not piece:
            if self._inflater.eof:
                if not self._gzip or self._waiting[:2] != b"\x1f\x8b":
                    break
                self._inflater = zlib.decompressobj(_GZIP)  # another member follows
            try:
                piece = self._inflater.decompress(self._waiting, self.PIECE)
            except zlib.error as error:
                raise ValueError(f"the host's encoding is broken: {error}") from None
            self._full = len(piece) == self.PIECE
            self._waiting = self._inflater.unconsumed_tail or self._inflater.unused_data
        return piece

    @property
    def ended(self) -> bool:
        """Whether the encoded bytes are whole."""
        return self._inflater.eof
