"""Compressed bodies, read with a limit: a few bytes can stand for gigabytes.

Pure functions over bytes, standard library only.
"""

from __future__ import annotations

import zlib

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
