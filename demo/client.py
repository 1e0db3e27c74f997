"""The demo's only way to the service: its HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from .processes import DemoFailed

AT_ONCE = 16
PAGE = 200


class Answer(NamedTuple):
    status: int
    body: Any


class ServiceClient:
    """Speaks to the service with one token."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url
        self._token = token

    async def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        sent = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        async with self._session.request(method, self._url + path, json=body, headers=sent) as response:
            is_json = "json" in response.headers.get("Content-Type", "")
            return Answer(response.status, await (response.json(content_type=None) if is_json else response.text()))

    async def done(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Make a request that must be answered with 200; return the body. Raises DemoFailed."""
        answer = await self.call(method, path, body, headers)
        if answer.status != 200:
            raise DemoFailed(f"{method} {path} was answered {answer.status}: {answer.body}")
        return answer.body

    async def tasks(self) -> list[dict[str, Any]]:
        """Return every task, page by page."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = await self.done("GET", f"/api/tasks?limit={PAGE}{cursor}")
            found += page["tasks"]
            if page["nextCursor"] is None:
                return found
            cursor = f"&cursor={page['nextCursor']}"

    async def servers(self) -> dict[str, dict[str, Any]]:
        """Return every server by its id."""
        return {server["id"]: server for server in (await self.done("GET", "/api/servers"))["servers"]}

    async def history(self, task_id: str) -> list[dict[str, Any]]:
        """Return a task's events as recorded, oldest first."""
        events: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = await self.done("GET", f"/api/task/{task_id}/events?limit=1000&after={after}")
            events += page["events"]
            after = page["nextAfter"]
        return events

    async def histories(self, task_ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the histories of many tasks, by id."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def read(task_id: str) -> tuple[str, list[dict[str, Any]]]:
            async with gate:
                return task_id, await self.history(task_id)

        return dict(await asyncio.gather(*map(read, task_ids)))

    async def counters(self) -> dict[str, float]:
        """Return the sums of the counters in /metrics, by name."""
        text = await self.done("GET", "/metrics")
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    sums[sample.name] = sums.get(sample.name, 0) + sample.value
        return sums
