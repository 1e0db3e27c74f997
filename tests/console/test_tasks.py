"""The list of tasks: filters, views, keys, actions on many, and what stays still while it is read."""

from __future__ import annotations

import re
from typing import Any

from playwright.async_api import Dialog, Page, expect

from testkit.backend import BackendServer, status
from testkit.service import Client, Service

from .conftest import Console, check_accessible, settled

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> \u202etxt.exe \x1b[31mred"
MANY = 10_000
OF_A_BATCH = 1_000
PAGE = 100


async def submit_many(client: Client, count: int, **fields: Any) -> None:
    """Submit tasks in batches, and wait until lists have them."""
    for _ in range(count // OF_A_BATCH or 1):
        tasks = [{"payload": number, **fields} for number in range(min(count, OF_A_BATCH))]
        await client.done("POST", "/api/tasks/batch", tasks)
    await client.until("/api/tasks/count", lambda counts: counts["count"] >= count, f"{count} tasks in the index")


def rows(page: Page) -> Any:
    return page.locator("table.data tbody tr")


async def test_each_filter_is_in_the_address_and_narrows_the_list(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks")
    await expect(rows(page)).to_have_count(15)
    field = page.get_by_role("combobox", name="Filter")
    for typed, count in (
        ("status:FAILED", 3),
        ("type:broken server:gpu-1", 3),
        ("error:memory", 3),
        ("endedSince:1h", 3),
    ):
        await field.fill(typed)
        await field.press("Escape")
        await field.press("Enter")
        await expect(rows(page)).to_have_count(count)
    assert page.url.endswith("/tasks?status=FAILED&type=broken&server=gpu-1&error=memory&endedSince=1h")

    await page.reload()
    await expect(rows(page)).to_have_count(3)
    await page.get_by_role("button", name="Remove the filter status FAILED").click()
    await expect(page).to_have_url(re.compile(r"/tasks\?type=broken&server=gpu-1&error=memory&endedSince=1h$"))
    await page.get_by_role("button", name="Clear all").click()
    await expect(rows(page)).to_have_count(15)


async def test_the_filter_field_completes_keys_and_values_with_their_counts(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks")
    await expect(rows(page)).to_have_count(15)
    await page.keyboard.press("/")
    await page.keyboard.type("typ")
    await expect(page.get_by_role("option", name="type")).to_be_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("option", name="echo 5")).to_be_visible()
    await check_accessible(page)
    await page.get_by_role("option", name="echo 5").click()
    await expect(rows(page)).to_have_count(5)

    await page.keyboard.type("nope:1")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text('there is no filter "nope"')


async def test_presets_are_one_key_away(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks")
    await expect(rows(page)).to_have_count(15)
    for key, count in (("2", 6), ("3", 3), ("4", 4), ("1", 15)):
        await page.keyboard.press(key)
        await expect(rows(page)).to_have_count(count)


async def test_failures_are_grouped_by_error_and_a_group_leads_to_its_tasks(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks?status=FAILED")
    await page.get_by_role("button", name="by error").click()
    group = page.get_by_role("link", name="CUDA out of memory")
    await expect(group).to_be_visible()
    await expect(rows(page).first).to_contain_text("broken 3")
    await check_accessible(page)
    await group.click()

    await expect(page).to_have_url(re.compile(r"status=FAILED&shape=1-[0-9a-f]+$"))
    await expect(rows(page)).to_have_count(3)


async def test_tasks_are_counted_by_server_type_and_owner(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks")
    for view, value, count in (("by server", "gpu-1", "8"), ("by type", "echo", "5"), ("by owner", "alice", "15")):
        await page.get_by_role("button", name=view).click()
        row = page.get_by_role("row", name=value)
        await expect(row).to_contain_text(count)
    await page.get_by_role("link", name="alice").click()
    await page.get_by_role("button", name="list", exact=True).click()
    await expect(rows(page)).to_have_count(15)


async def test_a_list_works_without_a_mouse(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks?status=FAILED")
    await expect(rows(page)).to_have_count(3)
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await expect(rows(page).nth(0)).to_be_focused()
    await page.keyboard.press("o")
    peek = page.get_by_role("complementary", name="Task")
    await expect(peek).to_contain_text("CUDA out of memory")
    await check_accessible(page)
    await page.keyboard.press("Escape")
    await expect(peek).to_be_hidden()

    await page.keyboard.press("x")
    await page.keyboard.press("Shift+J")
    await expect(page.get_by_text("2 selected")).to_be_visible()
    await page.keyboard.press("r")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("2 tasks would be retried")
    await check_accessible(page)
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(rows(page).nth(1)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(r"#/task/"))


async def test_selected_tasks_are_cancelled_retried_and_deleted(console: Console, api: Service) -> None:
    for number in range(3):
        await api.alice.submit({"payload": number})
    page = await console.open(api, "/tasks", subject="alice", roles=("user",))
    await expect(rows(page)).to_have_count(3)
    done = page.locator(".run-card")
    for action, past, word in (
        ("Cancel", "cancelled", "cancelled"),
        ("Retry", "retried", "waiting"),
        ("Delete", "deleted", ""),
    ):
        await page.get_by_label("Select all rows of this page").check()
        await page.get_by_role("button", name=f"{action}…").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Reason").fill("a trial")
        await dialog.get_by_role("button", name=f"{action} 3").click()
        await expect(dialog).to_be_hidden()
        await expect(done.last).to_contain_text(f"3 tasks {past}")
        await done.last.get_by_role("button", name="Close").click()
        if word:
            await expect(rows(page).filter(has_text=word)).to_have_count(3)
    assert await api.alice.tasks() == []


async def test_all_that_match_are_retried_by_the_service_after_a_dry_run(
    console: Console, service: Service, backend: BackendServer
) -> None:
    backend.answer = status(400, {"error": "no"})
    await service.admin.register(backend, "b")
    ids = [await service.alice.submit({"payload": number}) for number in range(5)]
    for task_id in ids:
        await service.alice.reaches(task_id, "FAILED")
    await service.admin.until("/api/tasks/count?status=FAILED", lambda counts: counts["count"] == 5, "5 failures")
    page = await console.open(service, "/tasks?status=FAILED&endedSince=1h")
    await page.get_by_role("button", name="Retry all 5 tasks…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("5 tasks would be retried")
    assert len(backend.calls) == 5, "the dry run ran"
    await dialog.get_by_role("button", name="Retry 5").click()

    await expect(page.locator(".run-card")).to_contain_text("5 tasks retried")
    for task_id in ids:
        retried = [event for event in await service.alice.history(task_id) if event["type"] == "TaskQueued"]
        assert [event["reason"] for event in retried] == ["retried by root"]


async def test_ten_thousand_tasks_are_paged_counted_and_acted_on_by_their_number(
    console: Console, api: Service
) -> None:
    await submit_many(api.alice, MANY, type="bulk")
    page = await console.open(api, "/tasks?type=bulk")
    await expect(rows(page)).to_have_count(PAGE)
    await expect(page.get_by_role("navigation", name="Pages of the list")).to_contain_text("100 of 10,000 tasks")
    first = await rows(page).first.get_attribute("data-key")
    await page.get_by_role("button", name="Next").click()
    await expect(page).to_have_url(re.compile(r"cursor="))
    await expect(rows(page).first).not_to_have_attribute("data-key", first or "")
    await expect(rows(page)).to_have_count(PAGE)
    await page.get_by_role("button", name="First").click()
    await expect(rows(page).first).to_have_attribute("data-key", first or "")

    await page.get_by_label("Select all rows of this page").check()
    await page.get_by_role("button", name="Select all 10,000 tasks that match").click()
    await expect(page.get_by_text("all 10,000 tasks that match")).to_be_visible()
    await page.get_by_role("button", name="Cancel…").click()
    dialog = page.get_by_role("dialog")
    button = dialog.get_by_role("button", name="Cancel 1,000 and more")
    await expect(button).to_be_disabled()
    await dialog.get_by_label("Type 1000 to confirm").fill("1000")
    await expect(button).to_be_enabled()


async def test_rows_stay_where_they_are_while_others_come_and_change(console: Console, api: Service) -> None:
    older = [await api.alice.submit({"payload": number}) for number in range(3)]
    page = await console.open(api, "/tasks?status=WAITING")
    await expect(rows(page)).to_have_count(3)
    order = [await row.get_attribute("data-key") for row in await rows(page).all()]
    await api.alice.done("POST", f"/api/task/{older[1]}/cancel")
    newer = await api.alice.submit({"payload": "new"})

    await expect(page.get_by_role("button", name="1 new")).to_be_visible()
    await expect(rows(page).nth(1)).to_have_class(re.compile("dimmed"))
    assert [await row.get_attribute("data-key") for row in await rows(page).all()] == order
    await page.keyboard.press("n")
    await expect(rows(page).first).to_have_attribute("data-key", newer)
    await expect(rows(page)).to_have_count(3)


async def test_hostile_texts_are_shown_as_text(console: Console, service: Service, backend: BackendServer) -> None:
    backend.answer = status(400, {"error": HOSTILE})
    await service.admin.register(backend, "b")
    evil = service.client(HOSTILE[:40])
    task_id = await evil.submit({"payload": HOSTILE})
    await evil.reaches(task_id, "FAILED")
    dialogs: list[Dialog] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog)

    page = await console.open(service, "/tasks?status=FAILED")
    page.on("dialog", note)
    await expect(rows(page)).to_contain_text("<script>alert(2)</script>")
    await rows(page).first.locator("td.wide").click()
    peek = page.get_by_role("complementary")
    await expect(peek).to_contain_text("<script>alert(2)</script>")
    await page.get_by_role("button", name="by error").click()
    await expect(rows(page)).to_contain_text("<script>")
    await page.keyboard.press("g")
    await page.keyboard.press("o")
    await expect(page.get_by_role("region", name="Top errors")).to_contain_text("<script>")

    assert await page.locator("main img, main script").count() == 0
    assert dialogs == []


async def test_auditors_see_everybodys_tasks_and_no_action(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks?status=FAILED", subject="eve", roles=("auditor",))
    await expect(rows(page)).to_have_count(3)
    await expect(page.get_by_role("checkbox")).to_have_count(0)
    await rows(page).first.locator("td.wide").click()
    peek = page.get_by_role("complementary")
    await expect(peek).to_contain_text("CUDA")

    await expect(page.get_by_role("button", name=re.compile("Retry.*…|Cancel…|Delete…"))).to_have_count(0)


async def test_a_user_sees_nobody_elses_tasks(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks", subject="bob", roles=("user",))

    await expect(page.get_by_text("There are no tasks yet")).to_be_visible()
    await expect(page.get_by_role("button", name="by owner")).to_have_count(0)


async def test_an_empty_list_says_what_removing_each_filter_gives(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks?status=FAILED&type=echo")
    await expect(page.get_by_text("No task matches")).to_be_visible()
    await expect(page.get_by_role("listitem").filter(has_text="Without status FAILED")).to_contain_text("5 tasks")
    await page.get_by_role("button", name="Without type echo").click()

    await expect(rows(page)).to_have_count(3)


async def test_a_refused_filter_says_where_and_why(console: Console, stocked: Service) -> None:
    console.allow("400")
    page = await console.open(stocked, "/tasks?minRun=often")

    await expect(page.get_by_role("alert")).to_contain_text("minRun")


async def test_phones_show_cards(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, "/tasks?status=FAILED")
    await page.set_viewport_size({"width": 390, "height": 800})
    await expect(rows(page)).to_have_count(3)

    assert await page.get_by_role("columnheader").count() == 0
    await expect(rows(page).first).to_contain_text("CUDA out of memory")
    box = await rows(page).first.bounding_box()
    assert box is not None
    assert box["width"] <= 390


async def test_a_hidden_tab_asks_for_nothing(console: Console, stocked: Service) -> None:
    await console.context.clock.install()
    page = await console.open(stocked, "/tasks")
    await expect(rows(page)).to_have_count(15)
    async with page.expect_request(re.compile("/api/tasks")):
        await page.clock.run_for(10_000)  # it polls
    await settled(page)
    await show(page, "hidden")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.run_for(600_000)
    assert asked == []

    async with page.expect_request(re.compile("/api/tasks")):
        await show(page, "visible")


async def show(page: Page, state: str) -> None:
    """Have the page believe that its tab is hidden, or visible again."""
    await page.evaluate(
        "(state) => { Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        state,
    )
