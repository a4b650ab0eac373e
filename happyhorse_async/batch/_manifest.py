"""From files to jobs: a folder or a glob of images, or a table of them (CSV, JSON Lines, Parquet).

A table's columns are a request's fields (`image`, `prompt`, `quality`, `duration`, `seed`,
`model`, `callback_url`) and `id`; `image_url`, `image_path`, `file` and `url` also mean the image.
Case, blanks and hyphens do not matter. Every other column is kept and given back in the results,
unless it looks like a field that was misspelt. Rows are read as they are needed, in worker threads,
so a table may be longer than memory.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager, suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TextIO

import anyio.to_thread
import attrs

from .._account import Estimate
from .._edges.local_images import file_problems
from .._formats import images
from .._formats.urls import looks_like_link
from .._request import ImageToVideo, quietly_made
from ..errors import ConfigurationError, InvalidRequestError
from ._jobs import Job
from ._sweep import combinations_of, varied
from ._tables import FIELDS, IMAGE_COLUMNS, Source, TableLine, meaning, near_miss

CHUNK = 256
"""Rows that are read in one go."""


@attrs.frozen
class BadLine:
    """A row that cannot become a job."""

    source: str
    """The file."""
    line: int
    """The line in it, from 1; for Parquet and folders the row."""
    problems: tuple[str, ...]
    name: str | None = None
    """The file itself, in a folder."""

    @property
    def place(self) -> str:
        """Where it is, as people look for it."""
        return self.name or f"{self.source}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {'; '.join(self.problems)}"


class Manifest:
    """An input of jobs; it can be walked several times.

    `defaults` are fields for rows that do not have them. `encoding` is a table's, if it is not
    Unicode. A column that looks like a misspelt field makes its rows bad: they would be paid for
    without it; `ignore_unknown` keeps it as the caller's own.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        defaults: Mapping[str, Any] | None = None,
        limit: int | None = None,
        encoding: str | None = None,
        ignore_unknown: bool = False,
        vary: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.source = str(source)
        try:
            self._source = Source(self.source, encoding=encoding)
        except OSError as error:  # its folder may not be entered, or its name is too long
            reason = error.strerror or error
            raise ConfigurationError(f"{self.source!r:.200} cannot be read: {reason}") from error
        path = self._source.path
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ConfigurationError(
                f"{self.source!r} is no file, and it would be read several times",
                next_step="Pipe the table in, and give - for it.",
            )
        self._ignore_unknown = ignore_unknown
        self._combinations = combinations_of(vary or {})
        self._defaults = {
            name: value for name, value in (defaults or {}).items() if value is not None
        }
        self._limit = limit
        self.problem_of: Callable[[object], str | None] = lambda _: None
        """Says why a service cannot fetch a first frame; None when it may."""

    @property
    def skipped(self) -> tuple[int, list[str]]:
        """How many files were skipped as no images at the last walk, and the first names."""
        return self._source.skipped, self._source.skipped_names

    async def rows(self, *, look: bool = False) -> AsyncGenerator[Job | BadLine, None]:
        """Walk the rows, good and bad, in order. With `look` local images are opened, and ids that
        come twice are found.
        """
        walk = self._walk(look=look)
        try:
            while True:
                chunk = await anyio.to_thread.run_sync(lambda: list(itertools.islice(walk, CHUNK)))
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
                if isinstance(row, Job):
                    yield row

    def _walk(self, *, look: bool) -> Generator[Job | BadLine, None, None]:
        seen: set[int] = set()
        for line in itertools.islice(self._source.lines(), self._limit):
            row = self._row(line)
            problems = _second_look(row, seen) if look and isinstance(row, Job) else ()
            if problems:
                yield self._bad(line, problems)
            elif isinstance(row, Job):
                yield from self._varied(row, line)
            else:
                yield row

    def _varied(self, job: Job, line: TableLine) -> Iterator[Job | BadLine]:
        """Yield a row's jobs, one for each combination; their ids follow from their content."""
        if self._combinations == [{}]:
            yield job
            return
        extra = {**job.extra, **({"row": job.id} if job.id is not None else {})}
        for combination in self._combinations:
            try:
                yield varied(job.request, combination, extra)
            except InvalidRequestError as error:
                yield self._bad(line, error.problems)

    def _bad(self, line: TableLine, problems: tuple[str, ...]) -> BadLine:
        return BadLine(self.source, line.number, problems, line.name)

    def _row(self, line: TableLine) -> Job | BadLine:
        if isinstance(line.row, str):
            return self._bad(line, (line.row,))
        # Not a number is how many a tool writes an empty cell; JSON, which the results are written
        # in, has no word for it.
        values = {
            str(name).strip(): None if value != value else value for name, value in line.row.items()
        }
        problems = list(self._column_problems(values))
        known = {meaning(name): value for name, value in values.items() if not _absent(value)}
        told = str(known.get("id", ""))
        job_id = told if told.strip() else None  # a blank cell is an empty one
        try:
            if problems:
                raise InvalidRequestError(problems)
            fields, extra = self._fields(known, values)
            request = _request_of(fields)
            if problem := self.problem_of(request.image):
                raise InvalidRequestError([problem])
            return Job(request, id=job_id, extra=extra)
        except InvalidRequestError as error:
            return self._bad(line, error.problems)

    def _column_problems(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Name the columns that mean the same, and those that only look like fields."""
        found: dict[str, str] = {}
        for name, value in values.items():
            field = meaning(name)
            if _absent(value):
                continue
            if field in found:
                yield f"the columns {found[field]!r} and {name!r} both mean {field}"
            if field is not None:
                found[field] = name
            near = None if self._ignore_unknown else near_miss(name)
            if near is not None:
                yield (
                    f"the column {name!r} is not known: did you mean {near}? Rename it, or pass "
                    "--ignore-unknown to keep it as a column of your own"
                )

    def _fields(
        self, known: Mapping[str | None, Any], values: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort a row's values into a request's fields and the caller's own columns."""
        image = next((name for name in IMAGE_COLUMNS if name in known), None)
        fields = dict(self._defaults)
        fields |= {name: known[name] for name in FIELDS[1:] if name in known}
        if image is not None:
            fields["image"] = self._image(known[image])
        taken = {"id", image, *FIELDS}
        return fields, {name: value for name, value in values.items() if meaning(name) not in taken}

    def _image(self, image: Any) -> Any:
        """A relative path in a table is meant from where the table lies."""
        base = self._source.base
        if isinstance(image, str) and looks_like_link(image.strip()):
            return image.strip()
        if isinstance(image, str) and base is not None:
            return base / image
        return image


def _absent(value: Any) -> bool:
    return value is None or value == ""


def _second_look(job: Job, seen: set[int]) -> tuple[str, ...]:
    """List what only the disk and the other rows can tell."""
    problems = []
    if job.id is not None:
        # Hashes take a tenth of the memory of a million ids. Two different ids with one hash are
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
    # A cut prompt is counted by whoever checks the manifest, not told a thousand times.
    return quietly_made(fields["image"], rest)


def _whole(value: Any) -> Any:
    """Read a whole number as tables write it: "5", 5.0, " 5 "; anything else is left for the
    request's own check to complain about.
    """
    try:
        number = Decimal(str(value).strip())
        return int(number) if number == number.to_integral_value() else value
    except (InvalidOperation, ValueError, OverflowError):
        return value


# --- A look at every row of a manifest before anything is spent: faults by line, and the good rows'
# cost.


MOST_KEPT = 10_000
"""Bad rows that are remembered."""


@attrs.define
class Checked:
    """What a look at a manifest found."""

    good: int = 0
    """Rows that can be submitted."""
    bad_rows: int = 0
    """Rows that cannot."""
    bad: list[BadLine] = attrs.field(factory=list)
    """The first of those."""
    settled: int = 0
    """Good rows for which earlier runs leave nothing to buy."""
    begun: int = 0
    """Jobs of earlier runs, in this input or not, that may be paid and are not saved yet."""
    cut_prompts: int = 0
    """Prompts that are longer than the service reads."""
    credits: Decimal = Decimal(0)
    """What the rows that are left cost together, by the pricing rule."""
    usd: Decimal = Decimal(0)

    @property
    def left_out(self) -> list[tuple[str, tuple[str, ...]]]:
        """The bad rows as places and problems, for those who read the results."""
        kept = [(row.place, row.problems) for row in self.bad]
        more = self.bad_rows - len(kept)
        return kept + ([("...", (f"{more:,} more rows like these",))] if more else [])


async def check(
    manifest: Manifest,
    estimate: Callable[[Iterable[ImageToVideo]], Awaitable[Estimate]],
    settled: Callable[[Sequence[Job]], Sequence[bool]] = lambda jobs: [False] * len(jobs),
) -> Checked:
    """Walk all rows once, opening local images, and add up the price of what is left.

    `settled` says of each job whether there is nothing left to buy for it; it runs in a thread.
    """
    found = Checked()
    chunk: list[Job] = []
    async with aclosing(manifest.rows(look=True)) as rows:
        async for row in rows:
            if isinstance(row, BadLine):
                found.bad_rows += 1
                if len(found.bad) < MOST_KEPT:
                    found.bad.append(row)
                continue
            found.good += 1
            prompt = row.request.prompt
            found.cut_prompts += bool(prompt and images.prompt_cut(prompt))
            chunk.append(row)
            if len(chunk) == CHUNK:
                await _add(found, chunk, estimate, settled)
                chunk = []
    await _add(found, chunk, estimate, settled)
    return found


async def _add(
    found: Checked,
    jobs: Sequence[Job],
    estimate: Callable[[Iterable[ImageToVideo]], Awaitable[Estimate]],
    settled: Callable[[Sequence[Job]], Sequence[bool]],
) -> None:
    done = await anyio.to_thread.run_sync(settled, jobs) if jobs else ()
    left = [job.request for job, is_done in zip(jobs, done, strict=True) if not is_done]
    found.settled += len(jobs) - len(left)
    if left:
        price = await estimate(left)
        found.credits += price.credits
        found.usd += price.usd


# --- Rows that cannot become jobs, kept beside the ledger. Status and results tell of them, so that
# nobody takes a report for the whole input.


LEFT_OUT = "left-out.jsonl"


def keep_left_out(folder: Path, rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Keep the rows that the newest run left out, each as its place and its problems.

    For whoever has the folder's lock. Raises `ConfigurationError` when that cannot be. Blocks.
    """
    path = folder / LEFT_OUT
    try:
        if not rows:
            path.unlink(missing_ok=True)
            return
        with replacing(path) as file:
            for place, problems in rows:
                file.write(json.dumps({"place": place, "problems": list(problems)}) + "\n")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Write a file that is seen only when it is whole. Its draft has a name of its own, for two
    processes may write it at once.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        # What no UTF-8 can hold is written as its number.
        with draft.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()


def left_out(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows that were left out; none when there is no such file, or it is not ours."""
    try:
        file = (folder / LEFT_OUT).open(encoding="utf-8")
    except OSError:
        return
    with file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if isinstance(row, dict) and isinstance(row.get("problems"), list):
                yield {"place": str(row.get("place")), "problems": list(map(str, row["problems"]))}
