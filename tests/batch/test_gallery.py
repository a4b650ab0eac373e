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

CODES = ("content_policy_violation", "generation_timeout")


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
        "error_code": CODES[n // 25 % 2] if failed else None,
        "error": EVIL if failed else None,
        "width": (1280, 720)[n % 2],
        "height": (720, 1280)[n % 2],
        "extra": {"shelf": n % 7, "note": EVIL} if n % 3 else {},
    }


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a gallery of a thousand videos, which all are there."""
    folder = tmp_path_factory.mktemp("gallery") / "batch of cats"
    folder.mkdir()
    video = stub_video(width=1280, height=720, seconds=5, seed=1)
    for n in range(1000):
        if result(n)["video"] is not None:
            (folder / result(n)["video"]).write_bytes(video)
    with (folder / "gallery.html").open("w", encoding="utf-8") as file:
        _gallery.write(folder, map(result, range(1000)), file)
    return folder / "gallery.html"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for the module, since it has one browser."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Any]:
    """Chromium; each page is opened as if in a browser of its own."""
    playwright = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    async with playwright.async_playwright() as browsers:
        browser = await browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture(params=list(SIZES))
async def page(browser: Any, request: pytest.FixtureRequest, page_path: Path) -> AsyncIterator[Any]:
    """The gallery, opened in a window of some size; whatever the browser complains about fails the
    test.
    """
    width, height = SIZES[request.param]
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
    await page.close()
    assert complaints == []


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
async def test_filter(page: Any) -> None:
    """States and words narrow the jobs down, the order can be chosen, failures say why."""
    await page.get_by_label("saved (960)").uncheck()
    assert await page.text_content("#count") == "40 of 1,000 jobs"
    assert "content_policy_violation" in await page.locator("#cards > li").first.inner_text()
    await page.get_by_label("Search").fill("job-0024 policy")
    assert await page.text_content("#count") == "1 of 1,000 jobs"
    await page.get_by_label("Search").fill("")
    await page.get_by_label("saved (960)").check()
    await page.get_by_label("Order").select_option("credits")
    assert "114.05 credits" in await page.locator("#cards > li").first.inner_text()
    await page.get_by_label("generation_timeout (20)").check()
    assert await page.text_content("#count") == "20 of 1,000 jobs"
    assert "generation_timeout" in await page.locator("#cards > li").first.inner_text()


@pytest.mark.slow
async def test_texts_stay_texts(page: Any) -> None:
    """Hostile prompts, errors and columns are shown as they are, and do nothing."""
    assert await page.title() == "Batch of cats: 960 videos"
    assert EVIL in await page.locator("#cards > li").nth(2).text_content()
    await page.get_by_text("Why 40 jobs failed").click()
    assert EVIL in await page.locator("table").inner_text()


def test_chart_says_it_in_words() -> None:
    """A chart has a title and a sentence for those who do not see it, and as many bars as there are
    round bins.
    """
    drawn = _gallery.chart("Credits", "credits", [1.0, 2.0, 2.0, 40.0], name="c")
    assert "4 jobs, from 1 to 40 credits, half of them up to 2." in drawn
    assert 'aria-labelledby="c-title c-words"' in drawn
    assert sum(_gallery.histogram([1.0, 2.0, 2.0, 40.0]).counts) == 4


def written(folder: Path, *results: dict[str, Any], **how: Any) -> str:
    """Write a gallery of some results, and read it."""
    with (folder / "gallery.html").open("w", encoding="utf-8") as file:
        _gallery.write(folder, results, file, **how)
    return (folder / "gallery.html").read_text("utf-8")


def test_what_says_nothing_is_left_out(tmp_path: Path) -> None:
    """Where all cost the same there is no chart of one block, and without failures no word of
    them.
    """
    same = [{**result(n), "credits": 22.848, "seconds": 61.0} for n in range(3)]
    page = written(tmp_path, *same)
    assert "<svg" not in page
    assert "failed" not in page.partition("<script")[0].partition("</style>")[2]
    assert "<b>68.54</b><span>credits spent, 22.85 each</span>" in page
    assert "<svg" in written(tmp_path, *map(result, range(3)))


def test_the_title_is_one_that_people_would_write(tmp_path: Path) -> None:
    """A folder's name without its underscores, or what the caller says, as text."""
    folder = tmp_path / "spring_campaign-2"
    folder.mkdir()
    assert "<h1>Spring campaign 2</h1>" in written(folder, result(0))
    assert "<title>Spring campaign 2: 1 video</title>" in written(folder, result(0))
    assert "<h1>A &lt;b&gt; title</h1>" in written(folder, result(0), title="A <b> title")
    nameless = tmp_path / "out"
    nameless.mkdir()
    assert "<h1>Videos of " in written(nameless, result(0))


def test_nobody_learns_where_the_images_are(tmp_path: Path) -> None:
    """Who is sent the page sees a first frame's name, and no folder above the batch's parent."""
    folder = tmp_path / "sent"
    folder.mkdir()
    image = tmp_path / "private" / "cat.jpg"
    page = written(folder, {**result(1), "image": str(image)})
    assert '"image":"cat.jpg"' in page
    assert '"frame":"../private/cat.jpg"' in page
    assert str(tmp_path) not in page


@pytest.mark.slow
async def test_the_buttons_do_what_they_say(page: Any) -> None:
    """A video can be downloaded under its own name, and the id of its task be copied."""
    first = page.locator("#cards > li").nth(1)
    link = first.get_by_role("link", name="Download")
    assert await link.get_attribute("download") == ""
    assert await link.get_attribute("href") == "job%20%230001.mp4"
    await first.get_by_role("button", name="Copy id").click()
    await page.get_by_text("Copied task-unified-1795391156-00000001").wait_for(state="attached")


@pytest.mark.slow
async def test_a_video_fills_its_box(page: Any) -> None:
    """The box has the shape of the video, upright ones too: no bar lies below the controls."""
    await page.locator("#cards > li").nth(1).scroll_into_view_if_needed()
    for number, shape in ((1, 720 / 1280), (4, 1280 / 720)):
        box = await page.locator("#cards > li").nth(number).locator("video").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(shape, rel=0.01)


@pytest.mark.slow
async def test_scrolling_lays_out_only_what_is_near(page: Any) -> None:
    """Of a thousand cards, those far away are skipped by the browser."""
    await page.evaluate(
        "() => { const more = document.getElementById('more'); while (!more.hidden) more.click(); }"
    )
    skipped = """() => [...document.querySelectorAll('.card')]
        .map((card) => card.querySelector('.body'))
        .filter((body) => !body.checkVisibility({ contentVisibilityAuto: true })).length"""
    await page.wait_for_function(f"() => ({skipped})() > 900")


@pytest.mark.slow
async def test_a_sweep_stands_side_by_side(browser: Any, tmp_path: Path) -> None:
    """What was made from one first frame is one group; each card's caption is what differs."""
    sweep = [
        {
            **result(1),
            "id": f"{image}-{seed}-{quality}",
            "image": str(PHOTOS / image),
            "prompt": "It comes alive" if image == "cat.jpg" else f"Steam rises, take {seed}",
            "seed": seed,
            "quality": quality,
            "extra": {},
        }
        for image in ("cat.jpg", "coffee.jpg")
        for seed in (1, 2)
        for quality in ("720p", "1080p")
    ]
    written(tmp_path, *sweep)
    page = await browser.new_page()
    await page.goto((tmp_path / "gallery.html").as_uri())
    groups = page.locator("#cards > .group")
    heads = [await groups.nth(n).locator("header").inner_text() for n in range(2)]
    captions = await groups.nth(0).locator("h4").all_inner_texts()
    prompts = await groups.nth(1).locator(".card .prompt").all_inner_texts()
    assert await groups.nth(0).locator(".card .prompt").count() == 0
    await page.get_by_label("Group").select_option("")
    flat = await page.locator("#cards > .card").count()
    await page.close()
    assert [head.splitlines()[0] for head in heads] == ["cat.jpg", "coffee.jpg"]
    assert "4 jobs; they differ by seed, quality" in heads[0]
    assert "It comes alive" in heads[0]
    assert captions == ["seed 1 · 720p", "seed 1 · 1080p", "seed 2 · 720p", "seed 2 · 1080p"]
    assert prompts == [f"Steam rises, take {seed}" for seed in (1, 1, 2, 2)]
    assert flat == 8


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
