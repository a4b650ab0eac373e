"""Rows from files: folders and globs of images, CSV, JSON, JSON Lines, Parquet, standard input. And
what their columns mean.

What is wrong with a row is a text in its place, so that one look names everything.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import glob
import io
import json
import re
import stat
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .._formats.texts import has_surrogate
from ..errors import ConfigurationError
from ._identity import text_problem

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
CHUNK = 256
"""Rows of Parquet that are read in one go."""
STANDARD_INPUT = "-"
SAMPLE = 1 << 20
"""Bytes by which an encoding is guessed."""
MOST_NAMED = 10
"""Skipped files that are remembered by name."""


class TableLine(NamedTuple):
    """One row of a source."""

    number: int
    """Its line, from 1; in folders and Parquet its place."""
    row: dict[str, Any] | str
    """The row, or what is wrong with it."""
    name: str | None = None
    """The file that the row is, in a folder."""


class Source:
    """What a manifest is read from; it can be read several times."""

    def __init__(self, source: str, *, encoding: str | None) -> None:
        self.path = Path(source)
        self.skipped = 0
        """Files of a folder or glob that are no images, at the last reading."""
        self.skipped_names: list[str] = []
        """The first of those."""
        self._encoding = _known_encoding(encoding)
        piped = source == STANDARD_INPUT
        self._content = (sys.stdin.buffer.read() if sys.stdin else b"") if piped else None
        self._read = self._reader(source) if self._content is None else self._piped(self._content)

    @property
    def base(self) -> Path | None:
        """Return the folder that relative paths in a table are meant from; None: from here."""
        return self.path.parent if self._content is None and self.path.is_file() else None

    def lines(self) -> Iterator[TableLine]:
        """Read every row, from the first on; raises `ConfigurationError` when the disk fails."""
        self.skipped, self.skipped_names = 0, []
        try:
            yield from self._read()
        except OSError as error:
            raise ConfigurationError(
                f"{str(self.path)!r} cannot be read: {error.strerror or error}"
            ) from error

    def _reader(self, source: str) -> Callable[[], Iterator[TableLine]]:
        try:
            # Not `exists`: from Python 3.14 on it is silent about what cannot be looked at.
            mode = self.path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            if glob.has_magic(source):
                return lambda: self._images(map(Path, glob.iglob(source, recursive=True)))
            raise ConfigurationError(
                f"there is nothing at {source!r}",
                next_step="Give a folder or a glob of images, or a table of them.",
            ) from None
        if stat.S_ISDIR(mode):
            return lambda: self._images(self.path.iterdir())
        kinds: dict[str, Callable[[], Iterator[TableLine]]] = {
            **dict.fromkeys((".csv", ".tsv"), self._csv),
            **dict.fromkeys((".jsonl", ".ndjson", ".json"), self._json),
            **dict.fromkeys(SUFFIXES, lambda: self._images([self.path])),
            ".parquet": self._parquet,
        }
        reader = kinds.get(self.path.suffix.lower())
        if reader is None:
            raise ConfigurationError(
                f"{source!r}: expected a folder, a glob, an image, or a .csv, .tsv, .json, .jsonl "
                "or .parquet file",
                next_step="Save a workbook of Excel as CSV UTF-8 first."
                if self.path.suffix.lower().startswith((".xls", ".ods", ".numbers"))
                else None,
            )
        return reader

    def _piped(self, content: bytes) -> Callable[[], Iterator[TableLine]]:
        """Return what reads a table whose name says nothing of its kind."""
        encoding = self._encoding_of(content)
        text = content[:SAMPLE].decode(encoding, "replace").lstrip("\ufeff \t\r\n")
        return self._json if text.startswith(("[", "{")) else self._csv

    def _encoding_of(self, beginning: bytes) -> str:
        return self._encoding or _marked_encoding(beginning) or "utf-8"

    def _open(self) -> BinaryIO:
        return io.BytesIO(self._content) if self._content is not None else self.path.open("rb")

    # --- folders ------------------------------------------------------------------------------

    def _images(self, paths: Iterable[Path]) -> Iterator[TableLine]:
        # Sorted, so that a report is in the order in which people look at a folder.
        number = 0
        for path in sorted(path for path in paths if not path.name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                number += 1
                yield TableLine(number, {"image": path}, str(path))
            else:
                self.skipped += 1
                if len(self.skipped_names) < MOST_NAMED:
                    self.skipped_names.append(f"{path.name}/" if path.is_dir() else path.name)

    # --- CSV ----------------------------------------------------------------------------------

    def _csv(self) -> Iterator[TableLine]:
        with self._open() as file:
            encoding = self._encoding_of(file.read(4))
            file.seek(0)
            # Bytes that are no such text become lone surrogates, and spoil their own row only.
            errors = (
                "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
            )
            number = 0
            try:
                with io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="") as text:
                    for line in _rows(text):
                        number, row, _ = line
                        spoiled = _spoiled(row) if isinstance(row, dict) else None
                        if spoiled is not None:
                            line = line._replace(row=self._not_text(encoding, *spoiled))
                        yield line
            except UnicodeDecodeError as error:
                yield TableLine(number + 1, f"cannot be read, nor what follows: {error}")

    def _not_text(self, encoding: str, column: str, value: str) -> str:
        """Say what is wrong with a cell that is no text, and what to do."""
        with self._open() as file:
            guess = guessed_encoding(file.read(SAMPLE))
        if guess != "utf-16" and not has_surrogate(column + value):
            return f"has a NUL character in the column {column!r}: remove it"
        shown = encoding.removesuffix("-sig").upper()
        if guess in (None, encoding):
            return f"is not {shown} text: {column!r}"
        return (
            f'is not {shown} text: {column!r}. The table looks like {guess}: save it as "CSV UTF-8"'
            f", or pass --encoding {guess}"
        )

    # --- JSON ---------------------------------------------------------------------------------

    def _json(self) -> Iterator[TableLine]:
        with self._open() as file:
            encoding = self._encoding_of(file.read(4))
            file.seek(0)
            if encoding != "utf-8":
                text = io.TextIOWrapper(file, encoding=encoding, errors="replace").read()
                file = io.BytesIO(text.removeprefix("\ufeff").encode())
            first = next(filter(None, map(bytes.strip, file)), b"")
            file.seek(0)
            if first.startswith(b"[") or first == b"{":
                yield from _array(file.read())
            else:
                yield from _json_lines(file)

    # --- Parquet ------------------------------------------------------------------------------

    def _parquet(self) -> Iterator[TableLine]:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise ConfigurationError(
                "Parquet needs one more package: pip install 'happyhorse-async[parquet]'"
            ) from None
        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(batch_size=CHUNK):
                    for row in batch.to_pylist():
                        number += 1
                        yield TableLine(number, row)
        # Beside Arrow's own: a damaged page is an `OSError`, a time beyond Python's a `ValueError`.
        except (ArrowException, OSError, ValueError) as error:
            yield TableLine(number + 1, f"cannot be read, nor what follows: {error}")


# --- CSV ------------------------------------------------------------------------------------------


def _rows(text: io.TextIOWrapper) -> Iterator[TableLine]:
    delimiter, before = _separator(text)
    # Strict: a quotation mark that is never closed would swallow the rows after it.
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + before + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield TableLine(number, _crooked(error, reader.line_num + before))
            if header is None or "larger than field limit" in str(error):
                return
            continue
        if cells is None:
            return
        if not any(cell.strip("\ufeff \t") for cell in cells):
            continue  # spreadsheets leave blank rows above a table, and below it
        if header is None:
            header = [name.strip().removeprefix("\ufeff") for name in cells]
            twice = [name for name in header if name and header.count(name) > 1]
            if twice:
                yield TableLine(number, f"the column {twice[0]!r} comes twice")
                return
        else:
            yield TableLine(number, _row(header, cells))


def _separator(text: io.TextIOWrapper) -> tuple[str, int]:
    """Find what separates columns; return it, and how many lines were read to know it."""
    first = text.readline()
    # Excel's own way to say it: a line before the header.
    said = re.fullmatch(r'"?sep=(.)"?\s*', first.lstrip("\ufeff"))
    if said:
        return said[1], 1
    while first and not first.strip("\ufeff \t\r\n,;"):
        first = text.readline()
    text.seek(0)
    # Spreadsheets in many countries write semicolons.
    return max(",;\t", key=first.count), 0


def _row(header: list[str], cells: list[str]) -> dict[str, Any] | str:
    if any(cells[len(header) :]):
        return f"has more values than the header's {len(header)} columns"
    missing = [""] * (len(header) - len(cells))
    return dict(zip(header, [*cells, *missing], strict=False))


def _crooked(error: csv.Error, last: int) -> str:
    if "unexpected end" in str(error):
        return (
            "a quotation mark that opens here is never closed: what follows, up to line "
            f"{last}, is inside of it"
        )
    if "larger than field limit" in str(error):
        return f"cannot be read, nor what follows: {error}. Is a quotation mark never closed?"
    return f"the quotation marks do not match: {error}"


def _spoiled(row: dict[str, str]) -> tuple[str, str] | None:
    """Return the first column that is no text, and its value; None when all are text."""
    return next((cell for cell in row.items() if any(map(text_problem, cell))), None)


# --- JSON -----------------------------------------------------------------------------------------


_NO_JSON = (ValueError, RecursionError)
"""What reading JSON raises; the latter where brackets are nested too deeply."""


def _array(content: bytes) -> Iterator[TableLine]:
    try:
        rows = json.loads(content, object_pairs_hook=_named_once)
    except _NO_JSON as error:
        yield TableLine(getattr(error, "lineno", 1), f"is not JSON: {error}")
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield TableLine(number, _object(row))


def _json_lines(file: BinaryIO) -> Iterator[TableLine]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield TableLine(number, _object(json.loads(line, object_pairs_hook=_named_once)))
        except _NO_JSON as error:
            yield TableLine(number, f"is not JSON: {error}")


class _Twice(dict[str, Any]):
    """An object in which a name comes twice: one of its values would be lost."""


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    return row if len(row) == len(pairs) else _Twice(Counter(name for name, _ in pairs))


def _object(row: Any) -> dict[str, Any] | str:
    if isinstance(row, _Twice):
        return f"the column {max(row, key=row.__getitem__)!r} comes twice"
    return row if isinstance(row, dict) else f"expected a JSON object, got {type(row).__name__}"


# --- encodings ------------------------------------------------------------------------------------


def _known_encoding(encoding: str | None) -> str | None:
    """Return the codec of a name; raises `ConfigurationError` for one that is none of text."""
    if encoding is None:
        return None
    try:
        codec = codecs.lookup(encoding)
        "".encode(codec.name)
    except (LookupError, ValueError):
        raise ConfigurationError(
            f"--encoding: {encoding!r} is not known; expected utf-8, gbk, cp1252 or the like"
        ) from None
    return "utf-8-sig" if codec.name == "utf-8" else codec.name


def _marked_encoding(beginning: bytes) -> str | None:
    """Return the encoding that a byte order mark says; None without one."""
    marks = (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    )
    return next((name for mark, name in marks if beginning.startswith(mark)), None)


def guessed_encoding(sample: bytes) -> str | None:
    """Guess the encoding of text that is not UTF-8: "gbk", "cp1252", "utf-16"; None for no text.

    Chinese texts in GBK are pairs of high bytes; in Western ones high bytes stand alone.
    """
    if b"\0" in sample:
        even, odd = sample[0::2].count(0), sample[1::2].count(0)
        return "utf-16" if max(even, odd) > len(sample) / 4 else None
    high = re.findall(rb"[\x80-\xff]+", sample)
    paired = sum(len(run) for run in high if len(run) % 2 == 0)
    if paired > 0.8 * sum(map(len, high)):
        text = sample.decode("gb18030", "replace")
        if not has_surrogate(text) and text.count("\ufffd") <= len(text) / 100:
            return "gbk"
    return "cp1252"


# --- What the columns of a table mean, and which ones only look as if they meant something.


FIELDS = ("image", "prompt", "quality", "duration", "seed", "model", "callback_url")
"""The fields of a request, as columns."""
IMAGE_COLUMNS = ("image", "image_url", "image_path", "file", "url")
"""Columns that hold the first frame; the first one that is not empty counts."""
KNOWN = ("id", *FIELDS, *IMAGE_COLUMNS[1:])
"""Every column that means something."""

# "prompts" is near enough to "prompt" to stop a run over it, "prompt_id" is a column of one's own.
_NEAR = 0.82


def _bare(name: str) -> str:
    """Return a name without case, blanks and what else people write between words."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in plain if character.isalnum())


_BY_BARE = {_bare(name): name for name in KNOWN}


@lru_cache(maxsize=1024)
def meaning(name: str) -> str | None:
    """Return what a column means, in whatever case and with whatever blanks it is written.

    "Image URL" is "image_url"; None: the column is the caller's own.
    """
    return _BY_BARE.get(_bare(name))


@lru_cache(maxsize=1024)
def near_miss(name: str) -> str | None:
    """Return the column that a name was probably meant to be; None when it is like none.

    A misspelt column would be paid for and ignored.
    """
    if meaning(name) is not None:
        return None
    spelled = "_".join(unicodedata.normalize("NFKC", name).casefold().replace("-", " ").split())
    # KNOWN without "id": two letters are like too many names.
    found = difflib.get_close_matches(spelled, KNOWN[1:], 1, _NEAR)
    return found[0] if found else None
