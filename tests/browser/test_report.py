"""The report of a kit: one file that a browser shows without network."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import WAIT_MS, Served  # type: ignore[import-not-found]
from tests.browser.test_page import violations  # type: ignore[import-not-found]

KIT = """
name: A <b>report</b>
deck: branin
seed: 3
design: {generator: lhs_ese, size: 14}
goals: minimize y
optimize: {budget: 4}
"""


def opened(browser: Browser, file: Path) -> Page:
    """The file in a browser without network; no request but for itself and what it embeds."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    return page


def test_the_report_of_a_finished_kit(served: Served, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "kit.yaml").write_text(KIT)
    served.suite.cli("run", str(tmp_path / "kit.yaml"))
    kit_id = int(served.get("/v1/kits", name_contains="A <b>report</b>")["kits"][0]["kit_id"])
    file = tmp_path / "kit.html"
    printed = served.suite.cli("report", str(kit_id), "-o", str(file))
    assert str(file) in printed.stdout.replace("\n", "")
    page = opened(browser, file)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Kit {kit_id}: A <b>report</b>")
    for caption in ("Best point", "Predicted and simulated", "Parameters"):
        expect(page.get_by_role("table", name=caption)).to_be_visible()
    assert page.locator("img").count() > 3
    widths = page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert min(widths) > 100
    assert page.locator("script").count() == 0
    page.context.close()

    text = file.read_text()
    answer = served.http.get(f"/v1/kits/{kit_id}/report?download=true")
    assert answer.text == text
    assert f"kit-{kit_id}.html" in answer.headers["content-disposition"]
    # What the report says to run is what ran.
    again = re.findall(r"<pre>(name: .*?)</pre>", text, re.DOTALL)[0].replace("&lt;", "<")
    checked = served.post(
        "/v1/rpc/vistaflow.api.pipeline.v1.PipelineService/ValidateKit",
        {"kit_yaml": again.replace("&gt;", ">").replace("&#x27;", "'").replace("&quot;", '"')},
    )
    assert not checked.get("mistakes")
    assert checked["spec"]["design"] == {
        "generator": "GENERATOR_LHS_ESE", "size": 14, "seed": "3"
    }  # fmt: skip
    assert checked["spec"]["optimize"]["budget"] == 4


def test_reports_of_kits_that_failed_and_that_run(
    served: Served, browser: Browser, tmp_path: Path
) -> None:
    failed = served.external_kit("failed early")
    job = failed["jobs"][0]["job_id"]
    served.append({"job_id": job, "status": "STATUS_RUNNING"})
    served.append({"job_id": job, "status": "STATUS_FAILED", "reason": "no <i>licence</i>"})
    running = served.external_kit("still at work")
    files = []
    for kit in (failed, running):
        file = tmp_path / f"{kit['kit_id']}.html"
        file.write_text(served.http.get(f"/v1/kits/{kit['kit_id']}/report").text)
        files.append(file)
    page = opened(browser, files[0])
    expect(page.get_by_role("listitem")).to_have_text("Job work failed: no <i>licence</i>")
    assert violations(page) == []
    page.context.close()
    page = opened(browser, files[1])
    expect(page.get_by_text("not finished yet")).to_be_visible()
    page.context.close()
    assert served.http.get("/v1/kits/999999/report").status_code == 404
    assert served.http.get("/v1/kits/x/report").status_code == 404
    served.suite.cli("report", "999999", "-o", str(tmp_path / "none.html"), code=1)
    assert not (tmp_path / "none.html").exists()
