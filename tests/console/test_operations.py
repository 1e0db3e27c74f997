"""Operations in the console: what the service does to many tasks, with or without a page that looks on."""

from __future__ import annotations

from playwright.async_api import expect

from testkit.service import Service

from .conftest import Console, check_accessible


async def test_an_operation_is_followed_to_its_end(console: Console, api: Service) -> None:
    for number in range(3):
        await api.alice.submit({"type": "old", "payload": number})
    started = await api.alice.done(
        "POST", "/api/operations", {"action": "cancel", "filter": {"type": ["old"]}, "reason": "not needed"}
    )
    page = await console.open(api, "/operations", subject="alice", roles=("user",))
    row = page.get_by_role("region", name="Operations").locator("tbody tr")
    await expect(row).to_contain_text("cancel tasks")
    await expect(row).to_contain_text("done")
    await expect(row).to_contain_text("not needed")
    await expect(row.locator('[data-title="Done"]')).to_have_text("3")
    await check_accessible(page)

    assert (await api.alice.done("GET", f"/api/operations/{started['id']}"))["counts"]["done"] == 3


async def test_an_operation_is_paused_resumed_and_stopped(console: Console, api: Service) -> None:
    """It is paused before the page is opened: so it cannot be over when the first button is pressed."""
    count = 10_000
    for _ in range(count // 1000):
        batch = [{"type": "old", "payload": number} for number in range(1000)]
        await api.alice.done("POST", "/api/tasks/batch", batch)
    started = await api.alice.done("POST", "/api/operations", {"action": "cancel", "filter": {"type": ["old"]}})
    await api.alice.done("POST", f"/api/operations/{started['id']}/pause")
    page = await console.open(api, "/operations", subject="alice", roles=("user",))
    row = page.get_by_role("region", name="Operations").locator("tbody tr")
    await row.get_by_role("button", name="Resume").click()
    await row.get_by_role("button", name="Pause").click()
    await expect(row.locator(".state")).to_contain_text("paused")
    [paused] = (await api.alice.done("GET", "/api/operations"))["operations"]
    assert paused["counts"]["done"] < count
    await row.get_by_role("button", name="Resume").click()
    await row.get_by_role("button", name="Stop").click()

    await expect(row.locator(".state")).to_contain_text("stopped")
    [stopped] = (await api.alice.done("GET", "/api/operations"))["operations"]
    left = await api.alice.until(
        "/api/tasks/count?status=WAITING",
        lambda counts: counts["count"] == count - stopped["counts"]["done"],
        "all but the cancelled tasks",
    )
    assert left["count"] > 0


async def test_nobody_else_sees_an_operation_and_auditors_have_no_button(console: Console, api: Service) -> None:
    await api.alice.submit({"type": "old", "payload": 1})
    await api.alice.done("POST", "/api/operations", {"action": "cancel", "filter": {"type": ["old"]}})
    page = await console.open(api, "/operations", subject="bob", roles=("user",))
    await expect(page.get_by_text("No operation was started lately")).to_be_visible()
    page = await console.open(api, "/operations", subject="ann", roles=("auditor",))
    table = page.get_by_role("region", name="Operations")
    await expect(table.locator("tbody tr")).to_have_count(1)

    await expect(table.get_by_role("button")).to_have_count(0)
