"""A client of server-sent events that behaves like a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp

from testkit.service import Client

RESUME_PAUSE_SECONDS = 0.3


def sequence_of(event_id: str) -> int:
    """Return the sequence in an id, which clients keep as it is: `<epoch>-<sequence>;…`."""
    return int(event_id.partition(";")[0].rpartition("-")[2])


class Sent(NamedTuple):
    """One event of a stream."""

    id: str
    """Empty where it has none."""
    data: dict[str, Any]

    @property
    def sequence(self) -> int:
        """Position in the log."""
        return sequence_of(self.id)

    @property
    def type(self) -> str:
        return str(self.data["type"])


class EventStream:
    """An open stream: iterate over its events. Comments are counted, not yielded.

    `with_reached`: messages that only move the position are yielded too.
    """

    def __init__(self, response: aiohttp.ClientResponse, *, with_reached: bool = False) -> None:
        self.response = response
        self._with_reached = with_reached
        self.comments = 0
        self.last_id = ""
        """What a browser sends as `Last-Event-ID` when it reconnects."""

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
                    assert "data" in fields, f"a block without data: {fields}"
                    sent = Sent(fields.get("id", ""), json.loads(fields["data"]))
                    if self._with_reached or sent.type != "reached":
                        yield sent
                    fields = {}


@contextlib.asynccontextmanager
async def opened(
    client: Client, path: str, last: int | str | None = None, *, with_reached: bool = False
) -> AsyncIterator[EventStream]:
    """Open a stream, from the last event received on."""
    headers = {"Accept": "text/event-stream"}
    if client.bearer:
        headers["Authorization"] = f"Bearer {client.bearer}"
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
    async with client.session.get(client.url + path, headers=headers, timeout=timeout) as response:
        yield EventStream(response, with_reached=with_reached)


class ResumedStream:
    """A stream over all breaks of its connection: each new one resumes after the last event received."""

    def __init__(self, client: Client, path: str, last: int | str | None = None) -> None:
        self.breaks = 0
        """How often the connection was lost."""
        self._client = client
        self._path = path
        self._last = last

    async def __aiter__(self) -> AsyncIterator[Sent]:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with opened(self._client, self._path, self._last) as stream:
                    stream.response.raise_for_status()
                    async for sent in stream:
                        self._last = stream.last_id or self._last
                        yield sent
                    self._last = stream.last_id or self._last
            self.breaks += 1
            await asyncio.sleep(RESUME_PAUSE_SECONDS)


async def received(stream: EventStream, count: int) -> list[Sent]:
    """Return the next events of a stream, fewer if it ends before."""
    found: list[Sent] = []
    if count:
        async for sent in stream:
            found.append(sent)
            if len(found) == count:
                break
    return found
