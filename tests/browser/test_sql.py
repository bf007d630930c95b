"""SQL in the page: the editor, its checks, rows of large results, and the history."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import Served  # type: ignore[import-not-found]
from tests.browser.test_page import violations  # type: ignore[import-not-found]

LARGE = (
    "select i + 1000 * j as number, 'row ' || i as name\n"
    "from unnest(sequence(1, 1000)) t(i), unnest(sequence(0, :last)) u(j)"
)


def write(page: Page, text: str) -> Locator:
    """Writes over the text of the editor."""
    editor = page.get_by_role("textbox", name="SQL editor")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
    return editor


@pytest.fixture
def sql(served: Served, page: Page) -> Iterator[Page]:
    """The view."""
    page.goto(f"{served.url}/sql")
    expect(page.locator(".live")).to_have_text("live")
    return page


def test_a_result_of_many_rows_is_shown_by_pages_sorted_and_filtered(
    served: Served, sql: Page
) -> None:
    write(sql, LARGE)
    sql.get_by_label("Value of last").fill("499")
    sql.get_by_label("Type of last").select_option("BIGINT")
    sql.get_by_role("textbox", name="SQL editor").click()
    sql.keyboard.press("Control+Enter")
    table = sql.get_by_role("table", name="Rows of the result")
    expect(table).to_have_attribute("aria-rowcount", "500001")
    expect(table.get_by_role("cell", name="row 1", exact=True)).to_be_visible()
    table.evaluate("element => element.scrollTop = element.scrollHeight")
    expect(table.get_by_role("rowheader", name="500,000")).to_be_visible()
    assert table.get_by_role("row").count() < 60

    table.get_by_role("button", name="number").click()
    table.get_by_role("button", name="number").click()
    first = table.locator("[aria-rowindex='2']")
    expect(first).to_contain_text("500000")
    sql.get_by_label("Column").select_option("name")
    sql.get_by_label("Condition").select_option("=")
    sql.get_by_label("Value", exact=True).fill("row 7")
    sql.get_by_role("button", name="Filter").click()
    expect(table).to_have_attribute("aria-rowcount", "501")
    expect(first).to_contain_text("499007")

    link = sql.get_by_role("link", name="CSV").get_attribute("href")
    assert served.http.get(str(link)).text.count("\n") == 501


def test_mistakes_are_underlined_and_columns_completed(sql: Page) -> None:
    write(sql, "select job_id,\n  foo from state.jobs")
    expect(sql.locator(".cm-lintRange-error")).to_have_text("foo")
    write(sql, "select  from state.jobs j where j.job_t")
    sql.keyboard.type("y")
    # By the mouse: keys that come right after the list has opened are taken for the text.
    sql.locator(".cm-tooltip-autocomplete li").filter(has_text="job_type").first.click()
    expect(sql.locator(".cm-content")).to_contain_text("j.job_type")
    sql.keyboard.press("Escape")


def test_text_outlives_a_reload_and_the_history_has_the_stored_result(sql: Page) -> None:
    write(sql, "select 9007199254740993 as large, cast(1.10 as decimal(5, 2)) as exact")
    sql.get_by_label("Most rows").fill("1")
    sql.get_by_role("button", name="Run", exact=True).click()
    expect(sql.get_by_role("cell", name="9007199254740993", exact=True)).to_be_visible()
    expect(sql.get_by_role("cell", name="1.10", exact=True)).to_be_visible()
    sql.get_by_role("button", name="Run", exact=True).click()
    expect(sql.get_by_text("This is a stored result")).to_be_visible()
    sql.get_by_role("button", name="Run again").click()
    expect(sql.get_by_text("This is a stored result")).to_have_count(0)

    sql.get_by_role("button", name="New tab").click()
    write(sql, "select 'not run'")
    # It is stored by the next frame.
    sql.wait_for_function("Object.values(localStorage).some(text => text.includes('not run'))")
    sql.reload()
    expect(sql.locator(".cm-content")).to_have_text("select 'not run'")
    history = sql.get_by_role("region", name="History")
    history.get_by_label("contains").fill("9007199254740993")
    expect(history.get_by_role("row")).to_have_count(3)
    history.get_by_role("button").first.click()
    expect(sql.get_by_role("cell", name="9007199254740993", exact=True)).to_be_visible()
    expect(sql.get_by_role("tab", name="select 'not run'")).to_be_visible()


def test_a_limit_that_cut_is_named_and_a_query_is_canceled(sql: Page) -> None:
    write(sql, "select i from unnest(sequence(1, 50)) t(i)")
    sql.get_by_label("Most rows").fill("20")
    sql.get_by_role("button", name="Run", exact=True).click()
    expect(sql.get_by_text("A limit cut the result")).to_be_visible()

    sql.get_by_label("Most rows").fill("")
    many = "unnest(sequence(1, 100000))"
    write(sql, f"select count(*) from {many} a(i), {many} b(j), {many} c(k) where i * j = k + 1")
    sql.get_by_role("button", name="Run", exact=True).click()
    result = sql.get_by_role("region", name="Result")
    expect(result.locator(".status")).to_have_text("running")
    result.get_by_role("button", name="Cancel").click()
    expect(result.locator(".status")).to_have_text("canceled")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_sql_is_accessible_and_fits_a_telephone(
    served: Served, browser: Browser, colours: str
) -> None:
    scheme = "dark" if colours == "dark" else "light"
    size = {"width": 390, "height": 800}
    with browser.new_context(locale="en-US", color_scheme=scheme, viewport=size) as context:
        page = served.watched(context.new_page())
        page.goto(f"{served.url}/sql")
        write(page, "select 1 as one, null as none")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.get_by_role("columnheader", name="one", exact=True)).to_be_visible()
        expect(page.get_by_role("cell", name="NULL", exact=True)).to_be_visible()
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
