"""What Replicate's real clients sent, answered by the real service in the shape that they were content with."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from testkit.backend import BackendServer
from testkit.receiver import HookReceiver
from testkit.service import Service

from .replay import Replay, recording, recordings

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
HOST = "http://127.0.0.1:22510"
OPAQUE = ("input", "output", "metrics", "metadata", "openapi_schema")
MISSING = {"checksums.md5", "results[0].checksums.md5"}
PICTURE = b"\x89PNG"


async def work(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
    """Do what the input of a recording asks for."""
    asked = task["request"]
    if asked.get("fail"):
        return web.json_response({"error": "the model said no"}, status=422)
    if asked.get("want") == "file":
        return web.Response(body=PICTURE, content_type="image/png")
    return web.json_response(["he", "llo"] if asked.get("want") == "list" else "HELLO")


@pytest.mark.parametrize("name", [*recordings("replicate"), *recordings("replicatejs")])
async def test_a_recorded_call_is_answered_in_its_shape(service: Service, backend: BackendServer, name: str) -> None:
    backend.answer = work
    await service.admin.done("PUT", "/api/types/flux", {"model": "owner/name", "attempts": 1})
    v1 = f"{service.url}/replicate/v1"
    model = await service.alice.done("GET", "/replicate/v1/models/owner/name")
    known = {VERSION: model["latest_version"]["id"]}
    if name.endswith(("/get", "/list")):
        for _ in range(101 if name == "replicate/list" else 1):
            made = await service.alice.post("/replicate/v1/models/owner/name/predictions", {"input": {"prompt": "hi"}})
        known["rp0001abcdefghijklmnop"] = made["id"]
    if "files-get" in name:
        assert await replay(service, known, "replicate/files-create", v1) == []
        known["RF1"] = (await service.alice.done("GET", "/replicate/v1/files"))["results"][0]["id"]

    async with HookReceiver() as receiver:
        known["https://127.0.0.1:22512/out/file.png"] = "data:"  # test_prediction_files.py reads such URLs
        known |= {"http://127.0.0.1:22110/hook": receiver.url, "http://127.0.0.1:22110/h": receiver.url}
        assert await replay(service, known, name, v1) == []


async def replay(service: Service, known: dict[str, str], name: str, v1: str) -> list[str]:
    sent = Replay(service.alice, "/replicate", {f"{HOST}/v1": v1, **known}, opaque=OPAQUE, missing=MISSING)
    return await sent.run(recording(name))
