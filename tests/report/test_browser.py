"""The page in headless Chromium."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from autotune.report.page import write_page
from tests.report.browser import Page, browser, chromium
from tests.report.conftest import read
from tests.report.made import HOSTILE, write_comparison

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium")

NARROW, LIGHT, DARK = 390, "rgb(251, 251, 249)", "rgb(17, 20, 24)"
CLICKS = 8
PANEL = "document.querySelector('.panel:not([hidden])')"
COLUMN = "[...document.querySelectorAll('#table-methods tbody tr')].map(row => row.cells[{}].dataset.sort)"


def use(path: Path, steps: Callable[[Page], Awaitable[None]]) -> None:
    """Run some steps in a browser; the page must not complain."""

    async def run() -> None:
        async with browser() as page:
            await steps(page)
            assert page.problems == []

    asyncio.run(run())


@pytest.fixture
def report(folder: Path) -> Path:
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "experiment": HOSTILE}))
    write_comparison(folder)
    return write_page(read(folder))


def test_the_page_works(report: Path) -> None:
    """One browser for all of it: starting one takes seconds."""

    async def steps(page: Page) -> None:
        await page.open(report)
        assert (
            await page.value("document.querySelectorAll('#plot-frontier .scatterlayer .trace').length") == 6
        )
        assert await page.value("document.querySelectorAll('#plot-frontier .errorbar').length") > 10
        assert await page.value("document.querySelectorAll('#plot-history .scatterlayer .trace').length") >= 2
        assert await page.value("getComputedStyle(document.body).backgroundColor") == LIGHT
        assert HOSTILE in await page.value("document.querySelector('h1').textContent")
        await _keyboard(page)
        await _mouse(page)
        await _sorting(page)
        await _axes(page)

    use(report, steps)


async def _keyboard(page: Page) -> None:
    await page.press("Tab", 9)
    assert await page.value("document.activeElement.className") == "skip"
    await page.value("document.querySelector('button.pick[data-pick=front-00]').focus()")
    await page.press("Enter", 13, "\r")
    assert await page.value(f"{PANEL}.dataset.name") == "front-00"
    assert "presets/front-00.yaml" in await page.value(f"{PANEL}.textContent")
    pressed = "[...document.querySelectorAll('button.pick[aria-pressed=true]')].map(b => b.dataset.pick)"
    assert await page.value(pressed) == ["front-00"]
    await page.until("document.getElementById('toast').textContent.startsWith('front-00')")
    await page.value(f"{PANEL}.querySelector('.copy').focus()")
    await page.press(" ", 32, " ")
    await page.until(f"{PANEL}.querySelector('.copied').textContent")
    assert await page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


async def _mouse(page: Page) -> None:
    """A click on a preset in the plot selects it; one that lies under another point is passed over."""
    await page.value("document.getElementById('plot-frontier').scrollIntoView({behavior: 'instant'})")
    places = await page.value(
        """(() => {
          const plot = document.getElementById('plot-frontier'), trace = plot.data[1];
          const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
          return trace.x.map((x, i) => [
            box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(trace.y[i]),
            trace.customdata[i]]);
        })()"""
    )
    others = [place for place in places if place[2] != "front-00"]
    for x, y, name in CLICKS * others:  # plotly sees the pointer now and then, which a busy machine delays
        await page.click(x, y)
        await asyncio.sleep(0.3)
        if await page.value(f"{PANEL}.dataset.name") == name:
            return
    raise AssertionError("no click selected a preset")


async def _sorting(page: Page) -> None:
    press = "document.querySelectorAll('#table-methods .sort')[{}].click()"
    state = (
        "[...document.querySelectorAll('#table-methods thead th')].map(th => th.getAttribute('aria-sort'))"
    )
    await page.value(press.format(3))  # speedup
    speeds = [float(value) for value in await page.value(COLUMN.format(3))]
    assert speeds == sorted(speeds)
    assert (await page.value(state))[3] == "ascending"
    await page.value(press.format(3))
    assert [float(value) for value in await page.value(COLUMN.format(3))] == sorted(speeds, reverse=True)
    await page.value(press.format(0))  # a text
    assert (await page.value(state))[0:4:3] == ["ascending", "none"]
    names = await page.value(COLUMN.format(0))
    assert names == sorted(names)


async def _axes(page: Page) -> None:
    change = "{0}.value = '{1}'; {0}.dispatchEvent(new Event('change'))"
    title = "document.querySelector('#plot-frontier .{}title').textContent"
    await page.value(change.format("document.getElementById('axis-y')", "psnr"))
    await page.value(change.format("document.getElementById('axis-x')", "compute_fraction"))
    assert "PSNR" in await page.value(title.format("y"))
    assert "compute fraction" in await page.value(title.format("x"))
    assert await page.value("document.getElementById('direction').textContent") == "higher is better"


def test_on_a_phone_and_in_the_dark(report: Path) -> None:
    async def steps(page: Page) -> None:
        await page.open(report, width=NARROW, height=844, dark=True)
        assert await page.value("document.documentElement.scrollWidth") == NARROW
        assert await page.value("getComputedStyle(document.body).backgroundColor") == DARK
        ink = "getComputedStyle(document.querySelector('#plot-frontier .xtick text')).fill"
        assert await page.value(ink) == "rgb(230, 233, 237)"

    use(report, steps)


def test_a_partial_report_works(folder: Path) -> None:
    (folder / "summary.json").unlink()
    path = write_page(read(folder, "the search is running"))

    async def steps(page: Page) -> None:
        await page.open(path)
        assert "Partial" in await page.value("document.querySelector('.banner').textContent")
        await page.value("document.querySelector('button.pick').click()")
        await page.until("document.getElementById('toast').textContent.endsWith('is selected')")

    use(path, steps)
