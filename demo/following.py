"""Follows a task by server-sent events, through every break: what comes after the last event received comes next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

AGAIN_SECONDS = 0.3
FINAL = frozenset({"TaskSucceeded", "TaskFailed", "TaskCancelled"})


class Follower:
    def __init__(self, session: aiohttp.ClientSession, url: str, token: str, task_id: str) -> None:
        self._session = session
        self._url = f"{url}/api/task/{task_id}/stream"
        self._token = token
        self._last = "0"
        """Id of the last event received; 0 is the beginning."""
        self.breaks = 0
        """How often the connection was lost."""

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each event of the task as the log has it, once, up to the one that ends it."""
        while True:
            try:
                async for event in self._events():
                    yield event
                    if event["type"] in FINAL:
                        return
            except aiohttp.ClientError:
                pass
            self.breaks += 1
            await asyncio.sleep(AGAIN_SECONDS)

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what one connection brings."""
        headers = {"Authorization": f"Bearer {self._token}", "Last-Event-ID": self._last}
        async with self._session.get(
            self._url, headers=headers, timeout=aiohttp.ClientTimeout(total=None), raise_for_status=True
        ) as answer:
            new, data = "", ""
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                match name:
                    case "id":
                        new = value
                    case "data":
                        data = value
                    case "":  # an event is complete: only now it has been received
                        self._last = new or self._last
                        if data:
                            told = json.loads(data)
                            if told["type"] != "state":
                                yield told["event"]
                        new, data = "", ""
