"""Query parameters: the declared ones are read, and nothing else is silently ignored."""

from __future__ import annotations

import re

import pytest

from taskstream.wire.validation_errors import nearest
from testkit.service import Answer, Service

OTHERS = {"/api/health", "/api/events"}
"""Monitoring adds parameters; a stream that never ends."""
IDS = {"task_id": "0" * 26 + "~x", "batch_id": "0" * 26 + "~x", "schedule_id": "0" * 26 + "~x"}


async def answers(service: Service, query: str, *, is_queue: bool) -> dict[str, Answer]:
    """Return the answer of each documented route of one kind to a query, without a valid body."""
    document = (await service.anonymous.get("/openapi.json")).body
    found = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in OTHERS or (operation["tags"] == ["Queue"]) != is_queue:
                continue
            if path.startswith("/api/"):
                named = re.sub(r"\{(\w+)\}", lambda each: IDS.get(each[1], "x"), path)
                found[f"{method} {path}"] = await service.admin.call(method.upper(), f"{named}?{query}", b"{")
    assert found
    return found


async def test_every_route_of_ours_refuses_an_unknown_parameter(api: Service) -> None:
    for route, answer in (await answers(api, "no-such=1", is_queue=False)).items():
        assert (answer.status, answer.body.get("path")) == (400, "no-such"), (route, answer)
        assert "unknown query parameter `no-such`" in answer["error"], route


async def test_every_route_of_older_clients_ignores_an_unknown_parameter(api: Service) -> None:
    """They add `?t=<ms>` to defeat caches."""
    for route, answer in (await answers(api, "t=1764460800000&t=2", is_queue=True)).items():
        assert "unknown query parameter" not in str(answer.body), (route, answer)
    assert (await api.alice.get("/api/active-tasks?t=1764460800000")).status == 200


async def test_a_misspelt_filter_selects_nothing_and_names_the_right_one(api: Service) -> None:
    answer = await api.alice.get("/api/tasks?statuss=FAILED")

    assert (answer.status, answer["path"]) == (400, "statuss")
    assert "did you mean `status`?" in answer["detail"]
    assert (await api.alice.get("/api/tasks?statuss=")).status == 400
    assert "payload.<name>" in (await api.alice.get("/api/tasks?label=eu"))["detail"]
    assert (await api.alice.get("/api/tasks?status=FAILED")).status == 200


async def test_no_text_in_a_parameter_is_an_internal_error(api: Service) -> None:
    document = (await api.anonymous.get("/openapi.json")).body
    asked = set()
    for path, operations in document["paths"].items():
        parameters = [each["name"] for each in operations.get("get", {}).get("parameters", ()) if each["in"] == "query"]
        if path.startswith("/api/") and path not in OTHERS and not path.endswith(("/events", "/stream")):
            named = re.sub(r"\{(\w+)\}", lambda each: IDS.get(each[1], "x"), path)
            asked |= {f"{named}?{name}={text}" for name in parameters for text in ("", "%00%FF", "9" * 30)}
    assert len(asked) > 100
    for request in sorted(asked):
        assert (await api.admin.get(request)).status < 500, request
    answer = await api.alice.get("/api/tasks?owner=")
    assert (answer.status, answer["path"]) == (400, "owner")


async def test_a_parameter_with_one_value_is_refused_twice(api: Service) -> None:
    answer = await api.alice.get("/api/tasks?limit=1&limit=2")

    assert (answer.status, answer["path"]) == (400, "limit")
    assert (await api.alice.get("/api/tasks?status=FAILED&status=WAITING&type=a&type=b")).status == 200


async def test_a_whole_number_is_digits(api: Service) -> None:
    task_id = await api.alice.submit({"a": 1})
    for path in ("/api/tasks?limit", f"/api/task/{task_id}?wait", f"/api/task/{task_id}/result?sequence"):
        name = path.rpartition("?")[2]
        for text in ("2.0", "1e1", "null", "true", "", "5_0", "%2B5", "%D9%A3"):
            assert await api.alice.refusal("GET", f"{path}={text}") == (400, name), (path, text)
        assert (await api.alice.get(f"{path}=1")).status in (200, 404)


async def test_a_stranger_learns_no_parameter(api: Service) -> None:
    assert (await api.anonymous.get("/api/tasks?statuss=FAILED")).status == 401


async def test_pages_without_a_token_ignore_what_monitoring_adds(api: Service) -> None:
    for path in ("/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/metrics"):
        assert (await api.anonymous.get(f"{path}?probe=7&probe=8")).status == 200, path


@pytest.mark.parametrize(
    ("given", "guess"),
    [
        ("statuss", "status"),
        ("STATUS", "status"),
        ("crated_after", "createdAfter"),
        ("q", None),
        ("x" * 100_000, None),
        ("", None),
    ],
    ids=["doubled", "case", "underscore", "short", "long", "empty"],
)
def test_the_nearest_name_is_suggested(given: str, guess: str | None) -> None:
    text = nearest(given, ["status", "createdAfter"])

    assert text == (f"; did you mean `{guess}`?" if guess else "") + "; known: status, createdAfter"
