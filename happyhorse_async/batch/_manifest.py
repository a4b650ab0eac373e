"""From files to jobs: a folder or a glob of images, or a table of them as CSV, JSON Lines or
Parquet.

A table's columns are a request's fields (`image`, `prompt`, `quality`, `duration`, `seed`,
`model`, `callback_url`) and `id`; `image_url`, `image_path`, `file` and `url` also mean the image. Every
other column is kept and given back in the results. Rows are read as they are needed, in worker
threads, so a table may be longer than memory.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
import warnings
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, suppress
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import attrs

from .._edges.local_images import file_problems
from .._formats import images
from .._formats.urls import looks_like_link
from .._models import Estimate
from .._request import ImageToVideo
from ..errors import ConfigurationError, InvalidRequestError
from ._jobs import Job, text_problem

FIELDS = ("image", "prompt", "quality", "duration", "seed", "model", "callback_url")
IMAGE_COLUMNS = ("image", "image_url", "image_path", "file", "url")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
CHUNK = 256
"""Rows that are read in one go."""

Line = tuple[int, "dict[str, Any] | str"]
"""A line's number and its row, or what is wrong with the line."""


@attrs.frozen
class BadLine:
    """A row that cannot become a job."""

    source: str
    """The file."""
    line: int
    """The line in it, from 1; for Parquet and folders the row."""
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {'; '.join(self.problems)}"


@attrs.frozen
class Row:
    """A job and where it stands."""

    line: int
    job: Job


class Manifest:
    """An input of jobs; it can be walked several times. `defaults` are fields for rows that do not
    have them.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        defaults: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> None:
        self.source = str(source)
        self._path = Path(source)
        self._defaults = {
            name: value for name, value in (defaults or {}).items() if value is not None
        }
        self._limit = limit
        self._read = _reader_of(self.source)

    async def rows(self, *, look: bool = False) -> AsyncGenerator[Row | BadLine, None]:
        """Walk the rows, good and bad, in order; with `look` local images are opened, and ids that
        come twice are found.
        """
        walk = self._walk(look=look)
        try:
            while True:
                chunk: list[Row | BadLine] = await anyio.to_thread.run_sync(partial(_next_of, walk))
                if not chunk:
                    return
                for row in chunk:
                    yield row
        finally:
            # After a cancellation the thread may still be at it; then the walk ends with it.
            with suppress(ValueError):
                walk.close()

    async def jobs(self) -> AsyncGenerator[Job, None]:
        """Walk the good rows alone, as `Batch.run` takes them."""
        async with aclosing(self.rows()) as rows:
            async for row in rows:
                if isinstance(row, Row):
                    yield row.job

    def _walk(self, *, look: bool) -> Generator[Row | BadLine, None, None]:
        seen: set[int] = set()
        for number, line in itertools.islice(self._read(self._path), self._limit):
            row = self._row(number, line)
            problems = _second_look(row.job, seen) if look and isinstance(row, Row) else ()
            yield BadLine(self.source, number, problems) if problems else row

    def _row(self, number: int, line: dict[str, Any] | str) -> Row | BadLine:
        if isinstance(line, str):
            return BadLine(self.source, number, (line,))
        # Not a number is how many a tool writes an empty cell; JSON, which the results are written
        # in, has no word for it.
        values = {
            str(name).strip(): None if value != value else value for name, value in line.items()
        }
        job_id = None if _absent(values.get("id")) else str(values["id"])
        fields, extra = self._fields(values)
        try:
            return Row(number, Job(_request_of(fields), id=job_id, extra=extra))
        except InvalidRequestError as error:
            return BadLine(self.source, number, error.problems)

    def _fields(self, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort a row's values into a request's fields and the caller's own columns."""
        image = next((name for name in IMAGE_COLUMNS if not _absent(values.get(name))), None)
        fields = dict(self._defaults)
        fields |= {name: values[name] for name in FIELDS[1:] if not _absent(values.get(name))}
        if image is not None:
            fields["image"] = self._image(values[image])
        taken = {"id", image, *FIELDS}
        return fields, {name: value for name, value in values.items() if name not in taken}

    def _image(self, image: Any) -> Any:
        """A relative path in a table is meant from where the table lies."""
        if isinstance(image, str) and not looks_like_link(image) and self._path.is_file():
            return self._path.parent / image
        return image


def _absent(value: Any) -> bool:
    return value is None or value == ""


def _next_of(walk: Iterator[Row | BadLine]) -> list[Row | BadLine]:
    return list(itertools.islice(walk, CHUNK))


def _second_look(job: Job, seen: set[int]) -> tuple[str, ...]:
    """List what only the disk and the other rows can tell."""
    problems = []
    if job.id is not None:
        # Hashes take a tenth of the memory of a million ids; two different ids with one hash are
        # not to be expected.
        if hash(job.id) in seen:
            problems.append(f"id: {job.id!r} came before")
        seen.add(hash(job.id))
    if isinstance(job.request.image, Path):
        problems += [f"image: {problem}" for problem in file_problems(job.request.image)]
    return tuple(problems)


def _request_of(fields: dict[str, Any]) -> ImageToVideo:
    if "image" not in fields:
        raise InvalidRequestError(
            [f"image: missing; expected a column named {', '.join(IMAGE_COLUMNS)}"]
        )
    rest = {
        name: _whole(value) if name in ("duration", "seed") else value
        for name, value in fields.items()
        if name != "image"
    }
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a cut prompt is counted by whoever checks the manifest, not told a thousand times
        return ImageToVideo(fields["image"], **rest)


def _whole(value: Any) -> Any:
    """Read a whole number as tables write it: "5", 5.0, " 5 "; anything else is left for the
    request's own check to complain about.
    """
    try:
        number = Decimal(str(value).strip())
        return int(number) if number == number.to_integral_value() else value
    except (InvalidOperation, ValueError, OverflowError):
        return value


# --- the kinds of sources -------------------------------------------------------------------------


def _reader_of(source: str) -> Callable[[Path], Iterator[Line]]:
    path = Path(source)
    if path.is_dir():
        return _folder
    if not path.exists() and glob.has_magic(source):
        return _globbed
    if not path.exists():
        raise ConfigurationError(
            f"there is nothing at {source!r}",
            next_step="Give a folder or a glob of images, or a table of them.",
        )
    kinds: dict[str, Callable[[Path], Iterator[Line]]] = {
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        **dict.fromkeys((".jsonl", ".ndjson", ".json"), _jsonl),
        **dict.fromkeys(SUFFIXES, _single),
    }
    reader = kinds.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(
            f"{source!r}: expected a folder, a glob, an image, or a .csv, .tsv, .jsonl or .parquet file"
        )
    return reader


def _folder(path: Path) -> Iterator[Line]:
    yield from _images(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)


def _globbed(path: Path) -> Iterator[Line]:
    found = (Path(name) for name in glob.iglob(str(path), recursive=True))
    yield from _images(entry for entry in found if entry.suffix.lower() in SUFFIXES)


def _single(path: Path) -> Iterator[Line]:
    yield from _images(iter([path]))


def _images(paths: Iterator[Path]) -> Iterator[Line]:
    # Sorted, so that a report is in the order in which people look at a folder.
    for number, path in enumerate(
        sorted(entry for entry in paths if not entry.name.startswith(".")), 1
    ):
        yield number, {"image": path}


def _csv(path: Path) -> Iterator[Line]:
    # Bytes that are no UTF-8 become lone surrogates, so that they spoil their own row and not the
    # file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        line = 1
        try:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            for row in reader:
                line = reader.line_num
                yield line, _row_problem(row) or row
        except csv.Error as error:
            yield line + 1, f"cannot be read, nor what follows: {error}"


def _row_problem(row: dict[Any, Any]) -> str | None:
    if row.pop(None, None) is not None:
        return f"has more values than the header's {len(row)} columns"
    spoiled = [
        name for name, value in row.items() if text_problem(name) or text_problem(value or "")
    ]
    return f"is not UTF-8 text: {spoiled[0]!r}" if spoiled else None


def _delimiter(header: str) -> str:
    """Choose what separates the header's columns: spreadsheets in many countries write semicolons."""
    return max(",;\t", key=header.count)


def _jsonl(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield number, f"is not JSON: {error}"
                continue
            yield (
                number,
                row
                if isinstance(row, dict)
                else f"expected a JSON object, got {type(row).__name__}",
            )


def _parquet(path: Path) -> Iterator[Line]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigurationError(
            "Parquet needs one more package: pip install 'happyhorse-async[parquet]'"
        ) from None
    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=CHUNK):
            for row in batch.to_pylist():
                number += 1
                yield number, row


# --- A look at every row of a manifest before anything is spent: what is wrong with which line, and
# what the good ones will cost.


MOST_KEPT = 1000


@attrs.define
class Checked:
    """What a look at a manifest found."""

    good: int = 0
    """Rows that can be submitted."""
    bad_rows: int = 0
    """Rows that cannot."""
    bad: list[BadLine] = attrs.field(factory=list)
    """The first thousand of those."""
    cut_prompts: int = 0
    """Prompts that are longer than the service reads."""
    credits: Decimal = Decimal(0)
    """What the good rows cost together, by the pricing rule."""
    usd: Decimal = Decimal(0)


async def check(
    manifest: Manifest, estimate: Callable[[Iterable[ImageToVideo]], Awaitable[Estimate]]
) -> Checked:
    """Walk all rows once, opening local images, and add up the price."""
    found = Checked()
    chunk: list[ImageToVideo] = []
    async with aclosing(manifest.rows(look=True)) as rows:
        async for row in rows:
            if isinstance(row, BadLine):
                found.bad_rows += 1
                if len(found.bad) < MOST_KEPT:
                    found.bad.append(row)
                continue
            found.good += 1
            request = row.job.request
            found.cut_prompts += bool(request.prompt and images.prompt_cut(request.prompt))
            chunk.append(request)
            if len(chunk) == CHUNK:
                await _add(found, chunk, estimate)
    await _add(found, chunk, estimate)
    return found


async def _add(
    found: Checked,
    chunk: list[ImageToVideo],
    estimate: Callable[[Iterable[ImageToVideo]], Awaitable[Estimate]],
) -> None:
    if chunk:
        price = await estimate(chunk)
        found.credits += price.credits
        found.usd += price.usd
        chunk.clear()
