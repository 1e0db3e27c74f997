"""Push in a real browser, from another origin: the events that a page receives, also when its API is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlencode

from testkit.browser import Page, chromium
from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of
from testkit.service import ServiceClients

PAGE = Path(__file__).with_name("page.html").read_text()
RESTARTS = 2
TASKS = 10
"""Each time."""


async def submit_and_cancel(service: ServiceClients) -> list[str]:
    """Have two events happen to each of a few tasks; return the tasks."""
    ids = await asyncio.gather(*(service.alice.submit({"payload": number}) for number in range(TASKS)))
    for task_id in ids:
        assert (await service.alice.post(f"/api/task/{task_id}/cancel")).status == 200
    return list(ids)


def told(shown: Page, name: str) -> list[tuple[int, str, str]]:
    return [(note["sequence"], note["type"], note["taskId"]) for note in shown.noted(door=name, what="event")]


async def test_a_page_misses_nothing_and_is_told_nothing_twice_while_its_api_is_killed(
    processes: Processes, nats: NatsServer, tmp_path: Path
) -> None:
    async with Page(PAGE) as shown:
        steady = processes.start("api", "--port", "0", "--nats-url", nats.url)
        followed = processes.start("api", "--port", "0", "--nats-url", nats.url, CORS_ORIGINS=shown.url)
        url = (await followed.logged("ready"))["url"]
        async with clients_of((await steady.logged("ready"))["url"]) as service:
            token = (await service.alice.post("/api/stream-tokens"))["token"]
            with chromium(tmp_path, f"{shown.url}/#{urlencode({'api': url, 'token': token})}"):
                for name in ("sse", "ws"):
                    await shown.notes_that(1, door=name, what="open")
                    await shown.notes_that(1, door=name, what="reached")  # without an id it would begin with the states
                ids: list[str] = []
                for restart in range(1, RESTARTS + 1):
                    if restart > 1:  # the first time both break off before they have been told anything
                        ids += await submit_and_cancel(service)
                    followed.kill()
                    ids += await submit_and_cancel(service)
                    followed = processes.start(
                        *("api", "--port", url.rpartition(":")[2], "--nats-url", nats.url), CORS_ORIGINS=shown.url
                    )
                    for name in ("sse", "ws"):
                        await shown.notes_that(restart + 1, door=name, what="open")
                ids += await submit_and_cancel(service)
                for name in ("sse", "ws"):
                    await shown.notes_that(2 * len(ids), door=name, what="event")
            expected = []
            for task_id in ids:
                entries = (await service.alice.get(f"/api/task/{task_id}/events"))["events"]
                expected += [(entry["sequence"], entry["event"]["type"], task_id) for entry in entries]

    assert told(shown, "sse") == sorted(expected)
    assert told(shown, "ws") == sorted(expected)
    assert shown.noted(door="sse", what="error", state=2) == [], "EventSource gave up"


async def test_a_page_of_an_origin_that_is_not_allowed_is_told_nothing(
    processes: Processes, nats: NatsServer, tmp_path: Path
) -> None:
    async with Page(PAGE) as shown:
        api = processes.start("api", "--port", "0", "--nats-url", nats.url, CORS_ORIGINS="http://elsewhere.example")
        url = (await api.logged("ready"))["url"]
        async with clients_of(url) as service:
            await service.alice.submit({"payload": 1})
            token = (await service.alice.post("/api/stream-tokens"))["token"]
            with chromium(tmp_path, f"{shown.url}/#{urlencode({'api': url, 'token': token})}"):
                await shown.notes_that(1, door="sse", what="error", state=2)

    assert shown.noted(door="sse", what="event") == []
