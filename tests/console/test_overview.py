"""The overview: what needs a person, numbers that are the lengths of lists, and what users see of it."""

from __future__ import annotations

import re

from playwright.async_api import Locator, Page, Route, expect

from testkit.service import Service

from .conftest import Console, check_accessible

TILES = {"waiting": 6, "held": 4, "running": 0, "done 1 h": 5, "failed 1 h": 3}


def tile(page: Page, label: str) -> Locator:
    return page.locator(".tiles").get_by_role("link", name=re.compile(f"^{label}"))


async def test_each_number_is_the_length_of_the_list_it_links_to(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    for label, count in TILES.items():
        shown = tile(page, label)
        await expect(shown.locator(".tile-number")).to_have_text(str(count))
        await shown.click()
        await expect(page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
        if count:
            await expect(page.locator("table.data tbody tr")).to_have_count(count)
        else:
            await expect(page.get_by_text("No task matches")).to_be_visible()
        await page.go_back()
    await expect(tile(page, "dead letters").locator(".tile-number")).to_have_text("3")


async def test_what_needs_a_person_comes_first_and_is_quiet_when_all_is_well(
    console: Console, stocked: Service
) -> None:
    page = await console.open(stocked)
    await expect(page.locator("main .alarm").first).to_contain_text("nowhere")
    await page.keyboard.press("a")
    await expect(page.locator("#attention")).to_be_focused()
    await page.keyboard.press("g")
    await page.keyboard.press("t")
    await expect(page.locator(".alarm-strip")).to_contain_text("nowhere")

    async def all_is_well(route: Route) -> None:
        await route.fulfill(json={"alarms": [], "more": {}, "readAt": "2026-01-01T00:00:00Z"})

    async def missing(route: Route) -> None:
        await route.fulfill(status=404, json={"title": "Not Found", "detail": "no such path", "status": 404})

    console.allow("404")
    await page.route("**/api/live**", missing)
    await page.route("**/api/alarms", all_is_well)
    await page.reload()
    await page.get_by_role("link", name="Overview").click()
    await expect(page.get_by_text("Nothing needs attention.")).to_be_visible()
    await expect(page.locator(".alarm-strip")).to_have_count(0)


async def chart_is_drawn(page: Page, title: str) -> None:
    await expect(page.get_by_role("figure", name=title).locator("canvas")).to_be_visible()


async def test_charts_are_drawn_and_are_tables_with_one_key(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    await chart_is_drawn(page, "Ended per minute")
    await expect(
        page.get_by_role("img", name="Ended per minute: 5 tasks finished and 3 failed in the range")
    ).to_be_visible()
    await page.keyboard.press("v")
    table = page.get_by_role("region", name="Ended per minute")
    await expect(table.get_by_role("columnheader", name="failed")).to_be_visible()
    await check_accessible(page)
    await page.keyboard.press("v")
    await chart_is_drawn(page, "Ended per minute")

    await page.keyboard.press("t")
    await expect(page).to_have_url(re.compile(r"#/\?range=24h$"))
    await expect(tile(page, "failed 24 h")).to_contain_text("3")
    await page.get_by_role("button", name="1 h", exact=True).click()
    await expect(page).to_have_url(re.compile(r"#/$"))


async def test_a_drag_on_a_chart_sets_the_range_of_the_page(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    place = page.get_by_role("figure", name="Ended per minute").locator(".u-over")
    await expect(place).to_be_visible()
    box = await place.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 20, steps=4)
    await page.mouse.up()

    await expect(page).to_have_url(re.compile(r"#/\?from=.*&to="))
    await expect(tile(page, "failed in range")).to_contain_text("0")


async def test_an_error_and_a_pool_lead_to_their_tasks(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    await page.get_by_role("region", name="Top errors").get_by_role("link", name="CUDA").click()
    await expect(page.locator("table.data tbody tr")).to_have_count(3)
    await page.go_back()
    await page.get_by_role("region", name="Pools").get_by_role("link", name="nowhere").click()
    await expect(page.locator("table.data tbody tr")).to_have_count(2)


async def test_what_changed_in_the_range_is_listed_with_who_did_it(console: Console, stocked: Service) -> None:
    page = await console.open(stocked)
    changes = page.get_by_role("region", name="Changes")
    await expect(changes.get_by_role("row").filter(has_text="server registered")).to_contain_text("root")
    await changes.get_by_role("link", name="gpu-1").first.click()

    await expect(page).to_have_url(re.compile("#/fleet/gpu-1$"))


async def test_users_see_their_own_numbers_and_no_pools(console: Console, stocked: Service) -> None:
    page = await console.open(stocked, subject="alice", roles=("user",))
    await expect(tile(page, "waiting")).to_contain_text("6")

    await expect(page.get_by_role("region", name="Pools")).to_have_count(0)


async def test_an_empty_service_shows_the_three_first_steps(console: Console, api: Service) -> None:
    page = await console.open(api)

    await expect(page.get_by_role("region", name="First steps")).to_contain_text(f"{api.url}/api/servers")
    await check_accessible(page)


async def test_the_overview_asks_few_things(console: Console, stocked: Service) -> None:
    asked: set[str] = set()
    console.context.on("request", lambda request: asked.add(request.url.removeprefix(stocked.url).split("?")[0]))
    page = await console.open(stocked)
    await expect(tile(page, "dead letters")).to_contain_text("3")
    await chart_is_drawn(page, "Ended per minute")
    await expect(page.get_by_role("region", name="Changes").get_by_role("row").first).to_be_visible()
    while "/api/live" not in asked:
        await page.context.wait_for_event("request")

    assert sorted(path for path in asked if not path.startswith("/console")) == [
        "/api/alarms",
        "/api/dead-letters/groups",
        "/api/live",
        "/api/log",
        "/api/me",
        "/api/pools",
        "/api/stats",
        "/api/tasks/count",
        "/health/ready",
    ]
