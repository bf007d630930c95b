"""The page in a real browser, served by one suite for all tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.e2e.conftest import Suite, start_suite  # type: ignore[import-not-found]
from vistaflow_services.gateway.page.serving import BUILT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_MS = 60_000
AXE = Path(__file__).parents[2] / "client/web/node_modules/axe-core/axe.min.js"
expect.set_options(timeout=WAIT_MS)


@dataclass
class Served:
    """A suite with its page, and what its pages complained of."""

    suite: Suite
    http: httpx.Client
    problems: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    def get(self, path: str, **parameters: Any) -> Any:
        """Reads JSON."""
        answer = self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any) -> Any:
        """Sends JSON."""
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def external_kit(self, name: str, *jobs: str, **fields: Any) -> dict[str, Any]:
        """A kit whose jobs no worker takes: the test reports what they do."""
        body = {"name": name, **fields}
        body["jobs"] = [{"name": job, "job_type": "JOB_TYPE_DOE"} for job in jobs or ("work",)]
        kit: dict[str, Any] = self.post("/v1/kits", body)["kit"]
        return kit

    def append(self, *states: dict[str, Any]) -> int:
        """Reports states of external jobs; the revision of the last."""
        method = "/v1/rpc/vistaflow.api.registry.v1.RegistryService/AppendStates"
        answer = self.post(method, {"states": list(states)})
        verdicts = {one["verdict"] for one in answer["results"]}
        assert verdicts == {"VERDICT_ACCEPTED"}, answer
        return int(answer["revision"])

    def rows(self, kit_id: int) -> list[dict[str, Any]]:
        """The rows of a kit in the log."""
        parameters = {"filter.kit_ids": kit_id, "page_size": 5000}
        answer: list[dict[str, Any]] = self.get("/v1/states", **parameters)["states"]
        return answer

    def watched(self, page: Page) -> Page:
        """Notes errors of a page's scripts, breaches of its policy, and requests to others."""
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._note)
        page.on("request", self._check)
        return page

    def _note(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.problems.append(message.text)

    def _check(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"asked {request.url}")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all browser tests."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    if not (BUILT / "index.html").exists():
        pytest.skip("the page is not built: make web")
    yield from start_suite(tmp_path_factory.mktemp("browser") / "home")


@pytest.fixture(scope="session")
def served(suite: Suite) -> Iterator[Served]:
    """The page."""
    endpoints = json.loads((suite.home / "run" / "endpoints.json").read_bytes())
    url = f"http://{endpoints['gateway']}"
    # Kills of the gateway end connections that wait.
    with httpx.Client(
        base_url=url, timeout=60, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
    ) as http:
        yield Served(suite, http)


@pytest.fixture(autouse=True)
def no_problems(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test fails if a script of the page does."""
    yield
    if "served" in request.fixturenames:
        served: Served = request.getfixturevalue("served")
        problems, served.problems[:] = list(served.problems), []
        assert problems == []


@pytest.fixture(scope="module")
def browser(suite: Suite) -> Iterator[Browser]:
    """Chromium. For one module, as its loop would stand in the way of other modules' loops."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """What tabs of one browser share."""
    size = {"width": 1280, "height": 900}
    with browser.new_context(locale="en-US", timezone_id="UTC", viewport=size) as context:
        context.set_default_timeout(WAIT_MS)
        yield context


@pytest.fixture
def page(context: BrowserContext, served: Served) -> Page:
    """A tab."""
    return served.watched(context.new_page())


def violations(page: Page) -> list[str]:
    """What axe finds that is serious, by rule and place."""
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})"
    )
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]} {one['nodes'][0]['failureSummary'][:300]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
