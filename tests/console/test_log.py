"""The log in the console: what happened, in order, and who did it; settings of the console and the service."""

from __future__ import annotations

import re

from playwright.async_api import expect

from testkit.service import Service

from .conftest import Console, check_accessible, settled


async def test_an_entry_leads_to_what_is_around_it(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/log?event=TaskFailed")
    table = page.get_by_role("region", name="Entries")
    await expect(table.get_by_text("TaskFailed")).to_have_count(3)
    await table.get_by_text("TaskFailed").first.click()
    panel = page.get_by_role("complementary", name="Entry")
    await expect(panel.get_by_text("CUDA out of memory")).to_be_visible()
    await check_accessible(page)
    await panel.get_by_role("link", name="all about it").click()

    await expect(table.get_by_text("TaskSubmitted")).to_be_visible()
    await expect(table.get_by_text("AttemptStarted")).to_be_visible()


async def test_the_log_is_read_at_a_past_place_and_on_from_there(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/log?log=tasks")
    await settled(page)
    await page.get_by_label("Jump to a place or an instant").fill("tasks:5")
    await page.get_by_role("button", name="Go").click()

    table = page.get_by_role("region", name="Entries")
    await expect(table.locator("tbody tr").first).to_contain_text("tasks:4")
    await expect(page.get_by_text("The beginning of the log.")).to_be_visible()
    assert "before=tasks%3A5" in page.url


async def test_new_entries_wait_until_they_are_asked_for(console: Console, api: Service) -> None:
    await api.alice.submit({"payload": 1})
    page = await console.open(api, "/log")
    table = page.get_by_role("region", name="Entries")
    await expect(table.locator("tbody tr")).to_have_count(1)
    await api.alice.submit({"payload": 2})
    pill = page.get_by_role("button", name="1 new")
    await expect(pill).to_be_visible()
    await expect(table.locator("tbody tr")).to_have_count(1)
    await page.keyboard.press("n")

    await expect(table.locator("tbody tr")).to_have_count(2)
    await expect(pill).to_be_hidden()


async def test_a_user_reads_what_is_theirs_and_nothing_else(console: Console, api: Service) -> None:
    await api.alice.submit({"payload": 1})
    await api.bob.submit({"payload": 1})
    page = await console.open(api, "/log", subject="bob", roles=("user",))
    table = page.get_by_role("region", name="Entries")
    await expect(table.locator("tbody tr")).to_have_count(1)

    await expect(table.get_by_text("alice")).to_have_count(0)


async def test_settings_show_who_one_is_and_what_one_is_connected_to(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/settings")
    await expect(page.get_by_role("heading", name="Workers")).to_be_visible()
    await expect(page.get_by_text("read payloads and results of others")).to_be_visible()
    await expect(page.get_by_role("region", name="Workers").get_by_role("cell", name="scheduler")).to_be_visible()
    await page.get_by_text("Settings of the process that answered").click()
    await expect(page.get_by_text("TASKSTREAM_JWT_SECRET", exact=True)).to_be_visible()
    await settled(page)
    assert "a secret of the tests" not in await page.locator("body").inner_text()
    await check_accessible(page)


async def test_the_chosen_zone_and_theme_hold_in_this_browser(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/settings")
    await page.get_by_label("Time zone").select_option("Asia/Tokyo")
    await page.get_by_label("Theme", exact=True).select_option("dark")
    await page.reload()

    await expect(page.get_by_label("Time zone")).to_have_value("Asia/Tokyo")
    assert await page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    await page.goto(f"{stocked.url}/console/#/log")
    await expect(page.get_by_role("region", name="Entries").locator("time").first).to_have_attribute(
        "title", re.compile(r"GMT\+9|JST")
    )
    await check_accessible(page)
