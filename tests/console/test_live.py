"""Live updates: one stream for a visible tab, few renders however much happens, and no gap after a break."""

from __future__ import annotations

import json
from typing import Any

from playwright.async_api import Page, Route, expect

from testkit.service import Service
from testkit.waiting import wait_until

from .conftest import Console, settled
from .test_tasks import rows, show

ROUNDS = 20
"""Frames of a feed at a thousand rows a second: what five seconds bring, at four frames a second."""
ROWS_OF_A_FRAME = 200
TOPICS = 2
"""Of the overview, and of the list of tasks. Each takes a place among the open streams."""
MOST_RENDERS = 3 * ROUNDS


def frame(**message: Any) -> str:
    return f"data: {json.dumps(message)}\n\n"


async def test_rows_and_numbers_change_as_it_happens_without_a_poll(console: Console, api: Service) -> None:
    console.allow("Failed to load resource")
    task_id = await api.alice.submit({"payload": 1})
    page = await console.open(api, "/tasks")
    await expect(rows(page)).to_have_count(1)
    streams = api.container.open_streams
    await wait_until(lambda: len(streams) == TOPICS, "the stream with the topics of the page")
    await expect(page.locator(".live")).to_contain_text("live")
    held: list[Route] = []

    async def hold(route: Route) -> None:
        held.append(route)

    await page.route("**/api/tasks?**", hold)  # no poll is answered from here on
    await api.alice.done("POST", f"/api/task/{task_id}/cancel")
    await expect(rows(page).first).to_contain_text("cancelled")
    await api.alice.submit({"payload": 2})

    await expect(page.get_by_role("button", name="1 new")).to_be_visible()
    for route in held:
        await route.abort()


async def test_a_tab_has_one_stream_for_all_its_parts_and_a_hidden_one_none(console: Console, stocked: Service) -> None:
    opened: list[str] = []
    console.context.on("request", lambda request: opened.append(request.url) if "/api/live" in request.url else None)
    await console.context.clock.install()
    page = await console.open(stocked)
    await page.clock.run_for(1_000)
    await expect(page.locator(".live")).to_contain_text("live")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await page.clock.run_for(1_000)
    streams = stocked.container.open_streams
    await wait_until(lambda: len(streams) == TOPICS, "one stream with the topics of the page")
    assert opened[-1].endswith("/api/live?topic=alarms&topic=stats")

    await show(page, "hidden")
    await page.clock.run_for(30_000)
    await wait_until(lambda: len(streams) == 0, "the stream to be given up")
    await show(page, "visible")
    await expect(page.locator(".live")).to_contain_text("live")


async def test_a_hidden_tab_leaves_its_stream_to_the_one_that_is_looked_at(console: Console, stocked: Service) -> None:
    """A browser has six connections for a host: without this, the seventh tab would load nothing."""
    streams = stocked.container.open_streams
    before = await console.open(stocked)
    await expect(before.locator(".live")).to_contain_text("live")
    for _ in range(7):
        await show(before, "hidden")
        page = await console.open(stocked)
        await expect(page.locator(".live")).to_contain_text("live")
        before = page

    await wait_until(lambda: len(streams) == TOPICS, "one stream, of the last tab")


async def test_a_thousand_rows_a_second_render_a_few_times_and_keep_the_page_bounded(
    console: Console, stocked: Service
) -> None:
    """Renders are counted, as their time says how busy the machine is."""
    task = (await stocked.alice.tasks())[0]
    page = await console.open(stocked, "/tasks?status=FAILED")
    await settled(page)
    await expect(rows(page)).to_have_count(3)
    topic = "tasks:status=FAILED"
    feed = "".join(
        frame(
            topic=topic,
            type="tasks",
            rows=[{**task, "id": f"{number:026d}~{turn}", "status": "FAILED"} for number in range(ROWS_OF_A_FRAME)],
            left=[],
            more=0,
        )
        for turn in range(ROUNDS)
    )

    async def flood(route: Route) -> None:
        await route.fulfill(content_type="text/event-stream", body=frame(type="open") + feed)

    await page.route("**/api/live**", flood)
    await page.evaluate(
        "() => { window.renders = 0; new MutationObserver(() => { window.renders += 1; })"
        ".observe(document.querySelector('#main'), { subtree: true, childList: true, characterData: true }); }"
    )
    await page.keyboard.press(".")
    await page.keyboard.press(".")  # the stream is opened anew, and is the flood

    await expect(page.get_by_role("button", name="1000+ new")).to_be_visible()
    assert await page.evaluate("() => window.renders") <= MOST_RENDERS
    await expect(rows(page)).to_have_count(3)


async def test_a_service_without_live_topics_is_polled(console: Console, api: Service) -> None:
    console.allow("404")

    async def missing(route: Route) -> None:
        await route.fulfill(status=404, json={"title": "Not Found", "detail": "no such path", "status": 404})

    await console.context.route("**/api/live**", missing)
    page: Page = await console.open(api, "/tasks")
    await expect(page.get_by_text("There are no tasks yet")).to_be_visible()
    await expect(page.locator(".live")).to_contain_text("polling")
    await api.alice.submit({"payload": 1})

    await expect(page.get_by_role("button", name="1 new")).to_be_visible()
