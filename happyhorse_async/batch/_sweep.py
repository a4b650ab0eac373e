"""Sweeps: every combination of what is tried out, once, for each first frame."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import attrs

from .._models import MODEL
from .._request import ImageLike, ImageToVideo
from ..errors import ConfigurationError
from ._jobs import Job
from ._tables import meaning, near_miss

VARIED = ("prompt", "quality", "duration", "seed", "model")
"""The fields of a request that may be varied."""
MOST_COMBINATIONS = 100_000
"""More for one image is taken for a slip, such as a range of seeds with a digit too many."""


def sweep(
    images: ImageLike | Iterable[ImageLike],
    *,
    prompt: str | Iterable[str | None] | None = None,
    quality: str | Iterable[str] = "720p",
    duration: int | Iterable[int] = 5,
    seed: int | Iterable[int | None] | None = None,
    model: str | Iterable[str] = MODEL,
) -> Iterator[Job]:
    """Return a job for every combination of the values, for each image, in order.

    Each field is one value or several; equal combinations come once. The jobs go to `Batch.run`,
    and their requests to `Session.estimate`, which prices them first. The gallery shows what was
    made from one image side by side. Raises `ConfigurationError` for more than 100,000
    combinations, and `InvalidRequestError` for a value that no request takes.

        jobs = list(sweep("cat.jpg", seed=range(1, 9), quality=["720p", "1080p"]))
    """
    fields = {"prompt": prompt, "quality": quality, "duration": duration, "seed": seed}
    combinations = combinations_of(
        {name: _several(values) for name, values in {**fields, "model": model}.items()}
    )
    several: Iterable[Any] = [images] if isinstance(images, (str, bytes, os.PathLike)) else images
    return (
        varied(ImageToVideo(image), combination)
        for image in several
        for combination in combinations
    )


def _several(values: Any) -> Sequence[Any]:
    if values is None or isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    return values if isinstance(values, (list, tuple, range)) else list(values)


def combinations_of(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of values, each once; one without fields when nothing is varied.

    Raises `ConfigurationError` when a field has no value, or when there are too many.
    """
    empty = [name for name, several in values.items() if not len(several)]
    if empty:
        raise ConfigurationError(f"{empty[0]}: there is no value to try")
    count = prod(len(several) for several in values.values())
    if count > MOST_COMBINATIONS:
        raise ConfigurationError(
            f"{count:,} combinations for each image; at most {MOST_COMBINATIONS:,} are made",
            next_step="Vary less, or make several sweeps.",
        )
    found = dict.fromkeys(itertools.product(*values.values()))
    return [dict(zip(values, combination, strict=True)) for combination in found]


def varied(
    request: ImageToVideo, combination: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> Job:
    """Return the job for one combination."""
    return Job(attrs.evolve(request, **combination), extra=dict(extra or {}))


# --- how a command says it ------------------------------------------------------------------------


def read_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Read what varies from texts such as "seed=1..8", "quality=720p,1080p", "prompt=@file".

    The same name again adds values. A prompt is one value, commas and all; "@file" is a value for
    each line. Raises `ConfigurationError` that names the text.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        said, mark, values = text.partition("=")
        name = meaning(said) if meaning(said) in VARIED else None
        if name is None or not mark:
            near = near_miss(said)
            expected = f"did you mean {near}?" if near in VARIED else f"one of {', '.join(VARIED)}"
            raise ConfigurationError(f"--vary {text}: expected NAME=VALUES; {expected}")
        found.setdefault(name, []).extend(_values(name, values, text))
    return found


def _values(name: str, values: str, text: str) -> Sequence[Any]:
    if values.startswith("@"):
        parts = _lines(Path(values[1:]), text)
    else:
        parts = [values] if name == "prompt" else values.split(",")
    if name not in ("duration", "seed"):
        return [part.strip() for part in parts if part.strip()]
    return [number for part in parts for number in _numbers(part, text)]


def _lines(path: Path, text: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--vary {text}: {path} cannot be read: {error}") from None


def _numbers(part: str, text: str) -> Sequence[int]:
    first, mark, last = part.partition("..")
    try:
        numbers = range(int(first), int(last) + 1) if mark else [int(first)]
        count = int(last) + 1 - int(first) if mark else 1  # no length is told of a longer one
    except ValueError:
        raise ConfigurationError(
            f"--vary {text}: expected numbers such as 3,5 or 1..8, got {part!r}"
        ) from None
    if count > MOST_COMBINATIONS:
        raise ConfigurationError(
            f"--vary {text}: {count:,} values; at most {MOST_COMBINATIONS:,} are tried"
        )
    return numbers
