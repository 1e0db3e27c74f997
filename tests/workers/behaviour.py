"""What several tests of the workers need: more behaviours of backends, and a look into the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.definitions import DISPATCH
from testkit.backend import BackendServer, accept
from testkit.service import Client, Service
from testkit.waiting import wait_until


class Reporting:
    """A behaviour: accept (202), and report the end by callback once `at_once` tasks have been open together."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.open = 0
        """Tasks accepted and not yet reported."""
        self.most_open = 0

    async def __call__(self, server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        server.later(self._report(server, task))
        return await accept(server, task, request)

    async def _report(self, server: BackendServer, task: dict[str, Any]) -> None:
        await wait_until(lambda: self.most_open >= self.at_once, f"{self.at_once} open tasks")
        await asyncio.sleep(0.02)
        self.open -= 1
        await server.report(task, "FINISHED", data="reported")


async def submit_all(client: Client, bodies: Iterable[Any]) -> list[str]:
    """Submit many at a time; return their ids in order."""
    return list(await asyncio.gather(*(client.submit(body) for body in bodies)))


async def queued(service: Service) -> int:
    """Return how many messages the queue holds, those in hand included."""
    info = await api(service.container.reading, f"STREAM.INFO.{DISPATCH}")
    return int(info["state"]["messages"])


async def queue_holds(service: Service, count: int) -> None:
    async def look() -> bool:
        return await queued(service) == count

    await wait_until(look, f"the queue to hold {count}")


async def called(backend: BackendServer, count: int) -> None:
    """Wait until a backend has been called so often."""
    await wait_until(lambda: len(backend.calls) >= count, f"{count} calls")


def types(history: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in history]


def errors(history: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return (attempt, kind) of every attempt that failed."""
    return [(event["attempt"], event["kind"]) for event in history if event["type"] in ("AttemptFailed", "TaskFailed")]


def request(task: dict[str, Any]) -> Any:
    return task["request"]
