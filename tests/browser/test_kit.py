"""One kit in the page: live through kills, its past, changes to it, its study."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.browser.conftest import Served, violations  # type: ignore[import-not-found]
from vistaflow_services.designs.journal import Journal
from vistaflow_services.designs.table import Results, result_table

KIT = """
name: seen from its start to its optimum
deck: branin
seed: 1
design: {generator: lhs, size: 10}
ml: {families: [gaussian_process], folds: 2}
goals: minimize y
optimize: {budget: 4, batch_size: 2}
"""


pytestmark = pytest.mark.timeout(900)

WORK_MS = 300_000
"""How long the work of a kit may take, on a machine that does others' work, too."""


def shown(page: Page) -> list[int]:
    """The revisions of the rows that the page shows, the latest first."""
    texts = page.locator(".rows .body .c-revision").all_text_contents()
    return [int(text) for text in texts]


def log(served: Served, kit_id: int) -> list[int]:
    return [int(row["revision"]) for row in served.rows(kit_id)]


@pytest.fixture(scope="module")
def followed(served: Served, browser: Browser) -> Iterator[tuple[int, Page, Page]]:
    """A kit, a tab that followed it through kills of registry and gateway, and a late tab."""
    with browser.new_context(viewport={"width": 1280, "height": 6000}) as context:
        page = served.watched(context.new_page())
        kit_id = int(served.post("/v1/kits/run", {"kit_yaml": KIT})["kit"]["kit_id"])
        page.goto(f"{served.url}/kits/{kit_id}?tab=log")
        for service, job in (("registry", "design"), ("gateway", "train")):
            row = page.locator(".rows .body .row").filter(has_text=job).filter(has_text="running")
            row.first.wait_for(timeout=WORK_MS)
            killed = served.suite.kill(service)
            while served.suite.pid(service) in (0, killed):
                time.sleep(0.05)
        expect(page.locator(".head-of-kit")).to_contain_text("finished", timeout=WORK_MS)
        late = served.watched(context.new_page())
        late.goto(f"{served.url}/kits/{kit_id}?tab=log")
        yield kit_id, page, late


def test_a_tab_shows_every_row_once_whatever_is_killed(
    served: Served, followed: tuple[int, Page, Page]
) -> None:
    kit_id, page, late = followed
    rows = log(served, kit_id)

    expect(page.locator(".live")).to_have_text("live")
    expect(page.locator(".rows .body .row")).to_have_count(len(rows))
    assert shown(page) == rows[::-1]
    expect(late.locator(".rows .body .row")).to_have_count(len(rows))
    assert shown(late) == rows[::-1]


def test_the_result_is_that_of_the_study(served: Served, followed: tuple[int, Page, Page]) -> None:
    kit_id, page, _ = followed
    result = page.get_by_role("region", name="Result")
    kit = served.get(f"/v1/kits/{kit_id}")["kit"]
    study_id = next(job["job_id"] for job in kit["jobs"] if job["name"] == "optimize")
    study = served.get(f"/v1/studies/{study_id}")["study"]

    expect(result).to_contain_text("Best point, verified by the simulator")
    row = result.get_by_role("row").filter(has_text="x1").first
    expect(row).to_contain_text(f"{study['best']['parameters']['x1']:.5g}".rstrip("0"))


def test_the_past_is_the_tree_as_it_was(
    served: Served, page: Page, followed: tuple[int, Page, Page]
) -> None:
    kit_id, *_ = followed
    rows = served.rows(kit_id)
    design = next(
        row
        for row in rows
        if row.get("job_type") == "JOB_TYPE_DOE" and row["status"] == "STATUS_RUNNING"
    )
    page.goto(f"{served.url}/kits/{kit_id}?at={design['revision']}")
    row = page.get_by_role("row").filter(has=page.get_by_role("button", name="design", exact=True))
    expect(row.locator(".c-status")).to_have_text("running")
    expect(row.locator(".c-since")).to_have_text("finished")

    slider = page.get_by_label("Moment")
    slider.focus()
    slider.press("End")
    expect(row.locator(".c-status")).to_have_text("finished")
    expect(page).to_have_url(f"{served.url}/kits/{kit_id}")
    slider.press("Home")
    expect(page.get_by_text(f"as of revision {rows[0]['revision']},")).to_be_visible()
    expect(page.locator(".rows .body .row")).to_have_count(1)


def test_a_job_shows_what_it_printed_and_its_files(
    served: Served, page: Page, followed: tuple[int, Page, Page]
) -> None:
    kit_id, *_ = followed
    page.goto(f"{served.url}/kits/{kit_id}")
    page.get_by_role("button", name="optimize", exact=True).click()
    panel = page.get_by_role("region", name="Job optimize")

    expect(panel.get_by_role("log")).to_contain_text("ends with exit code 0")
    expect(panel.get_by_role("link", name="trials.parquet")).to_be_visible()
    picture = panel.get_by_role("img", name="convergence.png")
    expect(picture).to_be_visible()
    page.wait_for_function("image => image.naturalWidth > 100", arg=picture.element_handle())


def test_a_study_answers_what_if(
    served: Served, page: Page, followed: tuple[int, Page, Page]
) -> None:
    kit_id, *_ = followed
    page.goto(f"{served.url}/kits/{kit_id}/study")
    predicted = page.get_by_role("table", name="The model predicts").locator(".big")
    expect(predicted).to_contain_text(".")
    before = predicted.text_content()
    page.get_by_role("slider").first.press("PageDown")
    expect(predicted).not_to_have_text(before or "")
    page.get_by_role("button", name="Back to the best point").click()
    expect(predicted).to_have_text(before or "")

    for chart in ("Convergence", "Parallel coordinates", "A response over two parameters"):
        expect(page.get_by_role("img", name=chart).locator("canvas").first).to_be_visible()
    for name in ("effects", "importance", "correlation"):
        drawn = page.get_by_role("img", name=name, exact=True)
        drawn.scroll_into_view_if_needed()
        page.wait_for_function("image => image.naturalWidth > 100", arg=drawn.element_handle())
    # The middle of the first trial of the chart: whichever is clicked is shown beside it.
    area = page.get_by_role("img", name="Convergence").locator(".u-over")
    area.click(position={"x": 3, "y": 50})
    expect(page.get_by_text("point 0", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile(r"^ran .* s$"))).to_be_visible()
    assert violations(page) == []


def test_what_runs_has_tried_so_far_is_shown_as_it_comes(served: Served, page: Page) -> None:
    kit = served.external_kit("under way", "design")
    kit_id, job_id = kit["kit_id"], kit["jobs"][0]["job_id"]
    served.append({"job_id": job_id, "status": "STATUS_RUNNING"})
    folder = served.suite.home / "artifacts" / "jobs" / job_id / "1"
    folder.mkdir(parents=True)

    def tried(*numbers: int) -> None:
        """Shows rows as the job does, and says so."""
        values = np.array(numbers, dtype=float)
        results = Results(
            responses={"gain": 10 + values}, failures=[None] * len(values), seconds=values
        )
        journal.write(result_table({"width": values, "length": -values}, results, numbers))
        progress = {"phase": "simulate", "completed": max(numbers) + 1, "total": 9, "unit": "runs"}
        served.append(
            {
                "job_id": job_id,
                "task_name": "progress",
                "status": "STATUS_RUNNING",
                "metadata": {"progress": progress},
            }
        )

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with contextlib.closing(Journal(folder)) as journal:
        tried(0, 1)
        page.goto(f"{served.url}/kits/{kit_id}/study")
        status = page.get_by_role("status").filter(has_text="under way")
        expect(status).to_contain_text("design is under way: 2 points so far.")
        tried(2)
        expect(status).to_contain_text("3 points so far.")
        tried(4, 3)
        expect(status).to_contain_text("5 points so far.")
    reads = [url for url in asked if "/rows.json" in url]
    # Each change is read once and only what is new of it; nothing is polled.
    assert len(reads) <= 4
    assert "offset=3" in reads[-1]

    for chart in ("Responses, simulated", "Parallel coordinates"):
        expect(page.get_by_role("img", name=chart).locator("canvas").first).to_be_visible()
    area = page.get_by_role("img", name="Responses, simulated").locator(".u-over")
    area.click(position={"x": 3, "y": 50})
    expect(page.get_by_text("point 0", exact=True)).to_be_visible()
    assert violations(page) == []


def test_a_point_shows_what_its_run_printed_and_wrote(
    served: Served, page: Page, followed: tuple[int, Page, Page]
) -> None:
    kit_id, *_ = followed
    files = [
        {"path": "out/profile.csv", "content": base64.b64encode(b"x,n\n0,1\n").decode()},
        {"path": "mesh.bin", "content": base64.b64encode(b"\0\1").decode(), "truncated": True},
    ]
    answer = {"run": {"log": "step 1\nstep 2", "files": files}, "keeps_files": True}
    asked: list[Any] = []

    def answering(route: Route) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(json=answer)

    page.goto(f"{served.url}/kits/{kit_id}/study")
    panel = page.locator("section").filter(
        has=page.get_by_role("heading", name="Point", exact=True)
    )
    panel.get_by_text("Log and files").click()
    # A named function prints and writes nothing.
    expect(panel).to_contain_text("No output of its run is stored.")
    expect(panel).to_contain_text("keep_files: true")

    page.route("**/v1/runs:find", answering)
    page.reload()
    assert asked == []
    panel.get_by_text("Log and files").click()
    expect(panel.locator("pre").first).to_have_text("step 1\nstep 2")
    kit = served.get(f"/v1/kits/{kit_id}")["kit"]
    study_id = next(job["job_id"] for job in kit["jobs"] if job["name"] == "optimize")
    best = served.get(f"/v1/studies/{study_id}")["study"]["best"]
    assert [body["parameters"] for body in asked] == [best["parameters"]]
    panel.get_by_text("out/profile.csv").click()
    expect(panel.locator("li pre")).to_have_text("x,n\n0,1\n")
    expect(panel.locator("li").nth(1)).to_contain_text("There was more of it.")
    with page.expect_download() as download:
        panel.get_by_role("button", name="Save").first.click()
    assert download.value.suggested_filename == "profile.csv"
    assert download.value.path().read_bytes() == b"x,n\n0,1\n"
    assert violations(page) == []


def test_eight_tabs_are_live_at_once(served: Served, context: BrowserContext) -> None:
    kit = served.external_kit("for eight tabs")
    tabs = [served.watched(context.new_page()) for _ in range(8)]
    for number, tab in enumerate(tabs):
        tab.goto(f"{served.url}/kits/{kit['kit_id']}" if number % 4 else f"{served.url}/kits")
        expect(tab.locator(".live")).to_have_text("live")
    job = kit["jobs"][0]["job_id"]
    for status in ("RUNNING", "FINISHED"):
        served.append({"job_id": job, "status": f"STATUS_{status}"})
        for tab in tabs:
            place = tab.get_by_role("row").filter(has_text="for eight tabs")
            where = tab.locator(".head-of-kit").or_(place)
            expect(where).to_contain_text(status.lower())


def test_changes_are_made_with_their_reason(served: Served, page: Page) -> None:
    kit = served.external_kit("to be changed", "first", "second")
    page.goto(f"{served.url}/kits/{kit['kit_id']}")
    head = page.locator(".head-of-kit")
    for action, reason, status in (
        ("Pause", "a look first", "paused"),
        ("Resume", "looked", "queued"),
        ("Cancel", "wrong deck", "canceled"),
        ("Retry", "right after all", "queued"),
    ):
        head.get_by_role("button", name=action, exact=True).click()
        dialog = page.get_by_role("dialog", name=action)
        dialog.get_by_label("Reason").fill(reason)
        dialog.get_by_role("button", name=action, exact=True).click()
        expect(head.locator(".status")).to_have_text(status)
    reasons = {row.get("reason", "") for row in served.rows(kit["kit_id"])}
    assert {"a look first", "looked", "wrong deck", "right after all"} <= reasons, json.dumps(
        sorted(reasons)
    )


def test_failures_are_grouped_by_reason(served: Served, page: Page) -> None:
    kit = served.external_kit("with failures", "a", "b", "c")
    jobs = [job["job_id"] for job in kit["jobs"]]
    served.append(*({"job_id": job, "status": "STATUS_RUNNING"} for job in jobs))
    for job, reason in zip(jobs, ("no licence", "no licence", "diverged"), strict=True):
        served.append({"job_id": job, "status": "STATUS_FAILED", "reason": reason})
    page.goto(f"{served.url}/kits/{kit['kit_id']}?tab=failures")
    cells = page.locator("tbody tr")
    expect(cells).to_have_text([re.compile("^2no licence"), re.compile("^1diverged")])
