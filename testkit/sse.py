"""Reads server-sent events as a browser does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp

from testkit.service import Client


class Sent(NamedTuple):
    """One event of a stream."""

    id: str
    """Empty where it has none."""
    data: dict[str, Any]

    @property
    def sequence(self) -> int:
        """Place in the log that it comes after or is at."""
        return int(self.id.partition(";")[0])

    @property
    def type(self) -> str:
        return str(self.data["type"])


class EventStream:
    """An open stream: iterate over its events; comments are passed over, and counted."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments = 0
        self.last_id = ""
        """As a browser would send it when it connects again."""

    async def __aiter__(self) -> AsyncIterator[Sent]:
        fields: dict[str, str] = {}
        with contextlib.suppress(aiohttp.ClientError):
            async for line in self.response.content:
                text = line.decode().rstrip("\n")
                if text.startswith(":"):
                    self.comments += 1
                elif text:
                    name, _, value = text.partition(": ")
                    fields[name] = value
                else:
                    self.last_id = fields.get("id", self.last_id)
                    if "data" in fields:
                        yield Sent(fields.get("id", ""), json.loads(fields["data"]))
                    fields = {}


@contextlib.asynccontextmanager
async def opened(client: Client, path: str, last: int | str | None = None) -> AsyncIterator[EventStream]:
    """Open a stream, from the last event received on."""
    headers = {"Accept": "text/event-stream"}
    if client.bearer:
        headers["Authorization"] = f"Bearer {client.bearer}"
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
    async with client.session.get(client.url + path, headers=headers, timeout=timeout) as response:
        yield EventStream(response)


async def received(stream: EventStream, count: int) -> list[Sent]:
    """Return the next events of a stream, fewer if it ends before."""
    found: list[Sent] = []
    if count:
        async for sent in stream:
            found.append(sent)
            if len(found) == count:
                break
    return found
