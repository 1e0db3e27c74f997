"""Registrations of servers of the dialect `bare`, and presets."""

from __future__ import annotations

from typing import Any

from taskstream.backends.presets import presets
from testkit.service import Service

BARE: dict[str, Any] = {
    "id": "gpu-1",
    "name": "GPU 1",
    "provider": "example",
    "dialect": "bare",
    "endpoints": {"predict": "http://127.0.0.1:9/predict"},
}
POLLED: dict[str, Any] = {
    "accepted": {"id": "$.id"},
    "poll": {"url": "{id}", "done": '$.status == "done"'},
}
EXCHANGE: dict[str, Any] = {
    "request": {"method": "PUT", "url": "run/{id}", "headers": {"X-V": "2"}, "body": {"in": "$payload", "id": "$id"}},
    "result": "$.output",
    "failWhen": '$.status == "failed"',
    "retryWhen": [424, 507],
    "busyWhen": {"status": [500], "contains": "queue full"},
    "error": "$.why",
    "accepted": {"when": '$.status == "queued"', "id": "$.id", "statusUrl": "$.urls.get", "cancelUrl": "Location"},
    "poll": {
        "done": [200], "failed": '$.status == "failed"', "method": "POST", "url": "{id}", "interval": 2.5,
        "patience": 120, "progress": "$.p", "progressMax": 1, "message": "$.m", "logs": "$.l",
        "resultUrl": "{id}/result",
    },
    "cancel": {
        "method": "DELETE", "url": "jobs", "body": {"ids": ["$id"]},
        "confirmed": {"body": "$.ok == true", "status": [200]},
    },
    "stream": {
        "done": '$ == "[DONE]"', "output": "$.text", "progress": "$.p", "progressMax": 1, "message": "$.m",
        "events": True,
    },
}  # fmt: skip


def registration(exchange: Any, **more: Any) -> dict[str, Any]:
    return {**BARE, "exchange": exchange, **more}


async def test_an_exchange_is_shown_as_it_was_registered(api: Service) -> None:
    await api.admin.done("POST", "/api/servers", registration(EXCHANGE))

    shown = (await api.admin.get("/api/servers/gpu-1")).body

    assert (shown["dialect"], shown["exchange"], shown["preset"]) == ("bare", EXCHANGE, None)


async def test_a_server_as_it_is_shown_can_be_registered_again(api: Service) -> None:
    await api.admin.done("POST", "/api/servers", registration(EXCHANGE))
    shown = (await api.admin.get("/api/servers/gpu-1")).body

    answer = await api.admin.post("/api/servers", shown)

    assert (answer.status, answer["reset"]) == (200, [])
    assert (await api.admin.get("/api/servers/gpu-1"))["exchange"] == EXCHANGE


WRONG: list[tuple[Any, str]] = [
    ({"what": 1}, "$.exchange.what"),
    ({"result": "output"}, "$.exchange.result"),
    ({"result": "$" + ".a" * 128}, "$.exchange.result"),
    ({"result": "$..a..b"}, "$.exchange.result"),
    ({"error": "$[?match(@.a, '(a+)+')]"}, "$.exchange.error"),
    ({"failWhen": "$.a =="}, "$.exchange.failWhen"),
    ({"failWhen": []}, "$.exchange.failWhen"),
    ({"failWhen": [99]}, "$.exchange.failWhen[0]"),
    ({"failWhen": {}}, "$.exchange.failWhen"),
    ({"retryWhen": {"body": "search($.a, 'b')"}}, "$.exchange.retryWhen.body"),
    ({"busyWhen": {"contains": ""}}, "$.exchange.busyWhen.contains"),
    ({"request": {"method": "GET"}}, "$.exchange.request.method"),
    ({"request": {"url": "http://other/"}}, "$.exchange.request.url"),
    ({"request": {"url": "{task}"}}, "$.exchange.request.url"),
    ({"request": {"body": {"a": "$paylod"}}}, "$.exchange.request.body"),
    ({"request": {"body": "x" * 16_384}}, "$.exchange.request.body"),
    ({"request": {"body": ["$payload", "$payload"]}}, "$.exchange.request.body"),
    ({"request": {"headers": {f"X-{n}": "1" for n in range(21)}}}, "$.exchange.request.headers"),
    ({"request": {"headers": {"Authorization": "Bearer x"}}}, "$.exchange.request.headers.Authorization"),
    ({"request": {"headers": {"Content-Type": "x"}}}, "$.exchange.request.headers.Content-Type"),
    ({"request": {"headers": {"X-AI-Key": "x"}}}, "$.exchange.request.headers.X-AI-Key"),
    ({"request": {"headers": {"x-a": "1", "X-A": "2"}}}, "$.exchange.request.headers"),
    ({"request": {"headers": {"X-A": "a\r\nX-B: b"}}}, "$.exchange.request.headers[...]"),
    ({"accepted": {}}, "$.exchange.poll"),
    ({"poll": {"url": "{id}", "done": [200]}}, "$.exchange.accepted"),
    ({**POLLED, "poll": {"done": [200]}}, "$.exchange.poll.url"),
    ({**POLLED, "poll": {"url": "{id}"}}, "$.exchange.poll.done"),
    ({**POLLED, "poll": {"url": "status", "done": [200]}}, "$.exchange.poll.url"),
    ({**POLLED, "poll": {**POLLED["poll"], "interval": 0.1}}, "$.exchange.poll.interval"),
    ({**POLLED, "poll": {**POLLED["poll"], "resultUrl": "result"}}, "$.exchange.poll.resultUrl"),
    ({**POLLED, "poll": {**POLLED["poll"], "progress": "progress"}}, "$.exchange.poll.progress"),
    ({**POLLED, "cancel": {}}, "$.exchange.cancel.url"),
    ({**POLLED, "cancel": {"url": "interrupt"}}, "$.exchange.cancel.url"),
    ({**POLLED, "cancel": {"url": "stop", "body": {"delete": "$job"}}}, "$.exchange.cancel.body"),
    ({**POLLED, "accepted": {"id": "id"}}, "$.exchange.accepted.id"),
    ({"stream": {}}, "$.exchange.stream.done"),
    ({"stream": {"done": "$.done", "output": "$.choices[0].text"}}, "$.exchange.stream.output"),
]  # fmt: skip


async def test_what_is_wrong_in_an_exchange_is_refused_by_its_path(api: Service) -> None:
    for exchange, path in WRONG:
        refused = await api.admin.refusal("POST", "/api/servers", registration(exchange))
        assert refused == (400, path), exchange


async def test_an_exchange_is_of_the_dialect_bare(api: Service) -> None:
    for dialect in (None, "taskstream"):
        body = registration(POLLED, dialect=dialect)
        assert await api.admin.refusal("POST", "/api/servers", body) == (400, "$.exchange")
    assert await api.admin.refusal("POST", "/api/servers", {**BARE, "callback": True}) == (400, "$.callback")
    assert await api.admin.refusal("POST", "/api/servers", {**BARE, "async": True}) == (400, "$.async")


async def test_the_header_of_the_key_is_not_a_fixed_one(api: Service) -> None:
    fixed = {"request": {"headers": {"X-Key": "1"}}}
    body = registration(fixed, authHeader="x-key", apiKey="k")

    assert await api.admin.refusal("POST", "/api/servers", body) == (400, "$.exchange.request.headers.X-Key")


async def test_an_exchange_can_be_changed_and_removed(api: Service) -> None:
    await api.admin.done("POST", "/api/servers", {**BARE, "preset": "tei"})
    for change, path in (
        ({"dialect": "taskstream"}, "$.exchange"),
        ({"callback": True}, "$.callback"),
        ({"exchange": {"result": "x"}}, "$.exchange.result"),
    ):
        assert await api.admin.refusal("PATCH", "/api/servers/gpu-1", change) == (400, path)

    changed = await api.admin.call("PATCH", "/api/servers/gpu-1", {"exchange": POLLED})
    assert (changed["exchange"]["poll"]["url"], changed["preset"]) == ("{id}", None)
    removed = await api.admin.call("PATCH", "/api/servers/gpu-1", {"exchange": None, "dialect": "taskstream"})
    assert (removed["exchange"], removed["dialect"]) == (None, "taskstream")


async def test_a_preset_is_listed_with_a_registration_that_works(api: Service) -> None:
    listed = (await api.admin.get("/api/presets"))["presets"]

    assert [preset["name"] for preset in listed] == list(presets())
    for preset in listed:
        await api.admin.done("POST", "/api/servers", preset["registration"])
        shown = (await api.admin.get(f"/api/servers/{preset['registration']['id']}")).body
        assert (shown["preset"], shown["dialect"]) == (preset["name"], preset["dialect"])
        assert shown["exchange"] == preset["exchange"]


async def test_a_preset_is_expanded_in_the_log(api: Service) -> None:
    await api.admin.done("POST", "/api/servers", {**BARE, "preset": "tei", "exchange": {"result": "$[0]"}})

    shown = (await api.admin.get("/api/servers/gpu-1")).body

    assert shown["busyStatus"] == [429]
    assert shown["exchange"] == {"result": "$[0]", "error": "$.error", "retryWhen": [424]}


async def test_a_preset_that_does_not_exist_is_refused_with_those_that_do(api: Service) -> None:
    for name in ("bentoml", 7):
        answer = await api.admin.post("/api/servers", {**BARE, "preset": name})
        assert (answer.status, answer["path"]) == (400, "$.preset")
        assert "bentoml-task" in answer["error"]


async def test_presets_are_for_admins(api: Service) -> None:
    assert (await api.alice.get("/api/presets")).status == 403
