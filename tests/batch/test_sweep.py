"""Sweeps: every combination once, priced before it is made, and shown side by side."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import ConfigurationError, InvalidRequestError, Session
from happyhorse_async.batch import sweep
from happyhorse_async.batch._sweep import combinations_of, read_vary
from happyhorse_async.sandbox import Sandbox
from tests.cli.process import LINK, happyhorse


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in the test's process, for a command in another one."""
    async with Sandbox(video="stub", speed=100) as sandbox:
        yield sandbox


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.lists(st.sampled_from(["720p", "1080p"]), min_size=1, max_size=3),
    st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_every_combination_comes_once(
    seeds: list[int], qualities: list[str], prompts: list[str]
) -> None:
    """Whatever is given, also twice: exactly the combinations, in the order of the values."""
    found = combinations_of({"seed": seeds, "quality": qualities, "prompt": prompts})
    wanted = list(itertools.product(*map(dict.fromkeys, (seeds, qualities, prompts))))
    assert [tuple(combination.values()) for combination in found] == wanted


def test_one_value_or_several_for_one_image_or_many() -> None:
    """A text is one prompt, a range several seeds; every image gets every combination."""
    jobs = list(sweep([LINK, f"{LINK}?2"], prompt="run, cat", seed=range(1, 3), duration=(3, 5)))
    seen = [(job.request.image, job.request.seed, job.request.duration) for job in jobs]
    assert seen == [(i, s, d) for i in (LINK, f"{LINK}?2") for d in (3, 5) for s in (1, 2)]
    assert {job.request.prompt for job in jobs} == {"run, cat"}
    [other] = sweep(LINK, model="happyhorse-1.1-image-to-video")
    assert other.request.model == "happyhorse-1.1-image-to-video"


def test_slips_are_found_before_anything_is_made() -> None:
    """Too many combinations, no value, and values that no request takes are errors."""
    with pytest.raises(ConfigurationError, match="200,000 combinations"):
        sweep(LINK, seed=range(1, 100_001), quality=["720p", "1080p"])
    with pytest.raises(ConfigurationError, match="seed: there is no value"):
        sweep(LINK, seed=[])
    with pytest.raises(InvalidRequestError):
        list(sweep(LINK, duration=[5, 99]))


def test_what_varies_is_read_from_texts(tmp_path: Path) -> None:
    """Ranges, lists, files of prompts, and prompts with commas; names as columns are written."""
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffThe cat yawns\n\nThe cat runs, fast\n", encoding="utf-8")
    assert read_vary(["Seed=1..3,7", "quality=720p,1080p", f"prompt=@{file}", "prompt=a, b"]) == {
        "seed": [1, 2, 3, 7],
        "quality": ["720p", "1080p"],
        "prompt": ["The cat yawns", "The cat runs, fast", "a, b"],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed=1", "did you mean seed?"),
        ("image=a,b", "one of prompt, quality"),
        ("seed", "expected NAME=VALUES"),
        ("seed=one", "expected numbers"),
        ("seed=1..2147483647", "at most 100,000"),
        ("prompt=@none.txt", "cannot be read"),
    ],
)
def test_a_text_that_says_nothing_usable(text: str, said: str) -> None:
    """Each is refused with what would have been expected."""
    with pytest.raises(ConfigurationError) as caught:
        read_vary([text])
    assert said in str(caught.value)


@pytest.mark.anyio
async def test_a_sweep_is_priced_made_once_and_gone_on_with(world: Sandbox, tmp_path: Path) -> None:
    """`--vary` prices every combination first; the same line again, or a wider one, pays the
    new.
    """
    (tmp_path / "in.csv").write_text(f"id,image,prompt\ncat,{LINK},run\n")
    line = ("batch", "run", "in.csv", "--vary", "quality=720p,1080p", "--yes")
    dry = await happyhorse(*line, "--vary", "seed=1,2", "--dry-run", cwd=tmp_path, world=world)
    async with Session(world.key, base_url=world.url, files_url=world.files_url) as session:
        jobs = list(sweep(LINK, prompt="run", quality=["720p", "1080p"], seed=[1, 2]))
        price = await session.estimate(job.request for job in jobs)
    assert f"4 jobs; 0 bad rows: about {float(price.credits):.2f}" in dry.err, dry.err
    first = await happyhorse(*line, "--vary", "seed=1,2", cwd=tmp_path, world=world)
    assert (first.code, world.paid) == (0, 4), first.err
    wider = await happyhorse(*line, "--vary", "seed=1..3", cwd=tmp_path, world=world)
    assert (wider.code, world.paid) == (0, 6), wider.err
    assert "6 jobs, 4 of them paid or ended before, 2 left" in wider.err
    report = await happyhorse("batch", "report", cwd=tmp_path)
    assert report.code == 0, report.err
    results = [
        json.loads(it) for it in (tmp_path / "videos/results.jsonl").read_text().splitlines()
    ]
    told = {(it["quality"], it["seed"], it["prompt"], it["extra"]["row"]) for it in results}
    assert {it["model"] for it in results} == {"happyhorse-1.0-image-to-video"}
    assert told == {(q, s, "run", "cat") for q in ("720p", "1080p") for s in (1, 2, 3)}
