"""How a video shows itself in a notebook."""

from __future__ import annotations

import base64
from pathlib import Path

import attrs
import pytest

from happyhorse_async import Video, _video


def video(path: Path, data: bytes = b"video & more") -> Video:
    """Make a saved video."""
    path.write_bytes(data)
    return Video(path=path, size=len(data), sha256="ab" * 32)


def test_a_small_video_is_in_the_page(tmp_path: Path) -> None:
    """The page plays it without the file beside it; names are escaped."""
    html = video(tmp_path / "a<b>&c.mp4")._repr_html_()
    assert f'src="data:video/mp4;base64,{base64.b64encode(b"video & more").decode()}"' in html
    assert "<video controls" in html
    assert "a&lt;b&gt;&amp;c.mp4" in html
    assert "<b>" not in html


def test_a_large_video_is_shown_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of hundreds of megabytes helps nobody."""
    monkeypatch.setattr(_video, "EMBEDDED_BYTES", 5)
    html = video(tmp_path / 'quo"te.mp4')._repr_html_()
    assert "base64" not in html
    assert 'quo&quot;te.mp4"></video>' in html


def test_what_is_not_here_is_only_named(tmp_path: Path) -> None:
    """A file that is gone, and an object in a store."""
    gone = video(tmp_path / "gone.mp4")
    gone.path.unlink()
    stored = attrs.evolve(gone, url="s3://bucket/gone.mp4")
    assert "<video" not in gone._repr_html_() + stored._repr_html_()
    assert "s3://bucket/gone.mp4" in stored._repr_html_()
