"""Another user of this machine with a browser: the page opens to it by a token only."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.conftest import CHROMIUM, WAIT_MS, Served  # type: ignore[import-not-found]
from tests.processes import end  # type: ignore[import-not-found]
from tests.strangers import UID, as_root  # type: ignore[import-not-found]


@pytest.fixture
def other(served: Served) -> Iterator[Page]:
    """A tab of a browser that another user runs."""
    with tempfile.TemporaryDirectory(prefix="vistaflow-other-") as folder:
        os.chown(folder, UID, UID)
        process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}/profile",
            ],
            user=UID,
            group=UID,
            extra_groups=[],
            cwd=folder,
            env={"HOME": folder, "PATH": os.environ["PATH"], "LANG": "en_US.UTF-8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = Path(folder, "profile", "DevToolsActivePort")
            while not port.exists() or not port.read_text().strip():
                assert process.poll() is None
                time.sleep(0.05)
            with sync_playwright() as playwright:
                url = f"http://127.0.0.1:{port.read_text().split()[0]}"
                browser = playwright.chromium.connect_over_cdp(url, timeout=WAIT_MS)
                yield served.watched(browser.new_context(locale="en-US").new_page())
                browser.close()
        finally:
            end(process)


@as_root
def test_the_page_opens_to_another_user_by_a_token_only(served: Served, other: Page) -> None:
    kit = served.external_kit("of the owner", project="optics")
    token = served.post(
        "/v1/tokens", {"name": "a neighbour", "project": "optics", "role": "ROLE_VIEWER"}
    )
    other.goto(f"{served.url}/kits")
    field = other.get_by_label("Token")
    expect(field).to_be_visible()
    assert "of the owner" not in other.content()
    # What the page could ask for is refused as well.
    read = "async (path) => (await fetch(path)).status"
    for path in ("/v1/kits", f"/v1/kits/{kit['kit_id']}", "/v1/events", "/v1/queries"):
        assert other.evaluate(read, path) == 401

    field.fill(token["secret"])
    other.get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("link", name="of the owner")).to_be_visible()
    expect(other.locator(".live")).to_have_text("live")
    cancel = """async (kit) => (await fetch(`/v1/kits/${kit}/cancel`, {
        method: 'POST', body: '{}', headers: {'content-type': 'application/json'}})).status"""
    assert other.evaluate(cancel, kit["kit_id"]) in (403, 404)
    assert served.get(f"/v1/kits/{kit['kit_id']}")["kit"]["status"] != "STATUS_CANCELED"
