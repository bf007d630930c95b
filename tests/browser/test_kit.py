"""One kit in the page: live through kills, its past, changes to it, its study."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import Served, violations  # type: ignore[import-not-found]

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
