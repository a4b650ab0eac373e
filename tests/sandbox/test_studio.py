"""What real videos need: the packages that make them,
and a first frame that outlives its upload.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Sandbox
from tests.sandbox.conftest import Wire, picture

pytestmark = pytest.mark.anyio


def test_real_videos_without_their_packages_are_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes before anything starts; "auto" and "stub" do without."""
    true_find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "av" else true_find_spec(name, *rest),
    )
    with pytest.raises(ImportError, match=r"PyAV: pip install 'happyhorse-async\[sandbox\]'"):
        Sandbox(video="real")
    assert Sandbox(video="auto")._options.video == Sandbox(video="stub")._options.video == "stub"


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_link_outlives_the_image_that_its_video_was_made_of(
    http: aiohttp.ClientSession, elsewhere: bool
) -> None:
    """The upload is deleted, and the link still gives the same video, even if it has to be rendered
    anew.
    """
    async with Sandbox(video="stub") as host, Sandbox(video="real", speed=0) as sandbox:
        wire = Wire(sandbox, http)
        shelf = Wire(host, http) if elsewhere else wire
        file: dict[str, Any] = (await shelf.upload(picture(300, 300))).json["data"]
        link = await wire.completed(image_urls=[file["file_url"]], duration=3, seed=9)
        before = await wire.download(link)
        assert (await shelf.files("DELETE", f"/api/v1/files/{file['file_id']}")).status == 200
        kept = await wire.download(link)
        sandbox._service.videos._kept.clear()  # type: ignore[union-attr]
        anew = await wire.download(link)
    assert [reply.status for reply in (before, kept, anew)] == [200, 200, 200]
    assert before.body == kept.body == anew.body
