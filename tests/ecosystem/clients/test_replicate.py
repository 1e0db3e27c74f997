"""Replicate's SDKs, unmodified, over a TLS proxy."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from testkit.backend import BackendServer, finished
from testkit.processes import Up
from testkit.receiver import HookReceiver
from testkit.service import ServiceClients, token
from testkit.tls_proxy import TlsProxy
from testkit.waiting import wait_until

from .conftest import HERE, NODE, NODE_FOLDER, PYTHON, ROOT, Program

PYTHON2 = ROOT / ".venv-ecosystem-replicate2" / "bin" / "python"
MODEL, WRITER = "acme/flux", "acme/writer"
PICTURE = b"\x89PNG\r\n"
STORY = ["Once ", "upon\na ", "time"]
LONG_SECONDS = 90
TYPES: dict[str, Any] = {
    "flux": {"model": MODEL, "attempts": 1, "schema": {"type": "object", "properties": {"mode": {"type": "string"}}}},
    "writer": {
        "model": WRITER,
        "schema": {
            "type": "object",
            "x-output": {"type": "array", "items": {"type": "string"}, "x-cog-array-type": "iterator"},
        },
    },
}


async def work(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Do what the input asks for."""
    asked = task["request"]
    match asked.get("mode"):
        case "picture":
            return web.Response(body=PICTURE, content_type="image/png")
        case "fail":
            return web.json_response({"error": "the model said no"}, status=422)
        case "read":
            return web.json_response(finished(task, await content_of(asked["f"])))
        case "hold":
            await server.let_go.wait()
        case "long":
            await asyncio.sleep(LONG_SECONDS)
        case "tell" | "report":
            server.later(tell(task, STORY if asked["mode"] == "tell" else []))
            return web.json_response({"task_id": task["task_id"], "status": "PROCESSING"}, status=202)
    return web.json_response(finished(task, asked.get("answer", "done")))


async def content_of(url: str) -> str:
    """Return what a file input refers to, fetched as a model's server does: without a header."""
    if url.startswith("data:"):
        return base64.b64decode(url.partition(",")[2]).decode()
    async with aiohttp.ClientSession() as session, session.get(url, ssl=False) as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def tell(task: dict[str, Any], pieces: list[str]) -> None:
    """Report pieces of output and the end, or progress alone."""
    headers = {"Authorization": f"Bearer {task['callback_token']}"}
    said: list[Any] = [{"metadata": {"status": "PROCESSING", "output": piece}} for piece in pieces]
    if not pieces:
        said = [{"metadata": {"status": "PROCESSING", "progress": 40, "log": "warm"}}]
    else:
        said.append({"data": "".join(pieces), "metadata": {"status": "FINISHED"}})
    async with aiohttp.ClientSession() as session:
        for update in said:
            async with session.put(task["callback_url"], json=update, headers=headers) as response:
                assert response.status == 200


@pytest.fixture
async def backend(service: ServiceClients) -> AsyncIterator[BackendServer]:
    async with BackendServer(work) as server:
        for name, settings in TYPES.items():
            await service.admin.done("PUT", f"/api/types/{name}", settings)
        await service.admin.register(server, "gpu-1", types=list(TYPES), callback=True)
        yield server


@pytest.fixture
async def proxy(up: Up, tmp_path: Path) -> AsyncIterator[TlsProxy]:
    async with TlsProxy(tmp_path / "tls", up.url) as running:
        yield running


def program(command: list[str], proxy: TlsProxy) -> Program:
    trusts = {"SSL_CERT_FILE": str(proxy.ca_file), "NODE_EXTRA_CA_CERTS": str(proxy.ca_file)}
    asks = {"REPLICATE_BASE_URL": f"{proxy.base_url}/replicate", "REPLICATE_API_TOKEN": token("alice")}
    return Program(command, dict(os.environ) | trusts | asks)


@pytest.fixture(params=["python", "node"])
def replicate(request: pytest.FixtureRequest, proxy: TlsProxy, backend: BackendServer) -> Program:
    """A program with Replicate's SDK."""
    if request.param == "python":
        return program([str(PYTHON), str(HERE / "scripts" / "replicate_client.py")], proxy)
    return program([*NODE, str(NODE_FOLDER / "replicate_client.mjs")], proxy)


@pytest.fixture
def replicate2(proxy: TlsProxy, backend: BackendServer) -> Program:
    """A program with the beta of Replicate's SDK for Python."""
    return program([str(PYTHON2), str(HERE / "scripts" / "replicate2_client.py")], proxy)


async def test_run_returns_outputs_files_and_failures(replicate: Program) -> None:
    assert await replicate.run("run", MODEL, '{"answer": ["a", 1]}') == [["a", 1]]
    assert await replicate.run("run", MODEL, '{"mode": "picture"}') == [{"file": PICTURE.decode("latin-1")}]
    (failed,) = await replicate.run("run", MODEL, '{"mode": "fail"}')
    assert "the model said no" in failed["failed"]


async def test_a_task_longer_than_the_wait_is_awaited_to_its_end(replicate: Program, backend: BackendServer) -> None:
    await replicate.start("run", MODEL, '{"mode": "hold", "answer": "late"}', "1")
    await wait_until(lambda: backend.calls, "the call")
    await asyncio.sleep(1.5)  # longer than the client's wait of a second

    backend.let_go.set()

    assert await replicate.rest() == ["late"]


@pytest.mark.timeout(300)
async def test_a_task_of_ninety_seconds_has_its_output(replicate: Program) -> None:
    assert await replicate.run("run", MODEL, '{"mode": "long", "answer": "very late"}') == ["very late"]


async def test_an_iterators_pieces_come_one_by_one(replicate: Program) -> None:
    assert "".join(await replicate.run("iterate", WRITER, '{"mode": "tell"}')) == "".join(STORY)


async def test_a_stream_ends_with_all_of_the_output(replicate: Program) -> None:
    events = await replicate.run("stream", WRITER, '{"mode": "tell"}')

    assert "".join(data for kind, data in events if kind == "output") == "".join(STORY)
    assert events[-1] == ["done", "{}"]


async def test_a_prediction_is_cancelled(replicate: Program, backend: BackendServer) -> None:
    assert await replicate.run("cancel", MODEL, '{"mode": "hold"}') == ["canceled", "canceled"]
    await wait_until(lambda: backend.broken_off, "the call to be closed")


async def test_progress_is_read_from_the_logs(replicate: Program) -> None:
    ((status, share, logs),) = await replicate.run("progress", MODEL, '{"mode": "report"}')

    assert (status, share) == ("processing", 0.4)
    assert "warm" in logs


async def test_pages_are_followed_to_the_last(replicate: Program, service: ServiceClients) -> None:
    for _ in range(101):
        await service.alice.post(f"/replicate/v1/models/{MODEL}/predictions", {"input": {"mode": "hold"}})

    assert await replicate.run("pages") == [100, 1]


async def test_files_are_uploaded_read_by_the_model_and_deleted(replicate: Program, tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_text("hello")

    assert await replicate.run("upload", MODEL, str(file)) == ["hello", "hello", ["in.txt", 5, True, 2], 1]


async def test_a_delivered_webhook_is_valid(replicate: Program) -> None:
    async with HookReceiver() as receiver:
        (prediction,) = await replicate.run("webhook", MODEL, receiver.url)
        await wait_until(lambda: receiver.messages, "the message")

    (message,) = receiver.messages
    assert (message.body["id"], message.body["status"]) == (prediction, "succeeded")
    headers = {
        "webhook-id": message.id, "webhook-timestamp": message.timestamp, "webhook-signature": message.signatures,
    }  # fmt: skip
    assert await replicate.run("validate", json.dumps(headers), message.raw.decode()) == [True]


async def test_models_versions_hardware_and_the_account_are_read(replicate: Program) -> None:
    assert await replicate.run("catalog", MODEL) == [[MODEL, True], [MODEL, WRITER], ["taskstream"], "alice"]


async def test_errors_have_replicates_titles(replicate: Program) -> None:
    assert await replicate.run("errors", MODEL) == [
        [401, "Unauthenticated"],
        [404, "Not found"],
        [422, "Invalid version or not permitted"],
        [422, "Input validation failed"],
    ]


async def test_the_beta_for_python_runs_streams_lists_and_cancels(replicate2: Program) -> None:
    assert await replicate2.run("run", MODEL, '{"answer": "done"}') == ["done"]
    assert await replicate2.run("run", MODEL, '{"mode": "picture"}') == [{"file": PICTURE.decode("latin-1")}]
    assert "".join(await replicate2.run("stream", WRITER, '{"mode": "tell"}')) == "".join(STORY)
    status, count, name, models, cancelled, has_secret = await replicate2.run("rest", MODEL)
    assert (status, count, name, models, has_secret) == ("succeeded", 4, "alice", ["flux", "writer"], True)
    assert cancelled in ("succeeded", "canceled")


@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_the_programs_of_the_page_run_as_printed(
    proxy: TlsProxy, backend: BackendServer, tmp_path: Path, language: str
) -> None:
    page = (ROOT / "docs" / "replicate.md").read_text()
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    suffix, folder = (".py", tmp_path) if language == "python" else (".mjs", NODE_FOLDER)
    file = folder / f"page{suffix}"
    file.write_text(text)
    command = [str(PYTHON), str(file)] if language == "python" else [*NODE, str(file)]
    ran = program(command, proxy)
    if language == "javascript":
        ran = Program(command, ran.env | {"REPLICATE_BASE_URL": f"{proxy.base_url}/replicate/v1"})

    await ran.start()
    assert ran.process is not None
    said, errors = await ran.process.communicate()

    assert (ran.process.returncode, said.decode()) == (0, "done"), errors.decode()
    assert [call["request"] for call in backend.calls] == [{"prompt": "a cat"}, {"prompt": "a story"}]
