"""Filters of tasks: the same one selects the same tasks in lists, bulk commands and dead letters."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskstream.errors import InvalidInput
from taskstream.index import search
from taskstream.instants import EPOCH, LAST_MILLISECOND, from_milliseconds, iso, milliseconds, parse_instant
from taskstream.wire.fields import filter_instant
from testkit.backend import BackendServer, status
from testkit.queue_surface import MODEL
from testkit.service import Client, Service

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
instants = st.integers(0, LAST_MILLISECOND)


# Instants


@given(instants, st.integers(-14 * 60, 14 * 60))
@example(0, 0)
@example(LAST_MILLISECOND, 0)
def test_an_instant_is_the_same_however_it_is_written(number: int, offset_minutes: int) -> None:
    at = from_milliseconds(number)

    assert parse_instant(number, NOW) == parse_instant(str(number), NOW) == parse_instant(iso(at), NOW) == at
    moved = at + timedelta(minutes=offset_minutes) if 10**9 < number < LAST_MILLISECOND - 10**9 else at
    zone = f"{'-' if offset_minutes < 0 else '+'}{abs(offset_minutes) // 60:02}:{abs(offset_minutes) % 60:02}"
    if moved != at:
        assert parse_instant(moved.isoformat().replace("+00:00", zone), NOW) == at


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1h", timedelta(hours=1)),
        ("-1h", timedelta(hours=1)),
        ("2d", timedelta(days=2)),
        ("1w", timedelta(weeks=1)),
        ("0s", timedelta()),
    ],
)
def test_a_time_ago_is_before_now(text: str, ago: timedelta) -> None:
    assert parse_instant(text, NOW) == NOW - ago


def test_a_time_ago_before_1970_is_1970() -> None:
    assert parse_instant("999999999w", NOW) == EPOCH


WRONG = ["", "yesterday", "1 h", "1H", "h", "1y", "--1h", "+1h", "٣h", "1.5h", "2026-01-31", "2026-01-31T12:00:00"]
WRONG += [
    "-1",
    "1e3",
    str(LAST_MILLISECOND + 1),
    "9" * 400,
    "9999-12-31T23:59:59-23:00",
    "2026-13-01T00:00:00Z",
    "1h\n",
]


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_other_text_is_no_instant_and_the_error_says_what_is(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"createdAfter: must be .* ISO 8601 .* or a time ago, as in 90s"):
        filter_instant(text, NOW, "createdAfter")


def test_a_plus_sign_that_the_url_lost_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"write `[+]` as %2B"):
        filter_instant("2026-01-31T12:00:00 01:00", NOW, "createdAfter")


# The same filter everywhere


async def listed(client: Client, path: str, **wanted: Any) -> set[str]:
    found = await client.listed(path, "deadLetters" if "dead" in path else "tasks", urlencode(wanted, doseq=True))
    return {task["id"] for task in found}


async def test_a_list_and_a_bulk_command_select_the_same_tasks(api: Service) -> None:
    for number in range(2):
        await api.alice.submit({"type": f"t{number}", "payload": number})
    middle = milliseconds(datetime.now(UTC)) + 1
    await asyncio.sleep(0.005)
    batch = (await api.alice.post("/api/tasks/batch", [{"n": 1}, {"n": 2}]))["batchId"]
    await api.alice.post("/api/projects/novel/queue-chapters", {}, headers=MODEL)
    schedule = (await api.alice.post("/api/schedules", {"cron": "@yearly", "task": {"payload": 1}}))["id"]
    await api.alice.done("POST", f"/api/schedules/{schedule}/run")
    await api.bob.submit({"a": 1})
    at = from_milliseconds(middle)
    filters: list[tuple[dict[str, Any], int]] = [
        ({"type": ["t0", "t1"]}, 2),
        ({"status": ["WAITING", "FAILED"]}, 6),
        ({"status": ["FAILED"]}, 0),
        ({"batch": batch}, 2),
        ({"schedule": schedule}, 1),
        ({"project": "novel"}, 1),
        ({"createdAfter": middle}, 4),
        ({"createdAfter": str(middle)}, 4),
        ({"createdAfter": iso(at)}, 4),
        ({"createdAfter": at.astimezone().isoformat()}, 4),
        ({"createdAfter": "1h"}, 6),
        ({"createdBefore": middle}, 2),
        ({"createdBefore": "1h"}, 0),
        ({"createdBefore": "2999-01-01T00:00:00+01:00", "type": ["t1"]}, 1),
        ({"batch": batch, "createdBefore": middle}, 0),
        ({"owner": "alice", "type": ["t0"]}, 1),
    ]

    for wanted, count in filters:
        answer = await api.alice.done("POST", "/api/tasks/cancel", {"filter": wanted, "dryRun": True})
        assert (len(await listed(api.alice, "/api/tasks", **wanted)), answer["matched"]) == (count, count), wanted
        for owner in ("alice", "*"):
            everywhere = {"createdAfter": "1d", **wanted, "owner": owner}
            answer = await api.admin.done("POST", "/api/tasks/cancel", {"filter": everywhere, "dryRun": True})
            assert len(await listed(api.admin, "/api/tasks", **everywhere)) == answer["matched"], everywhere

    for name in ("createdAfter", "createdBefore", "batch", "schedule"):
        assert await api.alice.refusal("GET", f"/api/tasks?{name}=x") == (400, name)
        body = {"filter": {name: "x"}}
        assert await api.alice.refusal("POST", "/api/tasks/cancel", body) == (400, f"$.filter.{name}")
    assert (await api.bob.get(f"/api/tasks?batch={batch}")).status == 404
    pages = await api.alice.pages("/api/tasks", "tasks", f"batch={batch}&limit=1")
    assert [len(page) for page in pages] == [1, 1]


async def test_every_filter_selects_and_combines_in_lists_counts_and_commands(api: Service) -> None:
    await api.admin.put("/api/types/order", {"indexed": ["$.customer", "$.order.id"], "pool": "shop"})
    labelled = {"type": "order", "payload": {"customer": "acme", "order": {"id": 7}}, "require": {"region": "eu"}}
    first = await api.alice.submit(labelled | {"priority": "high", "concurrencyKey": "k"})
    second = await api.alice.submit({"type": "order", "payload": {"customer": "x"}, "prefer": {"region": "us"}})
    third = await api.alice.submit({"payload": {"customer": "acme"}, "runAt": "2099-01-01T00:00:00Z"})
    child = await api.alice.submit({"payload": 1, "dependsOn": [third]})
    await api.alice.done("PUT", f"/api/task/{second}", {"metadata": {"status": "PROCESSING", "server_id": "gpu 1"}})
    failed = {"status": "FAILED", "server_id": "gpu 1", "message": "CUDA out of memory"}
    await api.alice.done("PUT", f"/api/task/{second}", {"metadata": failed})
    await api.bob.submit(labelled)
    everything = {first, second, third, child}
    filters: list[tuple[dict[str, Any], set[str]]] = [
        ({"label.region": "eu"}, {first}),
        ({"label.region": "us", "type": "order"}, {second}),
        ({"payload.customer": "acme"}, {first}),
        ({"payload.order.id": "7", "payload.customer": "acme", "label.region": "eu"}, {first}),
        ({"payload.order.id": "8"}, set()),
        ({"pool": ["shop", "default"]}, everything),
        ({"pool": "shop", "priority": "high"}, {first}),
        ({"type": "order,default", "pool": "shop,other"}, {first, second}),
        ({"kind": "failed"}, {second}),
        ({"error": "cuda OUT"}, {second}),
        ({"error": "%"}, set()),
        ({"attempts": 1}, {second}),
        ({"attempts": 2}, set()),
        ({"hold": "time"}, {third}),
        ({"hold": "time,parents"}, {third, child}),
        ({"key": "k"}, {first}),
        ({"id": first[:20]}, {first}),
        ({"id": first}, {first}),
        ({"id": first[:4]}, everything),
        ({"createdSince": "1h", "startedSince": "1h", "endedSince": "1h", "updatedSince": "1h"}, {second}),
        ({"startedBefore": "1h"}, set()),
        ({"endedBefore": "2999-01-01T00:00:00Z"}, {second}),
        ({"updatedBefore": "1h"}, set()),
        ({"minRun": 0}, {second}),
        ({"minRun": 0.001}, {second}),
        ({"minRun": 3600}, set()),
        ({"minRun": "1.5h"}, set()),
        ({"status": "WAITING", "type": "default", "hold": "parents"}, {child}),
    ]
    for wanted, ids in filters:
        assert await listed(api.alice, "/api/tasks", **wanted) == ids, wanted
        counted = await api.alice.done("GET", f"/api/tasks/count?by=status&{urlencode(wanted, doseq=True)}")
        assert (counted["count"], counted["capped"]) == (len(ids), False), wanted
        assert sum(group["count"] for group in counted["by"]) == len(ids), wanted
        body: dict[str, Any] = {}
        for name, value in wanted.items():
            if name.startswith(("label.", "payload.")):
                group, _, key = name.partition(".")
                body.setdefault("labels" if group == "label" else "payload", {})[key] = value
            else:
                body[name] = value.split(",") if name in LISTS and isinstance(value, str) else value
        answer = await api.alice.done("POST", "/api/tasks/cancel", {"filter": body, "dryRun": True})
        assert answer["matched"] == len(ids), wanted
    page = await api.alice.done("GET", "/api/tasks?count=true&limit=1&sort=created")
    assert ([task["id"] for task in page["tasks"]], page["total"]) == ([first], {"count": 4, "capped": False})
    assert page["asOf"] > 0
    by_end = await api.alice.done("GET", "/api/tasks?sort=-ended")
    assert [task["id"] for task in by_end["tasks"]] == [second]
    by_owner = await api.admin.done("GET", "/api/tasks/count?by=owner&type=order")
    assert by_owner["by"] == [
        {"value": "alice", "count": 2, "capped": False},
        {"value": "bob", "count": 1, "capped": False},
    ]
    named = api.client("auth0|Ann")
    await named.submit({"type": "order", "payload": {"n": 1}})
    by_owner = await api.admin.done("GET", "/api/tasks/count?by=owner&type=order")
    assert {"value": "auth0|Ann", "count": 1, "capped": False} in by_owner["by"], "the `sub`, as in a list"


async def test_counts_by_type_are_of_the_types_with_the_most_tasks_and_of_the_callers_own(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PROBED", 1)  # as if there were very many tasks
    monkeypatch.setattr(search, "MOST_GROUPS", 2)
    for name in ("a", "b", "c"):
        await api.bob.submit({"type": name, "payload": {}})
    for name in ("x", "y", "y"):
        await api.alice.submit({"type": name, "payload": {}})

    own = await api.alice.done("GET", "/api/tasks/count?by=type&createdSince=1d")
    assert ([(each["value"], each["count"]) for each in own["by"]], own["more"]) == ([("y", 2), ("x", 1)], False)
    everybodys = await api.admin.done("GET", "/api/tasks/count?by=type&createdSince=1d")
    assert ([(each["value"], each["count"]) for each in everybodys["by"]], everybodys["more"]) == (
        [("y", 2), ("a", 1)],
        True,
    )


LISTS = ("status", "type", "pool", "server", "priority", "kind", "hold")


MEANINGLESS = [
    ("sort=size", "sort"),
    ("sort=--ended", "sort"),
    ("cursor=created.1&sort=-ended", "cursor"),
    ("cursor=5&sort=-ended", "cursor"),
    ("kind=none", "kind"),
    ("hold=never", "hold"),
    ("priority=urgent", "priority"),
    ("attempts=x", "attempts"),
    ("attempts=-1", "attempts"),
    ("minRun=1y", "minRun"),
    ("minRun=-1", "minRun"),
    ("minRun=367d", "minRun"),
    ("endedSince=soon", "endedSince"),
    ("createdSince=1h&createdAfter=1h", "createdSince"),
    ("label.=x", "label."),
    ("labels.a=x", "labels.a"),
    ("label.a=x&label.a=y", "label.a"),
    ("&".join(f"payload.f{number}=x" for number in range(9)), "payload.*"),
]


async def test_a_filter_that_means_nothing_is_refused_by_its_name(api: Service) -> None:
    for query, path in MEANINGLESS:
        assert await api.alice.refusal("GET", f"/api/tasks?{query}") == (400, path)


async def test_dead_letters_take_the_filters_of_tasks(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one", types=["default"])
    backend.answer = status(400)
    batch = (await service.alice.post("/api/tasks/batch", [{"n": 1}, {"n": 2}]))["batchId"]
    [*_, other] = ids = [each["id"] for each in await service.alice.tasks()] + [await service.alice.submit({"n": 3})]
    for task_id in ids:
        await service.alice.reaches(task_id, "FAILED")

    filters: list[tuple[dict[str, Any], int]] = [
        ({}, 3),
        ({"batch": batch}, 2),
        ({"project": "novel"}, 0),
        ({"type": ["default"], "kind": ["rejected"]}, 3),
        ({"createdAfter": "1h", "since": "1h"}, 3),
        ({"createdBefore": "1h"}, 0),
        ({"before": "30m"}, 0),
        ({"since": iso(NOW)}, 3),
        ({"endedSince": iso(NOW), "status": ["FAILED"], "server": ["one"], "error": "400"}, 3),
        ({"server": ["two"]}, 0),
        ({"since": milliseconds(NOW), "before": "2999-01-01T00:00:00Z"}, 3),
    ]
    for wanted, count in filters:
        answer = await service.alice.done("POST", "/api/dead-letters/retry", {"filter": wanted, "dryRun": True})
        assert (len(await listed(service.alice, "/api/dead-letters", **wanted)), answer["matched"]) == (count, count)
    assert other in await listed(service.admin, "/api/dead-letters", owner="*")
    assert await service.alice.refusal("GET", "/api/dead-letters?since=soon") == (400, "since")
