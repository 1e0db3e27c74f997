"""Clients that submit through crashes and record what was acknowledged."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web

from testkit.backend import Answerer, BackendServer, finished, reporting

from .service import Client

AT_ONCE = 16
PAUSE_SECONDS = 0.05


class Load:
    """Submits numbered tasks, each with an Idempotency-Key, again and again until it is acknowledged."""

    def __init__(self, client: Client, count: int) -> None:
        self.client = client
        self.count = count
        self.acknowledged: dict[int, str] = {}
        """Task ids by number."""
        self.refused: list[tuple[int, dict[str, str]]] = []
        """Answers other than 200: status and headers."""
        self.lost = 0
        """Number of requests without an answer."""

    async def run(self) -> None:
        """Return when all are acknowledged."""
        numbers = iter(range(self.count))

        async def submit_all() -> None:
            for number in numbers:
                await self._submit(number)

        await asyncio.gather(*(submit_all() for _ in range(AT_ONCE)))

    async def _submit(self, number: int) -> None:
        while number not in self.acknowledged:
            try:
                answer = await self.again(number)
            except (aiohttp.ClientError, TimeoutError):
                self.lost += 1
            else:
                if answer.status == 200:
                    self.acknowledged[number] = answer["taskId"]
                    return
                self.refused.append((answer.status, dict(answer.headers)))
            await asyncio.sleep(PAUSE_SECONDS)

    async def again(self, number: int) -> Any:
        """Submit a task, or once more: the same body under the same key."""
        body = {"type": "default", "payload": {"number": number}}
        return await self.client.post("/api/task", body, headers={"Idempotency-Key": f"load-{number}"})


def work(seconds: float = 0.02) -> Answerer:
    """Return a behaviour of backends: answer with the task's number, by default after 20 ms."""

    async def answer(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return web.json_response(finished(task, {"number": task["request"]["number"]}))

    return answer


async def _report_number(server: BackendServer, task: dict[str, Any]) -> None:
    await asyncio.sleep(PAUSE_SECONDS)
    await server.report_until_taken(task, "FINISHED", {"number": task["request"]["number"]})


report_later = reporting(_report_number)
"""A behaviour of backends: accept, and report the task's number until the service takes it."""
