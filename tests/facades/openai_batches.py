"""A client of OpenAI's files and batches, for tests."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from testkit.service import Answer, Client
from testkit.vllm import VllmServer
from testkit.waiting import wait_until

CHAT = "/v1/chat/completions"
OVER = {"completed", "failed", "expired", "cancelled"}


def chat_line(custom_id: str, text: str = "tell", model: str = "llama", **more: Any) -> dict[str, Any]:
    """Return a line that asks a model to complete a chat."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | more


def json_lines(lines: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def register(client: Client, vllm: VllmServer, server_id: str = "v1", **more: Any) -> None:
    """Register a server of the dialect `openai`, by an admin."""
    body = {
        "id": server_id,
        "name": server_id,
        "provider": "vllm",
        "dialect": "openai",
        "endpoints": {"predict": f"{vllm.base_url}/v1"},
        "models": vllm.models,
        **more,
    }
    await client.done("POST", "/api/servers", body)
    await client.server_is(server_id, "online")
    for model in vllm.models:
        await client.until("/openai/v1/models", lambda page, name=model: name in ids(page), f"the model {model}")


def ids(page: Mapping[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["data"]]


class BatchClient:
    """Speaks OpenAI's files and batches as a user of a service."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def upload(self, content: bytes, purpose: str = "batch", name: str = "in.jsonl", **fields: str) -> Answer:
        """Upload a file in a form."""
        form = aiohttp.FormData()
        for field, value in ({"purpose": purpose} | fields).items():
            if value:
                form.add_field(field, value)
        form.add_field("file", io.BytesIO(content), filename=name, content_type="application/octet-stream")
        headers = {"Authorization": f"Bearer {self.client.bearer}"}
        async with self.client.session.post(
            f"{self.client.url}/openai/v1/files", data=form, headers=headers
        ) as response:
            return Answer(response.status, response.headers, await response.json())

    async def input(self, lines: Iterable[Any]) -> str:
        """Upload the input of a batch; return the file's id."""
        answer = await self.upload(json_lines(lines))
        assert answer.status == 200, answer
        return str(answer["id"])

    async def create(self, file_id: str, window: str = "24h", **more: Any) -> Any:
        """Create a batch of chats; return it."""
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": window, **more}
        return await self.client.done("POST", "/openai/v1/batches", body)

    async def begun(self, lines: Iterable[Any], window: str = "24h", **more: Any) -> str:
        """Upload lines and create a batch of them; return its id."""
        return str((await self.create(await self.input(lines), window, **more))["id"])

    async def read(self, batch_id: str) -> Any:
        return await self.client.done("GET", f"/openai/v1/batches/{batch_id}")

    async def reaches(self, batch_id: str, *statuses: str) -> Any:
        """Wait until a batch has one of these statuses; return it."""

        async def look() -> Any:
            batch = await self.read(batch_id)
            return batch if batch["status"] in statuses else None

        return await wait_until(look, f"a batch that is {' or '.join(statuses)}")

    async def ended(self, batch_id: str) -> Any:
        """Wait until a batch is over; return it."""
        return await self.reaches(batch_id, *OVER)

    async def content(self, file_id: str | None) -> list[Any]:
        """Return the lines of a file; none without a file."""
        if file_id is None:
            return []
        headers = {"Authorization": f"Bearer {self.client.bearer}"}
        url = f"{self.client.url}/openai/v1/files/{file_id}/content"
        async with self.client.session.get(url, headers=headers) as response:
            text = await response.text()
        assert response.status == 200
        assert text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    async def results(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the responses and the errors of a batch by custom_id, of which each comes once."""
        found = []
        for name in ("output_file_id", "error_file_id"):
            lines = await self.content(batch[name])
            by_id = {line["custom_id"]: line for line in lines}
            assert len(by_id) == len(lines)
            found.append(by_id)
        assert not found[0].keys() & found[1].keys()
        return found[0], found[1]
