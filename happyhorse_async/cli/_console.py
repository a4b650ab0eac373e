"""What the commands print, and what they ask.

Printing never ends paid work. A reader that went away, a full disk and a narrow encoding cost text,
not videos. Texts of others cannot steer the terminal.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from decimal import Decimal
from typing import IO, Any, cast

from .._formats.texts import printable
from .._values import plain

_GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN, errno.EINVAL)
"""Nobody reads any more; EIO: the terminal was closed, EINVAL: a pipe's end on Windows."""


class PatientStream:
    """A standard stream that takes all it is given, read or not."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Return whether a person reads it."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it is closed
            return False

    def write(self, text: str) -> int:
        """Write a text, as far as anybody reads it."""
        if self._stream is not None:  # None: as under pythonw
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        """Send what follows to nowhere, what Python writes at its end too."""
        if isinstance(error, UnicodeError):
            raise error
        stream, self._stream = self._stream, None
        if isinstance(error, OSError) and stream is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            if error.errno not in _GONE and stream is sys.stdout:
                say(
                    f"warning: the output could not be written ({error.strerror}); the work goes on"
                )


def stream_for_people() -> IO[str]:
    """Return stderr as a stream that never fails, for displays."""
    return cast("IO[str]", PatientStream(sys.stderr))


def is_for_people() -> bool:
    """Return whether stdout is a terminal; else results must not take the way of the display."""
    return PatientStream(sys.stdout).isatty()


def be_tolerant() -> None:
    """Let stdout and stderr take every text: what their encoding lacks is spelled out."""
    codecs.register_error("happyhorse", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="happyhorse")


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """Keep the bytes of a file's name that is no text; spell out what the encoding lacks."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def say(text: str) -> None:
    """Print for people: to stderr, so that stdout holds results only."""
    _print(sys.stderr, harmless(text))


def put(value: Any) -> None:
    """Print a result on stdout: text as it is, anything else as one line of JSON."""
    _print(sys.stdout, harmless(value) if isinstance(value, str) else _json(plain(value)))


def put_path(path: object) -> None:
    """Print a path on stdout: harmless on a terminal, exact where the next command reads it."""
    text = str(path)
    _print(sys.stdout, harmless(text) if is_for_people() else text)


def harmless(text: str) -> str:
    """Return a text whose lines cannot steer a terminal."""
    return "\n".join(printable(line, most=len(line)) for line in text.split("\n"))


def _json(value: Any) -> str:
    """Write JSON that stdout can hold: what its encoding lacks is escaped as JSON does it."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeError:
        return json.dumps(value)
    return text


def _print(stream: IO[str] | None, text: str) -> None:
    patient = PatientStream(stream)
    patient.write(text + "\n")
    patient.flush()


def money(amount: Decimal | float | None) -> str:
    """Write credits with as many decimals as matter."""
    return "?" if amount is None else f"{float(amount):,.2f}".rstrip("0").rstrip(".")


def counted(number: int, thing: str) -> str:
    """Return a number of things in words, such as "1 job" and "2,000 jobs"."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def agreed(question: str) -> bool:
    """Ask on stderr; what is not a yes is a no. Ctrl-C is an interruption, at once."""
    from ._signals import ending_at_once

    with ending_at_once():
        patient = PatientStream(sys.stderr)
        patient.write(f"{harmless(question)} [y/N]: ")
        patient.flush()
        answer = sys.stdin.readline() if sys.stdin is not None else ""
        if not answer:
            say(
                "\nnothing was sent: pass --yes to spend it, and --max-credits for the most that "
                "it may cost"
            )
        return answer.strip().lower() in ("y", "yes")
