"""The list of kits."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import Served  # type: ignore[import-not-found]


def test_the_list_follows_its_kits(served: Served, page: Page) -> None:
    first = served.external_kit("seen at once", labels={"team": "optics"})
    page.goto(f"{served.url}/kits?label=team%3Doptics")
    row = page.get_by_role("row").filter(has_text="seen at once")
    expect(row).to_contain_text("queued")
    expect(page.locator(".live")).to_have_text("live")

    work = first["jobs"][0]["job_id"]
    served.append({"job_id": work, "status": "STATUS_RUNNING"})
    expect(row).to_contain_text("running")
    served.external_kit("of others")
    served.external_kit("came later", labels={"team": "optics"})
    expect(page.get_by_role("row").filter(has_text="came later")).to_contain_text("queued")
    served.append({"job_id": work, "status": "STATUS_FINISHED"})

    expect(row).to_contain_text("finished")
    names = page.get_by_role("row").get_by_role("link").all_text_contents()
    assert names == ["came later", "seen at once"]


def test_filters_are_in_the_address(served: Served, page: Page) -> None:
    served.external_kit("an address of its own")
    page.goto(served.url)
    page.get_by_label("Name").fill("ADDRESS of")
    expect(page).to_have_url(f"{served.url}/?name=ADDRESS+of")
    expect(page.get_by_role("row").get_by_role("link")).to_have_text(["an address of its own"])

    page.get_by_label("finished").check()
    expect(page).to_have_url(f"{served.url}/?name=ADDRESS+of&status=FINISHED")
    expect(page.get_by_text("No kit matches.")).to_be_visible()


def test_long_lists_come_by_pages_and_only_their_visible_rows_are_drawn(
    served: Served, page: Page
) -> None:
    for number in range(450):
        served.external_kit(f"of many {number}", project="many")
    page.goto(f"{served.url}/kits?project=many")
    table = page.get_by_role("table", name="Kits")
    expect(page.get_by_text("the first 200 kits")).to_be_visible()
    page.wait_for_function(
        """() => {
          const box = document.querySelector('.rows');
          box.scrollTo(0, box.scrollHeight);
          return document.querySelector('form output').textContent === '450 kits';
        }"""
    )
    table.evaluate("box => box.scrollTo(0, box.scrollHeight)")
    expect(page.get_by_role("link", name="of many 0", exact=True)).to_be_visible()
    assert table.locator(".row").count() < 80
