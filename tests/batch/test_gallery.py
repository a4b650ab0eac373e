"""The gallery, in a real browser and from file://: a thousand videos, no serious accessibility
finding, on a phone and on a desktop.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async.batch import _gallery
from happyhorse_async.sandbox._stub_video import stub_video
from tests.conftest import PHOTOS

pytestmark = pytest.mark.anyio

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
PLAY = """async (video) => {
  const moved = new Promise((done) => video.addEventListener("timeupdate", done, { once: true }));
  video.muted = true;
  await video.play();
  await moved;
  return video.currentTime + video.videoWidth;
}"""
EVIL = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
)


def result(n: int) -> dict[str, Any]:
    """Make one result; every 25th has failed, and some are hostile."""
    failed = n % 25 == 24
    return {
        "id": f"job-{n:04}",
        "state": "failed" if failed else "saved",
        "image": str(PHOTOS / ("cat.jpg", "coffee.jpg", "rocket.jpg")[n % 3])
        if n % 4
        else "sha256:00",
        "prompt": EVIL if n == 2 else f"The camera comes closer, take {n}. " * (1 + n % 9),
        "quality": "720p",
        "duration": 5,
        "seed": n + 1,
        "video": None if failed else f"job #{n:04}.mp4",
        "credits": 0.0 if failed else 22.848 + n % 13 * 7.6,
        "attempts": 1 + n % 2,
        "task_id": f"task-unified-1795391156-{n:08}",
        "seconds": None if failed else 60.0 + n * 37 % 900,
        "error_code": "content_policy_violation" if failed else None,
        "error": EVIL if failed else None,
        "extra": {"shelf": n % 7, "note": EVIL} if n % 3 else {},
    }


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a gallery of a thousand videos, which all are there."""
    folder = tmp_path_factory.mktemp("batch of cats")
    video = stub_video(width=1280, height=720, seconds=5, seed=1)
    for n in range(1000):
        if result(n)["video"] is not None:
            (folder / result(n)["video"]).write_bytes(video)
    with (folder / "gallery.html").open("w", encoding="utf-8") as file:
        _gallery.write(folder, map(result, range(1000)), file)
    return folder / "gallery.html"


@pytest.fixture(params=list(SIZES))
async def page(
    anyio_backend: str, request: pytest.FixtureRequest, page_path: Path
) -> AsyncIterator[Any]:
    """The gallery, opened in a window of some size; whatever the browser complains about fails the
    test.
    """
    playwright = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    width, height = SIZES[request.param]
    async with playwright.async_playwright() as browsers:
        browser = await browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": width, "height": height})
        complaints: list[str] = []
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(page_path.as_uri())
        yield page
        shots = os.environ.get("HAPPYHORSE_SHOTS")
        if shots:
            await page.screenshot(path=f"{shots}/{request.node.name}.png")
        await browser.close()
        assert complaints == []


async def test_axe(page: Any) -> None:
    """The accessibility check finds nothing serious, in the light and in the dark, and nothing
    sticks out of the window.
    """
    scripts = pytest.importorskip("axe_playwright_python")
    axe = files(scripts).joinpath("axe.min.js").read_text("utf-8")
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        # Through the debugger: the page's own policy lets no other script in.
        await page.evaluate(axe)
        found = await page.evaluate("axe.run(document)")
        bad = [
            (rule["id"], rule["impact"], rule["nodes"][0]["html"]) for rule in found["violations"]
        ]
        assert [rule for rule in bad if rule[1] in ("serious", "critical")] == []
        assert bad == []
        assert len(found["passes"]) > 20
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


async def test_a_thousand_videos(page: Any) -> None:
    """All thousand jobs can be scrolled to; only the videos near the window are loaded; one of them
    really plays.
    """
    assert await page.text_content("#count") == "1,000 of 1,000 jobs"
    await page.evaluate(
        "() => { const more = document.getElementById('more'); while (!more.hidden) more.click(); }"
    )
    assert await page.locator("#cards > li").count() == 1000
    await page.locator("#cards > li").nth(500).scroll_into_view_if_needed()
    player = page.locator("#cards > li").nth(500).locator("video[src]")
    await player.wait_for(state="attached")
    assert await page.locator("video[src]").count() < 60
    assert await player.evaluate(PLAY) > 0


async def test_filter(page: Any) -> None:
    """States and words narrow the jobs down, the order can be chosen, failures show their reasons."""
    await page.get_by_label("saved (960)").uncheck()
    assert await page.text_content("#count") == "40 of 1,000 jobs"
    assert "content_policy_violation" in await page.locator("#cards > li").first.inner_text()
    await page.get_by_label("Search").fill("job-0024 policy")
    assert await page.text_content("#count") == "1 of 1,000 jobs"
    await page.get_by_label("Search").fill("")
    await page.get_by_label("saved (960)").check()
    await page.get_by_label("Order").select_option("credits")
    assert "114.05 credits" in await page.locator("#cards > li").first.inner_text()


async def test_texts_stay_texts(page: Any) -> None:
    """Hostile prompts, errors and columns are shown as they are, and do nothing."""
    assert await page.title() == "batch of cats0: batch of videos"
    assert EVIL in await page.locator("#cards > li").nth(2).text_content()
    assert EVIL in await page.locator("table").inner_text()


def test_chart_says_it_in_words() -> None:
    """A chart has a title and a sentence for those who do not see it, and as many bars as there are
    round bins.
    """
    drawn = _gallery.chart("Credits", "credits", [1.0, 2.0, 2.0, 40.0], name="c")
    assert "4 jobs, from 1 to 40 credits, half of them up to 2." in drawn
    assert 'aria-labelledby="c-title c-words"' in drawn
    assert sum(_gallery.histogram([1.0, 2.0, 2.0, 40.0]).counts) == 4
    assert _gallery.histogram([5.0] * 3).counts == (3,)
    assert "Nothing to show" in _gallery.chart("Credits", "credits", [], name="c")


def test_page_holds_its_data(page_path: Path) -> None:
    """The page has its data, style and script inside, and refers to nothing on the network."""
    text = page_path.read_text("utf-8")
    data = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert len(json.loads(data)) == 1000
    assert re.findall(r"<[a-z][^>]*?\s(?:src|href)=\"?([^\s\">]+)", text) == [
        "#videos",
        "results.csv",
        "results.jsonl",
    ]
