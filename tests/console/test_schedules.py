"""Schedules in the console: what runs next, in whose clock, and what came of each run."""

from __future__ import annotations

from typing import Any

from playwright.async_api import expect

from testkit.service import Service

from .conftest import Console, check_accessible, settled

NIGHTLY: dict[str, Any] = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "timeZone": "Europe/Berlin",
    "task": {"type": "report", "payload": {"number": 9007199254740993}},
}


async def test_a_schedule_is_made_with_its_next_runs_in_sight(console: Console, api: Service) -> None:
    console.allow("400")
    page = await console.open(api, "/schedules", subject="alice", roles=("user",))
    await expect(page.get_by_text("There are no schedules yet")).to_be_visible()
    await page.get_by_role("button", name="New schedule").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("When").fill("61 * * * *")
    await expect(dialog.locator(".preview .field-error")).to_be_visible()
    await dialog.get_by_label("Name").fill("nightly")
    await dialog.get_by_label("When").fill("30 2 * * *")
    await dialog.get_by_label("Time zone").fill("Europe/Berlin")
    await expect(dialog.locator(".preview tbody tr")).to_have_count(5)
    await expect(dialog.locator(".preview tbody tr").first).to_contain_text("02:30:00")
    await check_accessible(page)
    await dialog.get_by_label("Task").fill('{"type": "report", "payload": {"b": 9007199254740993, "a": 1}}')
    await dialog.get_by_role("button", name="Create").click()

    await expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    [made] = (await api.alice.done("GET", "/api/schedules"))["schedules"]
    stored = (await api.alice.done("GET", f"/api/schedules/{made['id']}"))["task"]
    assert list(stored["payload"].items()) == [("b", 9007199254740993), ("a", 1)]


async def test_a_schedule_is_run_paused_resumed_and_deleted(console: Console, api: Service) -> None:
    made = await api.alice.done("POST", "/api/schedules", NIGHTLY)
    page = await console.open(api, f"/schedules/{made['id']}", subject="alice", roles=("user",))
    await page.get_by_role("button", name="Run now").click()
    await page.get_by_role("dialog").get_by_role("button", name="Run now").click()
    runs = page.get_by_role("region", name="Runs", exact=True)
    await expect(runs.locator("tbody tr")).to_contain_text("by hand")
    await expect(runs.get_by_role("link")).to_be_visible()
    await page.get_by_role("button", name="Pause", exact=True).click()
    await page.get_by_label("Reason").fill("holidays")
    await page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    await expect(page.get_by_text("holidays")).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("holidays")).to_be_hidden()
    await check_accessible(page)
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("button", name="Delete the schedule").click()

    await expect(page.get_by_text("There are no schedules yet")).to_be_visible()


async def test_changing_the_time_leaves_the_task_as_it_was_sent(console: Console, api: Service) -> None:
    made = await api.alice.done("POST", "/api/schedules", NIGHTLY)
    page = await console.open(api, f"/schedules/{made['id']}", subject="alice", roles=("user",))
    await page.get_by_role("button", name="Change").click()
    await page.get_by_role("dialog").get_by_label("When").fill("0 4 * * *")
    await page.get_by_role("dialog").get_by_role("button", name="Save").click()
    await expect(page.get_by_text("0 4 * * *")).to_be_visible()

    changed = await api.alice.done("GET", f"/api/schedules/{made['id']}")
    assert changed["task"]["payload"] == {"number": 9007199254740993}


async def test_an_auditor_sees_schedules_and_no_action(console: Console, api: Service) -> None:
    made = await api.alice.done("POST", "/api/schedules", NIGHTLY)
    page = await console.open(api, f"/schedules/{made['id']}", subject="ann", roles=("auditor",))
    await expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    await settled(page)
    await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
    await page.goto(f"{api.url}/console/#/schedules")
    await page.set_viewport_size({"width": 390, "height": 844})
    await expect(page.get_by_role("link", name="nightly")).to_be_visible()

    assert await page.evaluate("() => document.documentElement.scrollWidth") <= 390
