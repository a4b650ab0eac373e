"""The demo makes real videos of real photographs: decoded to the end, of the right length and size,
and beginning with their photograph.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.cli.test_cli import happyhorse
from tests.conftest import PHOTOS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Compare two pictures of one size, in decibels."""
    left, right = first.convert("RGB").tobytes(), second.convert("RGB").tobytes()
    assert len(left) == len(right)
    error = sum((a - b) ** 2 for a, b in zip(left, right, strict=True)) / len(left)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def decode(path: Path) -> tuple[Image.Image, Image.Image, float]:
    """Decode every frame; give the first, the last, and the length in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        first = last = None
        end = Fraction(0)
        for frame in container.decode(stream):
            first = first if first is not None else frame.to_image()
            last = frame
            assert frame.pts is not None
            assert frame.time_base is not None
            end = frame.pts * frame.time_base + 1 / Fraction(stream.average_rate or 1)
    assert first is not None
    assert last is not None
    return first, last.to_image(), float(end)


async def test_the_demo_turns_three_photographs_into_three_videos(tmp_path: Path) -> None:
    """What the README's first command promises, file by file."""
    ran = await happyhorse("demo", "--json", "--speed", "200", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.err.startswith("This starts a sandbox of the service on this machine"), "it says why"
    described = {
        Path(str(line["file"])).stem: line for line in map(json.loads, ran.out.splitlines())
    }
    assert sorted(described) == ["cat", "coffee", "rocket"]
    assert sorted(path.name for path in (tmp_path / "happyhorse-demo").iterdir()) == [
        "cat.mp4",
        "coffee.mp4",
        "rocket.mp4",
    ]
    for stem, facts in described.items():
        first, last, seconds = decode(tmp_path / "happyhorse-demo" / f"{stem}.mp4")
        assert seconds == pytest.approx(5, abs=0.1)
        assert facts["duration"] == pytest.approx(seconds, abs=0.1)
        assert (facts["width"], facts["height"]) == first.size
        with Image.open(PHOTOS / f"{stem}.jpg") as photo:
            assert min(first.size) == 720
            assert first.width / first.height == pytest.approx(photo.width / photo.height, rel=0.01)
            source = photo.convert("RGB").resize(first.size, Image.Resampling.LANCZOS)
        assert psnr(first, source) >= 28
        assert psnr(first, last) < 28, "nothing moves"
        assert float(str(facts["credits"])) == pytest.approx(38.08)


async def test_the_demo_can_be_run_again(tmp_path: Path) -> None:
    """The second run replaces the demo's own files, and leaves others alone."""
    (tmp_path / "happyhorse-demo").mkdir()
    (tmp_path / "happyhorse-demo" / "cat.mp4").write_text("old")
    (tmp_path / "happyhorse-demo" / "mine.txt").write_text("mine")
    ran = await happyhorse("demo", "--speed", "200", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert "3 videos in" in ran.err
    paths = [Path("happyhorse-demo") / f"{name}.mp4" for name in ("cat", "coffee", "rocket")]
    assert sorted(ran.out.splitlines()) == [str(path) for path in paths]
    assert (tmp_path / "happyhorse-demo" / "mine.txt").read_text() == "mine"
