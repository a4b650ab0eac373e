"""`multipart/form-data` from bytes that are all there: a pure function, quick on files of many megabytes."""

from __future__ import annotations

from email.message import Message

import attrs

from .refusals import Refusal

__all__ = ["Part", "parse_multipart"]


@attrs.frozen
class Part:
    """One field of a form: its file name, if it is a file, and its bytes."""

    filename: str | None
    data: bytes = attrs.field(repr=False)


def parse_multipart(body: bytes, content_type: str) -> dict[str, Part]:
    """Return the fields by name; raises `Refusal` (400) when the body is not a well-formed form."""
    header = _header("content-type", content_type)
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise Refusal(400, "invalid_request", "the body must be multipart/form-data")
    try:
        delimiter = b"\r\n--" + boundary.encode("ascii")
    except UnicodeEncodeError:
        raise Refusal(400, "invalid_request", "the boundary must be ASCII") from None
    _, *pieces = (b"\r\n" + body).split(delimiter)
    if not pieces or not pieces[-1].startswith(b"--"):
        raise Refusal(400, "invalid_request", "the form does not end with its boundary")
    return dict(_part(piece) for piece in pieces[:-1])


def _part(piece: bytes) -> tuple[str, Part]:
    head, separator, data = piece.partition(b"\r\n\r\n")
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if separator and name.strip().lower() == "content-disposition":
            disposition = _header("content-disposition", value.strip())
            field = disposition.get_param("name", header="content-disposition")
            if isinstance(field, str):
                return field, Part(disposition.get_filename(), data)
    raise Refusal(400, "invalid_request", "a part of the form has no name")


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message
