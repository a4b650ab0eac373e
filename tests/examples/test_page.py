"""The web app's page in a real browser: an image goes in, progress shows, the video plays, and
restarts and reloads lose nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import PHOTOS
from tests.examples.test_examples import EXAMPLES, ROOT, free_port

pytest.importorskip("playwright")
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="Chromium is not installed (set CHROMIUM to its path)"
)


@asynccontextmanager
async def serving(sandbox: Sandbox, folder: Path, port: int) -> AsyncIterator[str]:
    """Run the app in a process of its own, and end it as a service manager would."""
    env = {**os.environ, **sandbox.env(), "PYTHONPATH": str(ROOT), "VIDEOS": str(folder)}
    command = [sys.executable, str(EXAMPLES / "fastapi_app.py"), "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdout=asyncio.subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as client:
            while process.returncode is None:
                try:
                    async with client.get(url):
                        break
                except aiohttp.ClientError:
                    # There is no event to wait for: a port that opens tells nobody.
                    await asyncio.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()


EXPECTED = ("ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_REFUSED", "422")
"""What the browser says of a server that ends, and of an image that is refused."""


def complaint(said: ConsoleMessage) -> list[str]:
    """Give what the browser complains about, as far as the page is to blame."""
    wrong = said.type == "error" and not any(words in said.text for words in EXPECTED)
    return [said.text] if wrong else []


@pytest.fixture
async def page(anyio_backend: str) -> AsyncIterator[Page]:
    """A page of headless Chromium; what goes wrong inside it fails the test."""
    problems: list[Any] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page(viewport={"width": 900, "height": 1000})
        page.on("pageerror", lambda problem: problems.append(problem))
        page.on("console", lambda said: problems.extend(complaint(said)))
        yield page
        await browser.close()
    assert problems == []


async def drop(page: Page, path: Path) -> None:
    """Drop a file on the page, as from a file manager."""
    script = """text => {
        const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
        const dropped = new DataTransfer();
        dropped.items.add(new File([bytes], "cat.jpg", {type: "image/jpeg"}));
        return dropped;
    }"""
    dropped = await page.evaluate_handle(script, base64.b64encode(path.read_bytes()).decode())
    await page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})


@needs_chromium
async def test_an_image_becomes_a_video_in_the_browser(page: Page, tmp_path: Path) -> None:
    """Choose an image, type a prompt, see progress; the server restarts and the page reloads in
    between; the video plays.
    """
    port, folder = free_port(), tmp_path / "videos"
    async with Sandbox(task_seconds=240, speed=30) as sandbox:
        async with serving(sandbox, folder, port) as url:
            await page.goto(url)
            await page.set_input_files("#image", str(PHOTOS / "cat.jpg"))
            await page.fill("#prompt", "The cat looks around")
            await page.click("#go")
            await expect(page.locator("article .state")).to_contain_text("%")
        async with serving(sandbox, folder, port):
            await page.reload()
            await expect(page.locator("article .prompt")).to_have_text("The cat looks around")
            video = page.locator("article video")
            await expect(video).to_be_visible(timeout=60_000)
            await page.wait_for_function(
                "() => document.querySelector('video').currentTime > 0", timeout=20_000
            )
            assert await video.evaluate("video => video.videoWidth") > 0
            await page.screenshot(path=os.environ.get("SCREENSHOT", str(tmp_path / "page.png")))
        assert sandbox.paid == 1


@needs_chromium
async def test_a_browser_that_goes_away_loses_nothing(page: Page, tmp_path: Path) -> None:
    """The video is made although nobody looks, and is there for whoever comes next."""
    folder = tmp_path / "videos"
    async with (
        Sandbox(video="stub", task_seconds=60, speed=60) as sandbox,
        serving(sandbox, folder, free_port()) as url,
    ):
        await page.goto(url)
        await drop(page, PHOTOS / "cat.jpg")
        await page.click("#go")
        await page.wait_for_selector("article")
        await page.goto("about:blank")
        await page.goto(url)
        await expect(page.locator("article video")).to_have_count(1, timeout=60_000)
        assert len(list(folder.glob("*.mp4"))) == sandbox.paid == 1


@needs_chromium
async def test_many_videos_at_once_do_not_stop_the_page(page: Page, tmp_path: Path) -> None:
    """A browser has six connections to a server: with eight videos under way the page still sends
    and shows.
    """
    async with (
        Sandbox(video="stub", speed=0) as sandbox,
        serving(sandbox, tmp_path / "videos", free_port()) as url,
    ):
        await page.goto(url)
        await page.set_input_files("#image", str(PHOTOS / "cat.jpg"))
        for count in range(1, 9):
            await page.click("#go")
            await expect(page.locator("article")).to_have_count(count)
            await expect(page.locator("article .state").first).to_contain_text("%")
        sandbox.finish()
        assert sandbox.paid == 8


@needs_chromium
async def test_a_refused_image_is_explained(page: Page, tmp_path: Path) -> None:
    """What is wrong with an image stands on the page, and nothing is paid."""
    wrong = tmp_path / "cat.gif"
    wrong.write_bytes(b"GIF89a" + bytes(100))
    async with (
        Sandbox(video="stub") as sandbox,
        serving(sandbox, tmp_path / "videos", free_port()) as url,
    ):
        await page.goto(url)
        await page.set_input_files("#image", str(wrong))
        await page.click("#go")
        await expect(page.locator("#problem")).to_contain_text("image")
        assert sandbox.paid == 0


@needs_chromium
async def test_the_price_stands_there_before_the_click_and_the_cost_after(
    page: Page, tmp_path: Path
) -> None:
    """Length and quality are chosen, the price follows them; the card says what was paid and has a
    link to download the video.
    """
    async with (
        Sandbox(video="stub", task_seconds=60, speed=120) as sandbox,
        serving(sandbox, tmp_path / "videos", free_port()) as url,
    ):
        await page.goto(url)
        await expect(page.locator("#price")).to_have_text("about 38.08 credits")
        await page.select_option("#duration", "4")
        await page.select_option("#quality", "1080p")
        await expect(page.locator("#price")).to_have_text("about 52.4 credits")
        await page.set_input_files("#image", str(PHOTOS / "cat.jpg"))
        await page.click("#go")
        card = page.locator("article")
        await expect(card.locator(".facts")).to_have_text(
            "4 s · 1080p · cost 52.4 credits", timeout=60_000
        )
        async with page.expect_download() as downloading:
            await card.get_by_role("link", name="Download").click()
        saved = await (await downloading.value).path()
        assert saved.read_bytes() == next((tmp_path / "videos").glob("*.mp4")).read_bytes()
        assert sandbox.tasks[0].request["quality"] == "1080p"


@needs_chromium
async def test_a_refusal_stands_on_its_card_with_what_helps(page: Page, tmp_path: Path) -> None:
    """What the service refuses is said where the video would be, and the page goes on."""
    body = {"error": {"code": "insufficient_quota", "message": "The balance is too low"}}
    async with (
        Sandbox(video="stub", speed=0) as sandbox,
        serving(sandbox, tmp_path / "videos", free_port()) as url,
    ):
        sandbox.fail(Fault("refuse", path="/v1/videos*", status=402, body=body))
        await page.goto(url)
        await page.set_input_files("#image", str(PHOTOS / "cat.jpg"))
        await page.click("#go")
        await expect(page.locator("article .bad")).to_contain_text("top up")
        await expect(page.locator("article progress")).to_have_count(0)
        await page.click("#go")
        await expect(page.locator("article .state").first).to_contain_text("%")


@needs_chromium
async def test_the_page_is_accessible_in_the_light_and_in_the_dark(
    page: Page, tmp_path: Path
) -> None:
    """The accessibility check finds nothing, and nothing sticks out of a phone."""
    scripts = pytest.importorskip("axe_playwright_python")
    axe = files(scripts).joinpath("axe.min.js").read_text("utf-8")
    async with (
        Sandbox(video="stub", task_seconds=1, speed=60) as sandbox,
        serving(sandbox, tmp_path / "videos", free_port()) as url,
    ):
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.goto(url)
        await page.set_input_files("#image", str(PHOTOS / "cat.jpg"))
        await page.click("#go")
        await expect(page.locator("article video")).to_have_count(1, timeout=60_000)
        await page.evaluate(axe)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = await page.evaluate("axe.run(document)")
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
