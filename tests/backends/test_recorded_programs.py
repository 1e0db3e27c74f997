"""The registrations in docs/servers.md for the dialect `bare`, against answers recorded from the real programs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web
from msgspec import Raw

from taskstream.api.schemas.servers import Endpoints, RegisterBody
from taskstream.backends.client import BackendClient
from taskstream.backends.dialects import DIALECTS
from taskstream.backends.dialects.dialect import Answer, Busy, Call, Completed, Failed, FailedByBackend, Update
from taskstream.backends.egress import EgressPolicy
from taskstream.backends.exchange_form import stored_exchange
from taskstream.backends.presets import expanded, presets
from taskstream.events.server import ServerRegistered
from testkit.http_server import HttpServer

from .recorded_answers import RECORDED

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
TEXT = {"text": "hello world"}


class Replay(HttpServer):
    """Answers as a program did: to each method and path the recorded answers in their order, the last one again."""

    def __init__(self, recording: str) -> None:
        super().__init__()
        self.exchanges = json.loads((RECORDED / f"{recording}.json").read_text())["exchanges"]
        self.taken: list[dict[str, Any]] = []
        self.bodies: list[Any] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json() if request.can_read_body else None)
        asked = (request.method, request.path_qs)
        found = [each for each in self.exchanges if (each["request"]["method"], each["request"]["path"]) == asked]
        assert found, asked
        exchange = next((each for each in found if each not in self.taken), found[-1])
        self.taken.append(exchange)
        kept = {name: value for name, value in exchange["headers"].items() if name in ("content-type", "retry-after")}
        response = web.StreamResponse(status=exchange["status"], headers=kept)
        await response.prepare(request)
        for part in exchange.get("parts") or [exchange.get("body") or ""]:
            await response.write(part.encode())
        if exchange.get("broken") and request.transport is not None:
            request.transport.abort()
        return response


def registered(server_id: str, url: str, path: str = "") -> ServerRegistered:
    """Return the registration of the page with this id, for a server at a URL."""
    (block,) = re.findall(rf'```json\n(\{{\n  "id": "{server_id}",.*?\n\}})\n```', PAGE, re.DOTALL)
    given = json.loads(block)
    if "preset" in given:
        given = expanded(given, presets()[given["preset"]])
    body = msgspec.convert(given, RegisterBody)
    assert isinstance(body.endpoints, Endpoints)
    return ServerRegistered(
        server_id=body.id,
        name=body.name,
        provider=body.provider,
        predict_url=url + (path or urlsplit(body.endpoints.predict).path),
        busy_status=None if body.busy_status is None else tuple(body.busy_status),
        dialect=body.dialect or "",
        exchange=stored_exchange(body.exchange, "authorization") if body.exchange else None,
    )


async def replayed(recording: str, server_id: str, payload: Any, path: str = "") -> tuple[Answer, list[Update], Replay]:
    """Return what comes of a call to a program that answers as recorded, its progress, and the program."""
    updates: list[Update] = []

    async def on_update(update: Update) -> None:
        updates.append(update)

    call = Call(
        task_id="0" * 26 + "~alice",
        task_type="t",
        attempt=1,
        payload=Raw(json.dumps(payload).encode()),
        deadline=datetime.now(UTC) + timedelta(seconds=60),
        callback_url="",
        callback_token="",
    )
    async with Replay(recording) as program, EgressPolicy(allow_private=True).session() as session:
        server = registered(server_id, program.base_url, path)
        client = BackendClient(session, 1_000_000, health_timeout_seconds=1)
        return await client.call(DIALECTS[server.dialect], server, call, on_update), updates, program


SUCCESSES: list[tuple[str, str, str, Any, Any]] = [
    ("fastapi/quick", "fastapi-1", "", TEXT, {"shouted": "HELLO WORLD"}),
    ("fastapi/text", "fastapi-1", "/text", TEXT, "HELLO WORLD"),
    ("fastapi/stream", "fastapi-stream", "", TEXT, {"shouted": "HELLO WORLD"}),
    ("litserve/quick", "litserve-1", "", TEXT, {"shouted": "HELLO WORLD"}),
    ("bentoml/quick", "fastapi-1", "", TEXT, {"shouted": "HELLO WORLD"}),
    ("bentoml-task/task", "bentoml-1", "", TEXT, {"shouted": "HELLO WORLD"}),
    ("gradio/quick", "gradio-1", "", ["hello world", "quick"], ["HELLO WORLD"]),
    ("gradio/stream", "gradio-1", "/gradio_api/call/stream", ["hello world", "quick"], ["HELLO WORLD "]),
    ("kserve/v1", "kserve-v1", "", {"instances": [TEXT]}, [{"shouted": "HELLO WORLD"}]),
]


@pytest.mark.parametrize(("recording", "server_id", "path", "payload", "result"), SUCCESSES)
async def test_a_program_s_answer_is_the_result(
    recording: str, server_id: str, path: str, payload: Any, result: Any
) -> None:
    answer, _, program = await replayed(recording, server_id, payload, path)

    assert isinstance(answer, Completed), answer
    assert json.loads(answer.result)["data"] == result
    recorded = next(each["request"]["body"] for each in program.exchanges if each["request"]["method"] == "POST")
    assert program.bodies[0] == recorded  # what was sent is what the program was asked when it was recorded


async def test_a_streamed_answer_is_output_with_progress() -> None:
    _, updates, _ = await replayed("fastapi/stream", "fastapi-stream", TEXT)

    assert [(update.output, update.progress) for update in updates] == [("HELLO ", 50), ("WORLD ", 100)]


FAILURES: list[tuple[str, str, str, Any, str, str]] = [
    ("fastapi/wrong-input", "fastapi-1", "", {"text": 5}, "rejected", "body.text: Input should be a valid string"),
    ("fastapi/failed", "fastapi-1", "", TEXT, "error", "500"),
    ("fastapi/stream-failed", "fastapi-stream", "", TEXT, "unreachable", "broke off"),
    ("litserve/wrong-input", "litserve-1", "", {"text": 5}, "rejected", "`text` must be text"),
    ("litserve/failed", "litserve-1", "", TEXT, "error", "Internal server error"),
    ("bentoml-task/task-wrong-input", "bentoml-1", "", {"text": 5}, "rejected", "text: Input should be a valid string"),
    ("bentoml-task/task-failed", "bentoml-1", "", TEXT, "error", "An unexpected error has occurred"),
    ("gradio/failed", "gradio-1", "", ["hello world", "fail"], "", "the model broke on its second word"),
    ("gradio/stream-failed", "gradio-1", "/gradio_api/call/stream", ["a", "fail"], "", "the model broke"),
    ("kserve/v1-wrong-input", "kserve-v1", "", {"instances": [{"text": 5}]}, "rejected", "`text` must be text"),
    ("kserve/v1-failed", "kserve-v1", "", {"instances": [TEXT]}, "error", "the model broke on its second word"),
]
"""Without a kind: the task has failed."""


@pytest.mark.parametrize(("recording", "server_id", "path", "payload", "kind", "words"), FAILURES)
async def test_a_program_s_failure_has_its_reason(
    recording: str, server_id: str, path: str, payload: Any, kind: str, words: str
) -> None:
    answer, _, _ = await replayed(recording, server_id, payload, path)

    assert isinstance(answer, Failed | FailedByBackend)
    assert words in answer.error
    assert getattr(answer, "kind", "") == kind


async def test_a_program_that_is_full_is_busy() -> None:
    fastapi, _, _ = await replayed("fastapi/busy", "fastapi-1", TEXT)
    bentoml, _, _ = await replayed("bentoml/busy", "fastapi-1", TEXT)

    assert isinstance(fastapi, Busy)
    assert fastapi.retry_after == timedelta(seconds=1)
    assert isinstance(bentoml, Busy)
