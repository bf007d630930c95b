"""The page's list among many kits: its requests, its first paint, scrolling through its pages.

    python benchmarks/page.py [--kits 1000 100000] [--rounds 5]

The kits are written directly into the database. Every round opens the list in a new Chromium
context, with an empty cache, and waits until the first kits are drawn; then one tab is scrolled
through fifty pages of the list.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent / "registry"))
import filled
from bench import Table, arguments, quantile, run
from gateway import gateway
from playwright.async_api import Browser, async_playwright
from servers import postgres, registry

REQUESTS = 30
SCROLLED = 50
"""Pages of the list that are scrolled through."""

DRAWN = "() => document.querySelectorAll('.rows a').length > 5 && performance.now()"
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
SCROLL = """async (pages) => {
  const box = document.querySelector('.rows');
  const count = () => Number(document.querySelector('form output').textContent.replace(/\\D/g, ''));
  const began = performance.now(), goal = count() + 200 * pages;
  while (count() < goal) {
    box.scrollTo(0, box.scrollHeight);
    await new Promise(requestAnimationFrame);
  }
  return (performance.now() - began) / pages;
}"""


async def requests(address: str) -> dict[str, float]:
    """The median of the time of a request in ms."""
    paths = {
        "first page": {},
        "by a status": {"statuses": "STATUS_FAILED"},
        "by a part of the name": {"name_contains": "opamp"},
    }
    medians = {}
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=60) as http:

        async def page(parameters: dict[str, str]) -> str:
            answer = await http.get("/v1/kits", params={"page_size": "200", **parameters})
            return str(answer.raise_for_status().json().get("next_page_token", ""))

        token = ""
        for _ in range(4):
            token = await page({"page_token": token})
        paths["fifth page"] = {"page_token": token}
        for name, parameters in paths.items():
            times = []
            for _ in range(REQUESTS):
                began = time.perf_counter()
                await page(parameters)
                times.append(1000 * (time.perf_counter() - began))
            medians[name] = quantile(times, 0.5)
    return medians


async def opened(browser: Browser, address: str) -> tuple[float, float]:
    """When the page was painted first, and when its first kits were drawn, in ms."""
    context = await browser.new_context(locale="en-US")
    try:
        tab = await context.new_page()
        await tab.goto(f"http://{address}/kits")
        drawn = await tab.wait_for_function(DRAWN)
        return float(await tab.evaluate(PAINTED)), float(await drawn.json_value())
    finally:
        await context.close()


async def scrolled(browser: Browser, address: str) -> float:
    """Milliseconds of a page of the list, from the scroll to its rows."""
    context = await browser.new_context(locale="en-US")
    try:
        tab = await context.new_page()
        await tab.goto(f"http://{address}/kits")
        await tab.wait_for_function(DRAWN)
        return float(await tab.evaluate(SCROLL, SCROLLED))
    finally:
        await context.close()


async def measure(home: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    with postgres(home) as dsn:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox"]
            )
            few: dict[str, float] = {}
            for kits in options.kits:
                schema = f"kits_{kits}"
                filled.fill_kits(dsn, schema, kits)
                async with (
                    registry(dsn, home, name=schema, schema=schema) as server,
                    gateway(server.address, home) as front,
                ):
                    table = Table(f"the list of the page, {kits:,} kits")
                    figures = await requests(front.address)
                    for name, figure in figures.items():
                        table.add(f"200 kits, {name}: p50", figure, "ms", against=few.get(name))
                    turns = [
                        await opened(browser, front.address) for _ in range(options.rounds + 1)
                    ]
                    # The first one compiles what Chromium itself needs.
                    painted, drawn = map(statistics.median, zip(*turns[1:], strict=True))
                    most = 1000.0
                    table.add("first paint", painted, "ms", most=most, absolute=True)
                    table.add("first kits drawn", drawn, "ms", against=few.get("drawn"))
                    figures["drawn"] = drawn
                    if kits > 200 * (SCROLLED + 1):
                        step = await scrolled(browser, front.address)
                        table.add("scrolling, a page of 200", step, "ms")
                    few = few or figures
            await browser.close()


parser = arguments(__doc__)
parser.add_argument("--kits", type=int, nargs="+", default=[1_000, 100_000], help="in the list")
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
if __name__ == "__main__":
    run(measure)
