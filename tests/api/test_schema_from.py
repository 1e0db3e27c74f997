"""`schemaFrom` of a type: the schema of a server's model, asked for once and stored with where it is from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskstream.events.task_type import SchemaSource
from testkit.program import Program
from testkit.service import Service
from tests.backends.test_input_schema import KSERVE

METADATA = "/v2/models/echo"
INFERENCE = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    async with Program() as found:
        found.answers[METADATA] = KSERVE
        yield found


async def put(api: Service, program: Program, body: dict[str, Any] | None = None, **more: Any) -> Any:
    """Register the program as s1, and return the answer to a type whose schema is from it."""
    endpoints = {"predict": f"{program.base_url}{METADATA}/infer"}
    server = {"id": "s1", "name": "s1", "provider": "p", "dialect": "oip", "endpoints": endpoints} | more
    await api.admin.done("POST", "/api/servers", server)
    return await api.admin.put("/api/types/speech", body or {"schemaFrom": {"server": "s1"}})


async def test_a_type_has_the_schema_of_a_model_and_where_it_is_from(api: Service, program: Program) -> None:
    answer = await put(api, program, apiKey="key-of-the-server-0123456789", authHeader="X-Key")

    assert (answer.status, answer["schemaFrom"]) == (200, {"server": "s1"})
    assert (await api.alice.get("/api/types/speech"))["schemaFrom"] == {"server": "s1"}
    definition = api.container.fleet.definition("speech")
    assert definition is not None
    assert definition.schema_source == SchemaSource(server_id="s1", url=f"{program.base_url}{METADATA}")
    assert program.asked[-1].headers["X-Key"] == "key-of-the-server-0123456789"
    assert (await api.alice.post("/api/task", {"type": "speech", "payload": INFERENCE})).status == 200
    refused = await api.alice.refusal("POST", "/api/task", {"type": "speech", "payload": {"inputs": []}})
    assert refused == (400, "$.payload.inputs")


async def test_what_the_server_says_later_changes_nothing(api: Service, program: Program) -> None:
    before = (await put(api, program)).body
    program.answers[METADATA] = {"inputs": [{"name": "other", "datatype": "FP32"}]}

    assert (await api.admin.get("/api/types/speech")).body == before


async def test_a_schema_that_an_admin_writes_has_no_source(api: Service, program: Program) -> None:
    await put(api, program)

    answer = await api.admin.done("PUT", "/api/types/speech", {"schema": {"type": "object"}})

    assert (answer["schema"], answer["schemaFrom"]) == ({"type": "object"}, None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (404, "answered 404"),
        ({"inputs": []}, "declares no inputs"),
        ({"inputs": [{"name": "x" * 200_000, "datatype": "FP32"}]}, "must be at most 131,072 bytes"),
    ],
)
async def test_a_server_that_gives_no_usable_schema_is_refused_with_the_reason(
    api: Service, program: Program, answer: Any, reason: str
) -> None:
    program.answers[METADATA] = answer

    refused = await put(api, program)

    assert (refused.status, refused["path"]) == (400, "$.schemaFrom")
    assert reason in refused["detail"]
    assert (await api.admin.get("/api/types/speech")).status == 404


async def test_a_server_that_cannot_be_asked_is_refused_with_the_reason(api: Service, program: Program) -> None:
    undetected = await put(api, program, dialect="auto")
    other = await put(api, program, dialect="taskstream")
    both = await put(api, program, {"schemaFrom": {"server": "s1"}, "schema": {}})
    await program.stop()
    away = await put(api, program)
    missing = await api.admin.put("/api/types/speech", {"schemaFrom": {"server": "nobody"}})

    assert "what it speaks is not known" in undetected["detail"]
    assert "`taskstream` do not describe their input" in other["detail"]
    assert both["path"] == "$.schemaFrom"
    assert "could not be reached" in away["detail"]
    assert (missing.status, missing["path"]) == (400, "$.schemaFrom.server")
