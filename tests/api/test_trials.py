"""A trial of a server: what is shown of the call, and what never comes of it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from taskstream.backends.trial import MOST_SHOWN_BYTES
from testkit.program import Program
from testkit.service import Service
from testkit.waiting import wait_until
from tests.api.test_servers import guarded

KEY = "key-of-the-server-0123456789"
__all__ = ["guarded"]


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    async with Program() as found:
        yield found


def registration(program: Program, **more: Any) -> dict[str, Any]:
    endpoints = {"predict": f"{program.base_url}/predict"}
    return {"id": "s1", "name": "s1", "provider": "p", "endpoints": endpoints} | more


async def tried(api: Service, program: Program, body: dict[str, Any] | None = None, **more: Any) -> Any:
    """Register the program and return what a trial shows."""
    await api.admin.done("POST", "/api/servers", registration(program, **more))
    return await api.admin.done("POST", "/api/servers/s1/try", body or {"payload": {"text": "hi"}})


async def test_a_trial_shows_request_answer_and_verdict_and_leaves_nothing(api: Service, program: Program) -> None:
    program.answers["/predict"] = {"data": {"words": 3}}
    await api.admin.done("POST", "/api/servers", registration(program))
    await api.admin.done("POST", "/api/servers/s1/maintenance", {"maintenance": True})
    before = await api.container.commands.servers.history("s1")

    found = await api.admin.done("POST", "/api/servers/s1/try", {"payload": {"text": "hi"}, "type": "count"})

    (exchange,) = found["exchanges"]
    assert (exchange["method"], exchange["url"]) == ("POST", f"{program.base_url}/predict")
    sent = json.loads(exchange["body"]["text"])
    assert (sent["request"], sent["type"]) == ({"text": "hi"}, "count")
    assert program.asked[-1].body.decode() == exchange["body"]["text"]
    assert (exchange["answer"]["status"], exchange["answer"]["body"]["text"]) == (200, '{"data": {"words": 3}}')
    assert found["verdict"]["outcome"] == "completed"
    assert found["verdict"]["result"]["data"] == {"data": {"words": 3}}
    assert await api.container.commands.servers.history("s1") == before
    assert (await api.admin.get("/api/tasks?owner=root"))["tasks"] == []
    assert (await api.admin.get(f"/api/task/{sent['task_id']}")).status == 404


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        (503, "busy", "the server answered 503"),
        (422, "rejected", "the server answered 422"),
        (500, "error", "the server answered 500"),
        (307, "bad_answer", "redirects are not followed"),
        ({"data": None, "metadata": {"status": "FAILED", "message": "no such voice"}}, "failed", "no such voice"),
    ],
)
async def test_a_verdict_is_what_the_answer_would_mean_for_a_task(
    api: Service, program: Program, answer: Any, outcome: str, reason: str
) -> None:
    program.answers["/predict"] = answer

    verdict = (await tried(api, program))["verdict"]

    assert verdict["outcome"] == outcome
    assert reason in verdict["reason"]


async def test_a_server_that_is_away_is_unreachable_and_says_why(api: Service, program: Program) -> None:
    await program.stop()

    found = await tried(api, program)

    assert found["verdict"]["outcome"] == "unreachable"
    assert (found["exchanges"][0]["answer"], found["exchanges"][0]["error"]) == (
        None,
        "the server could not be reached",
    )


async def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(api: Service, program: Program) -> None:
    program.answers["/predict"] = None

    found = await tried(api, program, {"payload": 1, "timeout": 0.2})

    assert (found["verdict"]["outcome"], found["cancelled"]) == ("timeout", "requested")


async def test_no_key_is_shown_however_the_server_echoes_it(api: Service, program: Program) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = {"data": [request.headers["X-Key"], base64.b64encode(KEY.encode()).decode()]}
        return web.json_response(said, headers={"X-Echo": KEY, "Set-Cookie": "session=1"})

    program.answers["/predict"] = echo

    found = await tried(api, program, apiKey=KEY, authHeader="X-Key")

    assert program.asked[-1].headers["X-Key"] == KEY
    assert KEY not in str(found)
    assert base64.b64encode(KEY.encode()).decode() not in str(found)
    assert found["exchanges"][0]["headers"]["X-Key"] == "[key removed]"
    assert found["exchanges"][0]["answer"]["headers"]["X-Echo"] == "[key removed]"
    assert "session" not in str(found)


async def test_streamed_updates_are_shown_with_the_stream(api: Service, program: Program) -> None:
    parts = [b'{"output": "It "}\n', b'{"progress": 50}\n', b'{"data": 1}\n']

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    program.answers["/predict"] = stream

    found = await tried(api, program)

    assert found["verdict"]["outcome"] == "completed"
    assert [(one["output"], one["progress"]) for one in found["updates"]] == [("It ", None), (None, 50)]
    assert found["exchanges"][0]["answer"]["body"]["text"].encode() == b"".join(parts)


async def test_of_large_bodies_the_beginning_is_shown_and_of_files_the_length(api: Service, program: Program) -> None:
    async def image(_: web.Request) -> web.Response:
        return web.Response(body=b"\x89PNG\x00" * 10, content_type="image/png")

    program.answers["/predict"] = {"data": "x" * 200_000}
    large = await tried(api, program, {"payload": "y" * 100_000})
    program.answers["/predict"] = image
    file = await tried(api, program)

    (exchange,) = large["exchanges"]
    assert exchange["body"]["bytes"] > 100_000
    assert len(exchange["body"]["text"]) == len(exchange["answer"]["body"]["text"]) == MOST_SHOWN_BYTES
    assert (large["verdict"]["outcome"], large["verdict"]["result"]) == ("completed", None)
    assert file["exchanges"][0]["answer"]["body"] == {"text": None, "bytes": 50}


async def test_an_admin_has_three_trials_at_once(api: Service, program: Program) -> None:
    program.answers["/predict"] = None
    await api.admin.done("POST", "/api/servers", registration(program))
    body = {"payload": 1, "timeout": 30}
    running = [asyncio.create_task(api.admin.post("/api/servers/s1/try", body)) for _ in range(3)]
    await wait_until(lambda: program.paths.count("/predict") == 3, "three trials")

    refused = await api.admin.post("/api/servers/s1/try", body)
    await program.stop()
    await asyncio.gather(*running)
    after = await api.admin.post("/api/servers/s1/try", body)

    assert (refused.status, after.status) == (409, 200)
    assert "3 of your trials are running" in refused["detail"]


async def test_a_registration_can_be_tried_before_it_is_made(api: Service, program: Program) -> None:
    program.answers["/predict"] = {"data": 1}
    body = {"server": registration(program, apiKey=KEY), "payload": {"text": "hi"}}

    found = await api.admin.done("POST", "/api/servers/try", body)

    assert found["verdict"]["outcome"] == "completed"
    assert program.asked[-1].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(found)
    assert (await api.admin.get("/api/servers/s1")).status == 404


async def test_a_preset_of_a_registration_is_tried_as_it_would_be_registered(api: Service, program: Program) -> None:
    program.answers["/v1/models/iris:predict"] = {"predictions": [1]}
    server = registration(program, preset="kserve-v1")
    server["endpoints"]["predict"] = f"{program.base_url}/v1/models/iris:predict"

    found = await api.admin.done("POST", "/api/servers/try", {"server": server, "payload": {"instances": [1]}})
    unknown = await api.admin.refusal("POST", "/api/servers/try", {"server": server | {"preset": "x"}, "payload": 1})

    assert (found["dialect"], found["verdict"]["result"]["data"]) == ("bare", [1])
    assert unknown == (400, "$.server.preset")


async def test_an_address_that_the_egress_rules_refuse_is_not_called(guarded: Service, program: Program) -> None:
    body = {"server": registration(program), "payload": 1}

    assert await guarded.admin.refusal("POST", "/api/servers/try", body) == (400, "$.server.endpoints.predict")
    assert program.asked == []


async def test_a_trial_with_auto_finds_out_the_dialect_or_says_why_not(api: Service, program: Program) -> None:
    body = {"server": registration(program, dialect="auto"), "payload": {"inputs": []}}
    body["server"]["endpoints"]["predict"] = f"{program.base_url}/v2/models/m/infer"
    unknown = await api.admin.post("/api/servers/try", body)
    program.answers |= {"/v2": {"name": "x", "version": "1"}, "/v2/models/m/infer": {"model_name": "m", "outputs": []}}

    found = await api.admin.done("POST", "/api/servers/try", body)

    assert unknown.status == 409
    assert "not detected: none of the known signs" in unknown["detail"]
    assert (found["dialect"], found["verdict"]["outcome"]) == ("oip", "completed")


async def test_a_pulled_server_has_no_address_to_try_or_to_ask(api: Service) -> None:
    pulled = {"id": "s1", "name": "s1", "provider": "p", "mode": "pull"}
    await api.admin.done("POST", "/api/servers", pulled)

    for path, body in (("s1/try", {"payload": 1}), ("s1/detect", None), ("try", {"server": pulled, "payload": 1})):
        refused = await api.admin.post(f"/api/servers/{path}", body)
        assert (refused.status, "never called" in refused["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("body", "path"),
    [({}, "$.payload"), ({"payload": 1, "timeout": 61}, "$.timeout"), ({"payload": 1, "typ": "a"}, "$.typ")],
)
async def test_a_trial_that_is_wrong_is_refused_by_its_path(
    api: Service, program: Program, body: dict[str, Any], path: str
) -> None:
    await api.admin.done("POST", "/api/servers", registration(program))

    assert await api.admin.refusal("POST", "/api/servers/s1/try", body) == (400, path)
    assert program.asked == []


async def test_only_admins_try_and_only_servers_that_exist(api: Service, program: Program) -> None:
    body = {"server": registration(program), "payload": 1}

    assert (await api.alice.post("/api/servers/s1/try", {"payload": 1})).status == 403
    assert (await api.alice.post("/api/servers/try", body)).status == 403
    assert (await api.admin.post("/api/servers/nobody/try", {"payload": 1})).status == 404


async def checked(api: Service, server: dict[str, Any], **more: Any) -> Any:
    return await api.admin.done("POST", "/api/servers/check", {"server": server, **more})


async def test_a_check_says_that_a_server_answers_and_registers_nothing(api: Service, program: Program) -> None:
    program.answers["/health"] = {}
    server = registration(program)
    server["endpoints"]["health"] = f"{program.base_url}/health"

    found = await checked(api, server)

    assert found["health"]["well"]
    assert found["health"]["latencyMs"] > 0
    assert (found["healthChecked"], found["registered"], found["detected"]) == (True, False, None)
    assert program.paths == ["/health"]
    assert (await api.admin.get("/api/servers/s1")).status == 404


async def test_a_check_says_why_a_server_would_be_offline(api: Service, program: Program) -> None:
    program.answers["/health"] = 500
    server = registration(program)
    server["endpoints"]["health"] = f"{program.base_url}/health"

    answering = (await checked(api, server))["health"]
    await program.stop()
    gone = (await checked(api, server))["health"]

    assert answering == {"well": False, "reason": "health check answered 500", "latencyMs": answering["latencyMs"]}
    assert (gone["well"], gone["latencyMs"]) == (False, None)
    assert gone["reason"]


async def test_a_check_finds_out_what_a_server_speaks_and_calls_no_model(api: Service, program: Program) -> None:
    program.answers["/v1/models"] = {"object": "list", "data": []}
    server = registration(program, dialect="auto")
    server["endpoints"] = {"predict": f"{program.base_url}/v1"}

    found = await checked(api, server)

    assert (found["dialect"], found["detected"]["dialect"], found["detected"]["applied"]) == ("openai", "openai", True)
    assert found["health"]["well"]
    assert {one.method for one in program.asked} == {"GET"}


async def test_a_check_of_an_unknown_program_has_the_evidence(api: Service, program: Program) -> None:
    found = await checked(api, registration(program, dialect="auto"))

    assert (found["dialect"], found["detected"]["dialect"], found["health"]) == (None, None, None)
    assert found["detected"]["reason"]
    assert {one["status"] for one in found["detected"]["evidence"]} == {404}


async def test_a_check_without_reach_makes_no_request(api: Service, program: Program) -> None:
    await api.admin.done("POST", "/api/servers", registration(program))
    program.asked.clear()

    found = await checked(api, registration(program, dialect="auto"), reach=False)

    assert (found["registered"], found["health"], found["detected"]) == (True, None, None)
    assert program.asked == []


async def test_a_check_refuses_what_a_registration_would_with_its_place(api: Service, program: Program) -> None:
    for server, path in [
        (registration(program, maxConcurrent=0), "$.server.maxConcurrent"),
        (registration(program, dialect="oip"), "$.server.endpoints.predict"),
        (registration(program, preset="bento"), "$.server.preset"),
        (registration(program, mode="pull"), "$.server.endpoints"),
        ({"name": "s1"}, "$.server.id"),
    ]:
        refused = await api.admin.refusal("POST", "/api/servers/check", {"server": server, "reach": False})
        assert refused == (400, path)


async def test_a_check_reaches_no_address_that_backends_may_not_have(guarded: Service) -> None:
    server = {"id": "s1", "name": "s1", "provider": "p", "endpoints": {"predict": "http://127.0.0.1:9/predict"}}

    refused = await guarded.admin.refusal("POST", "/api/servers/check", {"server": server})

    assert refused == (400, "$.server.endpoints.predict")


async def test_only_admins_check_registrations(api: Service, program: Program) -> None:
    for client in (api.alice, api.auditor):
        refused = await client.refusal("POST", "/api/servers/check", {"server": registration(program)})
        assert refused[0] == 403
