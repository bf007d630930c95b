"""What holds for every view: who gets in, languages, access for all, size."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import Served, violations  # type: ignore[import-not-found]
from tests.processes import end  # type: ignore[import-not-found]
from tests.site import serving_site  # type: ignore[import-not-found]
from vistaflow_services.gateway.page.serving import BUILT

MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def kit_id(served: Served) -> int:
    """A kit that runs, one that failed beside it."""
    failed = served.external_kit("one that failed", labels={"team": "photonics"})
    job = failed["jobs"][0]["job_id"]
    served.append({"job_id": job, "status": "STATUS_RUNNING"})
    served.append({"job_id": job, "status": "STATUS_FAILED", "reason": "no licence"})
    kit = served.external_kit("one that runs", "work", "more-work")
    work = kit["jobs"][0]["job_id"]
    served.append({"job_id": work, "status": "STATUS_RUNNING"})
    served.append({"job_id": work, "task_name": "a part", "status": "STATUS_RUNNING"})
    return int(kit["kit_id"])


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_view_is_accessible(
    served: Served, browser: Browser, kit_id: int, colours: str
) -> None:
    scheme = "dark" if colours == "dark" else "light"
    with browser.new_context(locale="en-US", color_scheme=scheme) as context:
        page = served.watched(context.new_page())
        found = {}
        tabs = [f"/kits/{kit_id}?tab={tab}" for tab in ("tree", "timeline", "log", "failures")]
        for path in ("/kits", *tabs):
            page.goto(served.url + path)
            expect(page.locator(".live")).to_have_text("live")
            expect(page.get_by_text("one that runs").first).to_be_visible()
            found[path] = violations(page)
        page.get_by_role("button", name="Cancel", exact=True).click()
        found["dialogue"] = violations(page)
    assert {path: those for path, those in found.items() if those} == {}


def test_no_view_is_wider_than_a_telephone(served: Served, browser: Browser, kit_id: int) -> None:
    with browser.new_context(viewport={"width": 390, "height": 800}) as context:
        page = served.watched(context.new_page())
        for path in ("/kits", f"/kits/{kit_id}", f"/kits/{kit_id}?tab=timeline"):
            page.goto(served.url + path)
            expect(page.get_by_text("one that runs").first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_the_keyboard_reaches_the_content_first(served: Served, page: Page, kit_id: int) -> None:
    page.goto(f"{served.url}/kits")
    link = page.get_by_role("link", name="one that runs")
    expect(link).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    link.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{served.url}/kits/{kit_id}")
    page.go_back()
    expect(page).to_have_url(f"{served.url}/kits")


def test_the_page_speaks_korean_to_korean_browsers(
    served: Served, browser: Browser, kit_id: int
) -> None:
    with browser.new_context(locale="ko-KR") as context:
        page = served.watched(context.new_page())
        page.goto(f"{served.url}/kits/{kit_id}")
        expect(page.locator("html")).to_have_attribute("lang", "ko")
        expect(page.get_by_role("tab", name="타임라인")).to_be_visible()
        expect(page.locator(".head-of-kit .status")).to_have_text("실행 중")
        page.get_by_label("언어").select_option("en")
        expect(page.get_by_role("tab", name="Timeline")).to_be_visible()
        page.reload()
        expect(page.get_by_role("tab", name="Timeline")).to_be_visible()


def test_a_command_opens_the_page_of_a_kit(
    served: Served, page: Page, kit_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER", "echo opened %s")
    printed = served.suite.cli("open", str(kit_id)).stdout.split()
    url = f"{served.url}/kits/{kit_id}"
    page.goto(printed[0])

    assert printed == [url, "opened", url]
    expect(page.locator(".head-of-kit")).to_contain_text("one that runs")


def test_colours_are_chosen_once(served: Served, page: Page) -> None:
    page.goto(served.url)
    page.get_by_label("Colours").select_option("dark")
    expect(page.locator("html")).to_have_attribute("data-colours", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-colours", "dark")


def test_little_is_loaded_before_a_chart(served: Served, page: Page, kit_id: int) -> None:
    loaded: set[str] = set()
    page.on("response", lambda response: loaded.add(response.url.rpartition("/")[2]))
    page.goto(f"{served.url}/kits")
    page.get_by_role("link", name="one that runs").click()
    expect(page.get_by_role("tab", name="Timeline")).to_be_visible()
    scripts = {name for name in loaded if name.endswith(".js")}
    worker = next(file.name for file in (BUILT / "assets").glob("worker-*.js"))

    assert len(scripts) > 2
    files = [BUILT / "assets" / name for name in {*scripts, worker}]
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= MOST_BYTES


def test_pages_of_another_origin_start_and_read_nothing(
    served: Served, context: BrowserContext
) -> None:
    before = numbers(served)
    body = '{"name": "by a stranger", "jobs": [{"name": "a", "job_type": "JOB_TYPE_DOE"}]}'
    script = f"""
      const told = [];
      const attempt = async (name, call) => {{
        try {{ told.push([name, await call()]); }} catch (error) {{ told.push([name, 'refused']); }}
      }};
      const url = '{served.url}';
      const body = '{body}';
      await attempt('read', async () => (await fetch(url + '/v1/kits')).text());
      await attempt('with cookies', async () =>
        (await fetch(url + '/v1/kits', {{credentials: 'include'}})).text());
      await attempt('start', async () => (await fetch(url + '/v1/kits',
        {{method: 'POST', body, headers: {{'content-type': 'application/json'}}}})).text());
      for (const path of ['/v1/kits', '/v1/query?query=select+1'])
        await fetch(url + path, {{method: path.includes('query') ? 'GET' : 'POST', body:
          path.includes('query') ? undefined : body, mode: 'no-cors'}}).catch(() => 0);
      await attempt('watch', () => new Promise((read, fail) => {{
        const source = new EventSource(url + '/v1/events');
        source.onmessage = source.onopen = () => read('events');
        source.onerror = () => {{ source.close(); fail(); }};
      }}));
      await attempt('frame', () => new Promise((read, fail) => {{
        const frame = document.createElement('iframe');
        frame.src = url + '/kits';
        frame.onload = () => {{
          try {{ read(frame.contentDocument.body.innerHTML); }} catch {{ fail(); }}
        }};
        document.body.append(frame);
      }}));
      return told;
    """
    with serving_site() as site:
        site.html("/", "<!doctype html><title>another</title><body>")
        page = context.new_page()
        page.goto(site.url.replace("127.0.0.1", "localhost"))
        told = page.evaluate(f"(async () => {{ {script} }})()")

    names = ("read", "with cookies", "start", "watch", "frame")
    assert [tuple(each) for each in told] == [(name, "refused") for name in names]
    assert numbers(served) == before


def numbers(served: Served) -> tuple[list[str], list[str]]:
    """The kits and queries that there are, whatever they do at the moment."""
    kits, queries = served.get("/v1/kits"), served.get("/v1/queries")
    return (
        [kit["kit_id"] for kit in kits["kits"]],
        [query["query_id"] for query in queries.get("queries", ())],
    )


@pytest.fixture
def locked(served: Served, tmp_path: Path) -> Iterator[str]:
    """A second gateway, which asks everybody for a token; its address."""
    address = tmp_path / "address"
    process = subprocess.Popen(
        [sys.executable, "-m", "vistaflow_services.gateway"],
        env={
            **served.suite.env,
            "VISTAFLOW_AUTH": "required",
            "VISTAFLOW_GATEWAY_LISTEN": "127.0.0.1:0",
            "VISTAFLOW_GATEWAY_ADDRESS_FILE": str(address),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        while not address.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://{address.read_text()}"
    finally:
        end(process)


def test_a_token_opens_the_page_until_it_is_revoked(
    served: Served, context: BrowserContext, locked: str
) -> None:
    served.external_kit("behind a login", project="optics")
    made = served.post(
        "/v1/tokens", {"name": "a guest", "project": "optics", "role": "ROLE_VIEWER"}
    )
    page = context.new_page()
    page.goto(f"{locked}/kits")
    field = page.get_by_label("Token")
    expect(field).to_be_visible()
    assert violations(page) == []
    field.fill("not-a-token")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("This token is not valid.")
    assert "behind a login" not in page.content()

    field.fill(made["secret"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("link", name="behind a login")).to_be_visible()
    expect(page.locator(".live")).to_have_text("live")
    session = next(one for one in context.cookies() if one["name"] == "vistaflow_session")
    assert session["httpOnly"]
    assert session["sameSite"] == "Strict"
    assert made["secret"] not in session["value"]

    served.post(
        "/v1/rpc/vistaflow.api.registry.v1.RegistryService/RevokeToken",
        {"token_id": made["token"]["token_id"]},
    )
    expect(field).to_be_visible()
    assert "behind a login" not in page.content()


def test_signing_out_ends_the_session(served: Served, context: BrowserContext, locked: str) -> None:
    made = served.post(
        "/v1/tokens", {"name": "another", "project": "optics", "role": "ROLE_VIEWER"}
    )
    page = context.new_page()
    page.goto(f"{locked}/login")
    page.get_by_label("Token").fill(made["secret"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()
