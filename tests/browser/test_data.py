"""Data and services in the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Served  # type: ignore[import-not-found]
from tests.browser.test_page import violations  # type: ignore[import-not-found]


@pytest.fixture(scope="module")
def dataset(served: Served) -> str:
    """A dataset with two versions, the first of which has an alias."""
    file = served.suite.data / "fruits.csv"
    for price in ("0.90", "0.80"):
        file.write_text(f"item,price\napple,1.10\npear,{price}\nplum,-1\n")
        served.suite.cli(
            "dataset", "import", "fruits", "raw/fruits.csv", "--key", "item",
            "--rule", "priced: price > 0",
        )  # fmt: skip
    served.post(
        "/v1/rpc/vistaflow.api.datasets.v1.DatasetService/SetDatasetAlias",
        {"dataset": "fruits", "alias": "final", "version": 1},
    )
    return "fruits"


def test_a_dataset_shows_versions_columns_and_rejects(
    served: Served, page: Page, dataset: str
) -> None:
    page.goto(f"{served.url}/data")
    page.get_by_role("button", name=dataset, exact=False).click()
    versions = page.get_by_role("table", name="Versions")
    expect(versions.get_by_role("row")).to_have_count(3)
    expect(versions).to_contain_text("final")
    expect(page.get_by_text("Rejected by rule: priced, 1")).to_be_visible()
    expect(page.get_by_role("img", name="≤").first).to_be_visible()
    versions.get_by_role("button", name="1", exact=True).click()
    expect(page.get_by_role("heading", name=f"{dataset}@1")).to_be_visible()
    link = page.get_by_role("link", name="CSV").get_attribute("href")
    assert "0.9\n" in served.http.get(str(link)).text


def test_a_dropped_file_is_converted_and_its_tables_are_there(
    served: Served, page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "people.json"
    file.write_text('[{"id": 1, "pets": [{"name": "해피"}, {"name": "Rex"}]}]')
    page.goto(f"{served.url}/data?tab=conversions")
    page.get_by_label("or drop files here").set_input_files(file)
    page.get_by_label("Name of the output").fill("people")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("table", name="Tables")).to_contain_text("pets")
    link = page.get_by_role("link", name="people.pets_1.csv").get_attribute("href")
    assert "해피" in served.http.get(str(link)).content.decode("utf-8-sig")


def test_a_schedule_is_paused_and_run_by_hand(served: Served, page: Page, tmp_path: Path) -> None:
    kit = tmp_path / "kit.yaml"
    kit.write_text("name: often\njobs:\n  count:\n    query: {user_query: select 1 as n}\n")
    served.suite.cli("schedule", "create", "yearly", str(kit), "--cron", "0 2 1 1 *")
    page.goto(f"{served.url}/data?tab=schedules")
    row = page.get_by_role("row").filter(has_text="yearly")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    row.get_by_role("button", name="Run now").click()
    row.get_by_role("button", name="yearly").click()
    last = page.get_by_role("region", name="yearly")
    expect(last.get_by_text("by hand")).to_be_visible()
    expect(last.get_by_role("link", name="kit")).to_be_visible()
    expect(last).to_contain_text("finished", timeout=60_000)
    row.get_by_role("button", name="Resume").click()
    expect(last.get_by_role("listitem").first).to_contain_text("2:00")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_data_and_services_are_accessible_and_fit_a_telephone(
    served: Served, browser: Browser, dataset: str, colours: str
) -> None:
    scheme = "dark" if colours == "dark" else "light"
    size = {"width": 390, "height": 800}
    with browser.new_context(locale="ko-KR", color_scheme=scheme, viewport=size) as context:
        page = served.watched(context.new_page())
        found = {}
        for path, text in (
            (f"/data?dataset={dataset}", "price"),
            ("/data?tab=conversions", "JSON을 테이블로 변환"),
            ("/data?tab=schedules", "일정"),
            ("/services", "레지스트리 점검"),
        ):
            page.goto(served.url + path)
            expect(page.get_by_text(text).first).to_be_visible()
            found[path] = violations(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    assert {path: those for path, those in found.items() if those} == {}


def test_services_name_their_version_and_what_checks_found(served: Served, page: Page) -> None:
    page.goto(f"{served.url}/services")
    services = page.get_by_role("table", name="Services")
    row = services.get_by_role("row").filter(has_text="gateway")
    expect(row).to_contain_text("serving")
    expect(row).to_contain_text(served.get("/v1/server")["version"])
    expect(page.get_by_role("table", name="Checks")).to_contain_text("append-only")
