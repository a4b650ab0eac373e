"""The live page in a browser: what it shows, what its buttons do, and that it fits every screen."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Sandbox
from tests.sandbox.conftest import Wire

pytest.importorskip("playwright")
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright, expect

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed"),
]


@pytest.fixture
async def page(sandbox: Sandbox) -> AsyncIterator[Page]:
    """A page of headless Chromium, closed before the sandbox; errors and messages in it fail."""
    problems: list[Any] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        page = await browser.new_page()
        page.on("pageerror", lambda problem: problems.append(problem))
        page.on("console", lambda message: problems.append(message.text))
        # What a form refuses is an answer of the sandbox, which the browser notes all the same.
        refused = "the server responded with a status of 400 (Bad Request)"
        yield page
        await browser.close()
    assert [problem for problem in problems if refused not in str(problem)] == []


async def a_full_sandbox(wire: Wire) -> None:
    """Give the page something of everything to show."""
    wire.sandbox.scenario("eventual")
    wire.sandbox.clear_faults()
    wire.sandbox.fail(Fault("late-link", seconds=20, times=None))
    ids = [await wire.accepted(prompt=f"a horse at dusk, number {n}") for n in range(4)]
    wire.sandbox.finish(ids[0])
    wire.sandbox.end(ids[1], "failed", error_code="content_policy_violation")
    wire.sandbox.end(ids[2], "cancelled")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_the_page_fits_and_is_accessible(
    page: Page, wire: Wire, width: int, scheme: Any
) -> None:
    """Nothing sticks out on a phone or a desk, light or dark, and axe finds nothing."""
    await a_full_sandbox(wire)
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 900})
    await page.goto(wire.sandbox.url + "/")
    await expect(page.locator("#tasks tr")).to_have_count(5)
    wide = await page.evaluate(
        """() => [document.documentElement, ...document.querySelectorAll(".sheet")]
            .filter(each => each.scrollWidth > each.clientWidth).map(each => each.id || "page")"""
    )
    assert wide == []
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


async def test_its_buttons_steer_the_sandbox(page: Page, wire: Wire) -> None:
    """Time moves, tasks end, faults come by a line or a scenario and go; mistakes are explained."""
    await wire.accepted()
    before = wire.sandbox.now
    await page.goto(wire.sandbox.url + "/")
    await page.click("text=Forward 1 hour")
    await expect(page.locator(".completed")).to_have_count(1)
    assert wire.sandbox.now == before + 3600
    await page.fill("#line", "late-link seconds=20 times=3")
    await page.click("text=Add fault")
    await expect(page.locator("#faults")).to_contain_text("late-link")
    await page.fill("#line", "late-links")
    await page.click("text=Add fault")
    await expect(page.locator("#trouble")).to_contain_text("no such fault: 'late-links'")
    await page.select_option("#scenario", "eventual")
    await expect(page.locator("#faults")).to_contain_text("short-links")
    await page.click("text=Clear faults")
    await expect(page.locator("#faults")).to_contain_text("the sandbox behaves")


async def test_what_is_shown_is_text_never_markup(page: Page, wire: Wire) -> None:
    """A prompt with tags and a path with quotes are shown as they are."""
    await wire.accepted(prompt="<img src=x onerror=alert(1)>")
    await wire.get('/v1/"><script>alert(1)</script>')
    await page.goto(wire.sandbox.url + "/")
    await expect(page.locator("#tasks")).to_contain_text("<img src=x onerror=alert(1)>")
    assert await page.locator("#tasks img, #requests script").count() == 0


async def test_without_control_paths_the_page_says_so(
    page: Page, http: aiohttp.ClientSession
) -> None:
    """It opens, and explains why it shows nothing."""
    async with Sandbox(video="stub", control=False) as sandbox:
        await page.goto(sandbox.url + "/")
        await expect(page.locator("#clock")).to_contain_text("switched off")
