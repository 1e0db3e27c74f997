"""Calls of OpenAI's API, as tests make them: streamed ones are read event by event."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import aiohttp

from testkit.service import Client, ServiceClients
from testkit.vllm import VllmServer

CHAT = "/openai/v1/chat/completions"
RESPONSES = "/openai/v1/responses"


async def register(service: ServiceClients, server: VllmServer, server_id: str = "v1", **more: Any) -> None:
    """Register a server of type `chat`, which finds its models, and wait until it is online and has told them."""
    await register_at(service, server.base_url, server_id, server.models, **more)


async def register_at(
    service: ServiceClients, base_url: str, server_id: str, models: Sequence[str], **more: Any
) -> None:
    """Do the same for a server at an address."""
    endpoints = {"predict": f"{base_url}/v1"}
    named = {"id": server_id, "name": server_id, "provider": "vllm", "dialect": "openai", "types": ["chat"]}
    await service.admin.done("POST", "/api/servers", {**named, "endpoints": endpoints, "models": "discover", **more})
    await service.admin.server_is(server_id, "online")
    await service.admin.until(
        f"/api/servers/{server_id}", lambda found: found["servedModels"] == sorted(models), "its models"
    )


def chat(text: str = "tell", **more: Any) -> dict[str, Any]:
    return {"model": "llama", "messages": [{"role": "user", "content": text}], **more}


class StreamedEvent(NamedTuple):
    name: str
    data: bytes

    @property
    def fields(self) -> Any:
        return json.loads(self.data)

    @property
    def number(self) -> int:
        return int(self.fields["sequence_number"])


class EventReader:
    """The events of a streamed answer."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.content = b""
        """Everything that came, without comments."""

    async def next(self) -> StreamedEvent | None:
        """Return the next event; None after the last."""
        name, data = "", b""
        async for line in self.response.content:
            if line.startswith(b":"):
                continue
            self.content += line
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                data = line[6:].rstrip(b"\n")
            elif data:
                return StreamedEvent(name, data)
        return None

    async def rest(self) -> list[StreamedEvent]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@contextlib.asynccontextmanager
async def streamed(client: Client, method: str, path: str, body: Any = None) -> AsyncIterator[EventReader]:
    """Make a call that is answered with a stream."""
    headers = {"Authorization": f"Bearer {client.bearer}"}
    async with client.session.request(method, client.url + path, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield EventReader(response)
