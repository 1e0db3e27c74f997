"""The key that comes with a task is nowhere but at the server it is for: not on disk, in a log line or in an answer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import nats as nats_py
from aiohttp import web
from nats.aio.client import Client as Nats

from testkit.backend import BackendServer, finished
from testkit.processes import Processes, clients_of
from testkit.queue_surface import MODEL
from testkit.service import Client, ServiceClients
from testkit.waiting import wait_until

CANARY = "this the servers say, too"
"""Found where the key could be: the search sees what it should."""
ENDS = ("completed", "refused", "retried", "reported", "streamed", "cancelled", "deleted", "bad-callback")


def new_key(kind: str) -> str:
    return f'sk-{kind}-{secrets.token_hex(8)}/+"\\{secrets.token_hex(8)}=='


def forms(key: str) -> list[bytes]:
    """Return the key as it may be written."""
    in_json = json.dumps(key)[1:-1]
    texts = [key, in_json, in_json.replace("/", "\\/"), json.dumps(in_json)[1:-1], quote(key), quote(key, safe="")]
    in_base64 = [encode(key.encode()).rstrip(b"=") for encode in (base64.b64encode, base64.urlsafe_b64encode)]
    parts = re.findall(r"[0-9a-f]{16}", key)  # not even a half of it, as it would be found behind any escaping
    return [*(text.encode() for text in (*texts, *parts)), *in_base64]


def found_in(text: bytes, keys: dict[str, str]) -> list[str]:
    return [kind for kind, key in keys.items() if any(form in text for form in forms(key))]


def everything_in(folder: Path) -> bytes:
    found = b""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files come and go while the service runs
            found += path.read_bytes() if path.is_file() else b""
    return found


async def repeat_the_key(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
    """Say the key in every way there is, as the task's project asks; then end as it asks."""
    key = request.headers["X-AI-Key"]
    basic = base64.b64encode(key.encode()).decode()
    said = f"{CANARY}: {key}, {quote(key, safe='')}, {basic}"
    match task["request"]["projectName"]:
        case "refused":
            return web.json_response({"error": said}, status=400)
        case "retried" if task["attempt"] == 1:
            return web.json_response({"error": said}, status=500)
        case "reported" | "bad-callback" as how:
            progress = {"progress": 10, "message": said[:1900], "log": said, "output": said, "custom_data": {key: key}}
            for _ in range(20):  # more than the log keeps one by one
                await server.report(task, "PROCESSING", **progress)
            if how == "bad-callback":
                await server.report(task, "FINISHED", token="x" * 22, data=said)
                await server.report(task, said)
            status = "FINISHED" if how == "reported" else "FAILED"
            await server.report(task, status, data={"said": said}, message=said[:1900])
            return web.json_response({"task_id": task["task_id"], "status": "PROCESSING", "message": said}, status=202)
        case "streamed":
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for update in ({"progress": 5, "message": said[:1900], "output": said}, {"data": {"said": said}}):
                await response.write(b"data: " + json.dumps(update).encode() + b"\n\n")
            return response
        case "cancelled" | "deleted" | "retried-by-hand":
            await server.let_go.wait()
    return web.json_response(finished(task, {"said": said, key: [key]}), headers={"X-Echo": key.replace('"', "")})


class Ear:
    """Takes every byte of an owner's stream."""

    def __init__(self, client: Client) -> None:
        self.heard = b""
        self._client = client

    async def listen(self) -> None:
        headers = {"Authorization": f"Bearer {self._client.bearer}"}
        url, for_ever = f"{self._client.url}/api/tasks/stream", aiohttp.ClientTimeout(total=None)
        async with self._client.session.get(url, headers=headers, timeout=for_ever) as response:
            async for chunk in response.content.iter_any():
                self.heard += chunk


async def answers_about(service: ServiceClients, ids: dict[str, str], *, ended: bool) -> bytes:
    """Return all that can be read about these tasks, headers included; their streams, too, once these have an end."""
    auditor = service.client("eve", "auditor")
    paths = ["/api/tasks", "/api/queue/tasks", "/api/active-tasks", "/metrics", "/health/ready"]
    for task_id in ids.values():
        paths += [f"/api/task/{task_id}", f"/api/task/{task_id}/events", f"/api/queue/tasks/{task_id}"]
        paths += [f"/api/task/{task_id}/stream?after=0"] if ended else []
    found = b""
    for client in (service.alice, auditor, service.admin):
        for path in [*paths, "/api/servers", "/api/servers/writer"]:
            headers = {"Authorization": f"Bearer {client.bearer}"}
            async with client.session.get(client.url + path, headers=headers) as response:
                found += str(response.headers).encode() + await response.read()
    return found


async def queue(service: ServiceClients, project: str, key: str, **headers: str) -> tuple[int, bytes]:
    """Queue a chapter; return status and body."""
    url = f"{service.url}/api/projects/{project}/queue-chapters"
    headers = {"Authorization": f"Bearer {service.alice.bearer}", **MODEL, "X-AI-Key": key, **headers}
    async with service.alice.session.post(url, json={}, headers=headers) as response:
        return response.status, await response.read()


async def refused_requests(service: ServiceClients, key: str) -> bytes:
    """Send the key with requests that are refused; return what they are answered."""
    answers = [
        await queue(service, "p", key, **{"X-AI-BaseUrl": f"ftp://{quote(key, safe='')}"}),
        await queue(service, "p", key, Authorization=f"Bearer {quote(key, safe='')}"),
        await queue(service, "p" * 300, key),
        await queue(service, "p", key * 100),
    ]
    assert all(status >= 400 for status, _ in answers), answers
    return b"".join(body for _, body in answers)


async def sealed_keys(nats: Nats) -> list[bytes]:
    """Return the keys of tasks that the bucket of secrets has."""
    bucket = await nats.jetstream().key_value("secrets")

    async def listed() -> list[list[str]] | None:
        try:
            async with asyncio.timeout(5):  # a key deleted meanwhile lets nats-py wait for ever
                return [await bucket.keys()]
        except nats_py.js.errors.NoKeysError:
            return [[]]
        except TimeoutError:
            return None

    [names] = await wait_until(listed, "the keys to be listed")
    found = []
    for name in filter(lambda name: name.startswith("task."), names):
        with contextlib.suppress(nats_py.js.errors.KeyNotFoundError):  # destroyed meanwhile: its task has ended
            found.append((await bucket.get(name)).value or b"")
    return found


async def test_the_key_is_found_nowhere(processes: Processes) -> None:
    keys = {kind: new_key(kind) for kind in (*ENDS, "generated", "request")}
    up = await processes.up(LOG_LEVEL="debug")
    async with BackendServer(repeat_the_key) as backend, clients_of(up.url) as service:
        nats = await nats_py.connect(up.nats_url)
        await service.admin.register(backend, "writer", types=["chapter"], callback=True, **{"async": True})
        ear = Ear(service.alice)
        listening = asyncio.create_task(ear.listen())
        answers = await refused_requests(service, keys["request"])
        ids: dict[str, str] = {}
        for kind in ENDS:
            status, body = await queue(service, kind, keys[kind])
            assert status == 200, body
            ids[kind] = json.loads(body)["taskId"]
            answers += body
        async with service.alice.session.post(
            f"{service.url}/api/projects/generated/generate-stream",
            headers={"Authorization": f"Bearer {service.alice.bearer}", **MODEL, "X-AI-Key": keys["generated"]},
        ) as response:
            answers += await response.read()
        await wait_until(lambda: len(backend.calls) == len(ENDS) + 2, "each call, and a second one of the retried")
        sealed = await sealed_keys(nats)
        assert sealed, "while tasks run, their keys are kept"
        during = everything_in(up.data) + await answers_about(service, ids, ended=False)
        for kind in ("cancelled", "deleted"):
            answers += str((await service.alice.post(f"/api/queue/tasks/{ids[kind]}/cancel")).body).encode()
        answers += str((await service.alice.delete(f"/api/queue/tasks/{ids['deleted']}")).body).encode()
        for kind in set(ENDS) - {"deleted"}:
            await service.alice.ended(ids[kind])

        async def destroyed() -> bool:
            return not await sealed_keys(nats)

        await wait_until(destroyed, "the keys to be destroyed")
        answers += await answers_about(service, ids, ended=True)
        state = await nats.jetstream().stream_info("KV_secrets")
        await nats.close()
        received = {headers["X-AI-Key"] for headers in backend.headers}
        listening.cancel()
        up.terminate()
        await up.ended()

    stored = everything_in(up.data)
    logged = up.log.read_bytes()
    assert received == {keys[kind] for kind in (*ENDS, "generated")}, "the server was told each key"
    for place, text in {
        "data folder, while running": during,
        "data folder, at the end": stored,
        "log": logged,
        "answers": answers,
        "stream": ear.heard,
    }.items():
        assert found_in(text, keys) == [], place
    for text in (stored, answers, ear.heard):
        assert CANARY.encode() in text
        assert b"[key removed]" in text
    assert b'"level": "debug"' in logged
    assert state.state.messages == 1, "nothing but the fingerprint of the seal key"
    assert not any(value in stored for value in sealed), "what was sealed is overwritten, too"
