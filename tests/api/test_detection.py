"""The dialect `auto`: what a server is asked, what is recorded of it, and what never happens by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from taskstream.backends import detection
from taskstream.backends.dialects.detection import PROBES
from testkit.program import Program
from testkit.service import Service

MLSERVER = {"name": "mlserver", "version": "1.7.1", "extensions": []}
KEY = "key-of-the-server-0123456789"


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    async with Program() as found:
        yield found


def registration(url: str, **more: Any) -> dict[str, Any]:
    predict = f"{url}/v2/models/echo/infer"
    return {"id": "s1", "name": "s1", "provider": "p", "dialect": "auto", "endpoints": {"predict": predict}} | more


async def test_a_server_is_asked_what_it_speaks_and_shown_with_the_evidence(api: Service, program: Program) -> None:
    program.answers["/v2"] = MLSERVER

    registered = await api.admin.done("POST", "/api/servers", registration(program.base_url))
    shown = await api.admin.done("GET", "/api/servers/s1")

    assert (registered["detected"]["dialect"], registered["detected"]["applied"]) == ("oip", True)
    assert shown["dialect"] == "auto"
    assert (shown["dialectDetected"]["dialect"], shown["dialectDetected"]["program"]) == ("oip", "mlserver 1.7.1")
    assert [(one["path"], one["status"]) for one in shown["dialectDetected"]["evidence"]] == [("/", 404), ("/v2", 200)]
    assert {one.method for one in program.asked} == {"GET"}


async def test_a_preset_applies_to_what_is_found_and_the_registration_stays(api: Service, program: Program) -> None:
    program.answers |= {"/v2": {"name": "kserve", "version": "1"}, "/v1/models/m:predict": {"predictions": [1]}}
    predict = f"{program.base_url}/v1/models/m:predict"

    registered = await api.admin.done("POST", "/api/servers", registration("", endpoints={"predict": predict}))
    shown = (await api.admin.get("/api/servers/s1")).body
    found = await api.admin.done("POST", "/api/servers/s1/try", {"payload": {"instances": [1]}})
    again = await api.admin.done("POST", "/api/servers", shown)

    assert (registered["detected"]["preset"], shown["dialectDetected"]["preset"]) == ("kserve-v1", "kserve-v1")
    assert (found["dialect"], found["verdict"]["result"]["data"]) == ("bare", [1])
    assert (shown["dialect"], shown["exchange"], again["reset"]) == ("auto", None, [])
    assert (await api.admin.get("/api/servers/s1"))["dialectDetected"] == shown["dialectDetected"]


async def test_the_same_registration_again_asks_nothing(api: Service, program: Program) -> None:
    program.answers["/v2"] = MLSERVER
    await api.admin.done("POST", "/api/servers", registration(program.base_url))
    program.asked.clear()

    again = await api.admin.done("POST", "/api/servers", registration(program.base_url))

    assert "detected" not in again
    assert program.asked == []


async def test_a_server_that_is_away_is_offline_until_it_is_known_what_it_speaks(
    api: Service, program: Program
) -> None:
    await program.stop()

    registered = await api.admin.done("POST", "/api/servers", registration(program.base_url))
    await api.admin.done("POST", "/api/servers/s1/heartbeat", {})
    shown = await api.admin.done("GET", "/api/servers/s1")

    assert registered["detected"]["dialect"] is None
    assert (shown["status"], shown["dialectDetected"]) == ("offline", None)
    assert shown["statusReason"].startswith("dialect not detected yet")


async def test_a_server_without_a_known_sign_says_so_and_is_asked_again_on_request(
    api: Service, program: Program
) -> None:
    await api.admin.done("POST", "/api/servers", registration(program.base_url))
    unknown = await api.admin.done("GET", "/api/servers/s1")
    program.answers["/v2"] = MLSERVER

    found = await api.admin.done("POST", "/api/servers/s1/detect")

    assert unknown["statusReason"].startswith("misconfigured: dialect not detected: none of the known signs: / (404)")
    assert (found["dialect"], found["applied"], found["reason"]) == ("oip", True, None)


async def test_a_server_that_speaks_something_else_later_is_switched_only_on_request(
    api: Service, program: Program
) -> None:
    program.answers["/v2"] = {"name": "triton", "version": "2"}
    await api.admin.done("POST", "/api/servers", registration(program.base_url))
    program.answers["/v2"] = MLSERVER
    await api.admin.done("PATCH", "/api/servers/s1", {"weight": 3})
    before = await api.admin.done("GET", "/api/servers/s1")

    await api.admin.done("POST", "/api/servers/s1/detect")
    after = await api.admin.done("GET", "/api/servers/s1")

    assert before["dialectDetected"]["program"] == "triton 2"
    assert after["dialectDetected"]["program"] == "mlserver 1.7.1"


async def test_a_named_dialect_overrides_what_was_detected(api: Service, program: Program) -> None:
    program.answers["/v2"] = MLSERVER
    await api.admin.done("POST", "/api/servers", registration(program.base_url))

    named = await api.admin.done("PATCH", "/api/servers/s1", {"dialect": "taskstream"})
    found = await api.admin.done("POST", "/api/servers/s1/detect")
    shown = await api.admin.done("GET", "/api/servers/s1")
    back = await api.admin.done("PATCH", "/api/servers/s1", {"dialect": "auto"})

    assert (named["dialect"], named["dialectDetected"]) == ("taskstream", None)
    assert (found["dialect"], found["applied"]) == ("oip", False)
    assert shown["dialectDetected"] is None
    assert back["dialectDetected"]["dialect"] == "oip"


async def test_the_key_goes_to_the_registered_server_alone(api: Service, program: Program) -> None:
    async with Program() as other:

        async def send_away(_: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(f"{other.base_url}/v2")

        program.answers |= {probe.path: send_away for probe in PROBES}
        body = registration(program.base_url, apiKey=KEY, authHeader="X-Key")

        registered = await api.admin.done("POST", "/api/servers", body)

        assert registered["detected"]["dialect"] is None
        assert other.asked == []
    assert program.asked
    assert all(one.headers["X-Key"] == KEY for one in program.asked)


async def test_a_key_that_a_server_echoes_is_not_in_the_evidence(api: Service, program: Program) -> None:
    program.answers["/v2"] = {"name": KEY, "version": "1"}

    registered = await api.admin.done("POST", "/api/servers", registration(program.base_url, apiKey=KEY))

    assert registered["detected"]["dialect"] == "oip"
    assert KEY not in str(registered)


async def test_a_server_that_does_not_answer_a_probe_is_asked_the_next(
    api: Service, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "PROBE_SECONDS", 0.1)
    program.answers |= {"/": None, "/v2": MLSERVER}

    registered = await api.admin.done("POST", "/api/servers", registration(program.base_url))

    assert registered["detected"]["dialect"] == "oip"
    assert registered["detected"]["evidence"][0] == {"path": "/", "status": None, "sign": "no answer in 0.1 s"}


async def test_all_probes_together_have_a_limit(
    api: Service, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "DETECTION_SECONDS", 0.3)
    program.answers |= {probe.path: None for probe in PROBES}

    registered = await api.admin.done("POST", "/api/servers", registration(program.base_url))

    assert program.paths == ["/"]
    assert "more than 0.3 s" in registered["detected"]["reason"]


async def test_an_answer_that_does_not_end_is_no_sign(
    api: Service, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "MOST_PROBE_BYTES", 1_000)
    program.answers |= {"/": {"cog_version": "9", "more": "x" * 2_000}, "/v2": MLSERVER}

    registered = await api.admin.done("POST", "/api/servers", registration(program.base_url))

    assert registered["detected"]["dialect"] == "oip"
    assert "more than 1000 bytes" in registered["detected"]["evidence"][0]["sign"]


async def test_only_admins_ask_and_only_about_servers_that_exist(api: Service) -> None:
    assert (await api.alice.post("/api/servers/s1/detect")).status == 403
    assert (await api.admin.post("/api/servers/nobody/detect")).status == 404
