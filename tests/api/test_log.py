"""The log over HTTP: all logs in order, backwards and forwards from any place, filtered, in bounded work."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.api import log_query
from taskstream.projections import log_pages
from testkit.backend import BackendServer
from testkit.service import Client, Service
from testkit.waiting import wait_until

NOWHERE = {"predict": "http://127.0.0.1:9/predict"}


async def page(client: Client, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = await client.done("GET", f"/api/log?{query}")
    return found


async def read_all(client: Client, query: str, direction: str) -> list[list[dict[str, Any]]]:
    """Return all pages: `before` goes back from the end, `after` forward from the beginning."""
    pages = []
    place = "" if direction == "before" else "&after=0"
    while True:
        found = await page(client, query + place)
        pages.append(found["entries"])
        following = found["nextBefore"] if direction == "before" else found["nextAfter"]
        if not found["more"]:
            return pages
        assert following
        place = f"&{direction}={following}"


def key(entry: dict[str, Any]) -> tuple[str, int]:
    return entry["log"], entry["sequence"]


def events(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["event"] for entry in entries]


async def fill(api: Service) -> dict[str, str]:
    """Make events in all logs, by several users."""
    await api.admin.done("PUT", "/api/types/resize", {"pool": "gpu"})
    body = {"id": "gpu.1", "name": "one", "provider": "test", "endpoints": NOWHERE}
    await api.admin.done("POST", "/api/servers", body)
    of_alice = await api.alice.submit({"type": "resize", "payload": {"secret": "of alice"}})
    of_bob = await api.bob.submit({"payload": 1})
    await api.bob.done("POST", f"/api/task/{of_bob}/cancel", {"reason": "no need"})
    schedule = {"name": "s", "cron": "0 0 1 1 *", "task": {"payload": {"secret": "of the schedule"}}}
    schedule_id = (await api.alice.done("POST", "/api/schedules", schedule))["id"]
    hook = {"url": "http://127.0.0.1:9/", "events": ["task.failed"]}
    webhook_id = (await api.bob.done("POST", "/api/webhooks", hook))["webhook"]["id"]
    await api.admin.done("PUT", "/api/owners/alice/limits", {"concurrency": 3})
    return {"alice": of_alice, "bob": of_bob, "schedule": schedule_id, "webhook": webhook_id}


async def test_all_logs_are_one_newest_first(api: Service) -> None:
    ids = await fill(api)

    found = await page(api.auditor)

    assert events(found["entries"]) == [
        "OwnerLimited", "WebhookRegistered", "ScheduleCreated", "TaskCancelled", "TaskSubmitted", "TaskSubmitted",
        "ServerRegistered", "TypeDefined",
    ]  # fmt: skip
    assert [entry["subject"] for entry in found["entries"]] == [
        {"kind": "owner", "id": "alice"}, {"kind": "webhook", "id": ids["webhook"]},
        {"kind": "schedule", "id": ids["schedule"]}, {"kind": "task", "id": ids["bob"]},
        {"kind": "task", "id": ids["bob"]}, {"kind": "task", "id": ids["alice"]},
        {"kind": "server", "id": "gpu.1"}, {"kind": "type", "id": "resize"},
    ]  # fmt: skip
    times = [entry["at"] for entry in found["entries"]]
    assert times == sorted(times, reverse=True)
    assert (found["nextBefore"], found["more"], found["searched"], found["expired"]) == (None, False, 8, {})


async def test_an_entry_says_by_whom_and_why_and_has_sizes_instead_of_bodies(api: Service) -> None:
    ids = await fill(api)
    answer = await api.bob.post("/api/task", {"payload": 1}, headers={"X-Request-Id": "r-1"})

    cancelled, *_ = (await page(api.admin, f"subject=task:{ids['bob']}"))["entries"]
    whole = str(await page(api.admin))

    assert cancelled["by"] == {"kind": "user", "id": "bob"}
    assert cancelled["data"]["reason"] == "no need"
    submitted = (await page(api.admin, "log=tasks&limit=1"))["entries"][0]
    assert submitted["cause"] == answer.headers["X-Request-Id"]
    assert submitted["sizes"] == {"payload": 1}
    assert "of alice" not in whole
    assert "of the schedule" not in whole
    [schedule] = (await page(api.admin, "log=schedules"))["entries"]
    assert schedule["data"]["settings"]["cron"] == "0 0 1 1 *"
    assert schedule["sizes"]["settings.task"] > 0


@pytest.mark.parametrize("direction", ["before", "after"])
@pytest.mark.parametrize("limit", [1, 3, 500])
async def test_pages_have_no_gaps_and_no_doubles_in_either_direction(api: Service, direction: str, limit: int) -> None:
    await fill(api)
    whole = [key(entry) for entry in (await page(api.admin, "limit=500"))["entries"]]

    pages = await read_all(api.admin, f"limit={limit}", direction)

    found = [key(entry) for each in pages for entry in each]
    assert found == (whole if direction == "before" else whole[::-1])
    assert all(len(each) <= limit for each in pages)


async def test_a_page_that_may_search_little_goes_on_where_it_stopped(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(api)
    for number in range(20):
        await api.alice.submit({"payload": number})
    monkeypatch.setattr(log_pages, "STEP", 3)
    monkeypatch.setattr(log_pages, "Work", SmallWork)

    for direction in ("before", "after"):
        pages = await read_all(api.admin, "event=TypeDefined", direction)
        assert [events(each) for each in pages if each] == [["TypeDefined"]]
        assert len(pages) > 2


class SmallWork(log_pages.Work):
    """What three reads may search."""

    messages: int = 9


async def test_new_entries_come_after_the_cursor_of_the_newest_page(api: Service) -> None:
    await fill(api)
    newest = await page(api.admin, "limit=2")
    assert (await page(api.admin, f"after={newest['nextAfter']}"))["entries"] == []

    await api.admin.done("POST", "/api/pools/gpu/pause", {"reason": "new driver"})
    await api.bob.submit({"payload": 1})

    following = await page(api.admin, f"after={newest['nextAfter']}")
    assert events(following["entries"]) == ["PoolPaused", "TaskSubmitted"]
    assert not following["more"]
    assert (await page(api.admin, f"after={following['nextAfter']}"))["entries"] == []


async def test_one_reads_from_any_entry_and_any_instant(api: Service) -> None:
    await fill(api)
    whole = (await page(api.admin))["entries"]
    place = next(number for number, entry in enumerate(whole) if entry["event"] == "TaskCancelled")
    middle = whole[place]

    older = await page(api.admin, f"before=tasks:{middle['sequence']}")
    newer = await page(api.admin, f"after=tasks:{middle['sequence']}")

    assert [key(entry) for entry in older["entries"]] == [key(entry) for entry in whole[place + 1 :]]
    assert [key(entry) for entry in newer["entries"]] == [key(entry) for entry in whole[:place][::-1]]
    since = await page(api.admin, f"since={middle['at']}")
    assert {key(entry) for entry in since["entries"]} >= {key(entry) for entry in whole[:place]}
    assert all(entry["at"] >= middle["at"] for entry in since["entries"])
    until = await page(api.admin, f"until={middle['at']}")
    assert all(entry["at"] < middle["at"] for entry in until["entries"])
    assert (await page(api.admin, "before=1h"))["entries"] == []
    assert (await page(api.admin, "since=1970-01-01T00:00:00Z&until=1h"))["entries"] == []
    assert (await page(api.admin, "until=9999-12-31T23:59:59Z"))["entries"]
    assert (await page(api.admin, "after=9999-12-31T23:59:59Z"))["entries"] == []


async def test_entries_are_filtered_by_log_event_actor_and_subject(api: Service) -> None:
    ids = await fill(api)

    async def found(query: str) -> list[str]:
        return events((await page(api.admin, query))["entries"])

    assert await found("log=fleet") == ["OwnerLimited", "ServerRegistered", "TypeDefined"]
    assert await found("log=schedules,webhooks") == ["WebhookRegistered", "ScheduleCreated"]
    assert await found("event=TaskCancelled,TypeDefined") == ["TaskCancelled", "TypeDefined"]
    assert await found("actor=bob") == ["WebhookRegistered", "TaskCancelled", "TaskSubmitted"]
    assert await found("actor=user:alice") == ["ScheduleCreated", "TaskSubmitted"]
    assert await found("actor=worker:") == []
    assert await found("subject=server:gpu.1") == ["ServerRegistered"]
    assert await found("subject=type:") == ["TypeDefined"]
    assert await found("subject=owner:alice") == ["OwnerLimited"]
    assert await found(f"subject=task:{ids['bob']}&event=TaskSubmitted") == ["TaskSubmitted"]
    assert await found("log=tasks&subject=server:gpu.1") == []


async def test_users_see_what_is_theirs_and_nothing_else(api: Service) -> None:
    ids = await fill(api)

    of_alice = (await page(api.alice))["entries"]

    assert events(of_alice) == ["OwnerLimited", "ScheduleCreated", "TaskSubmitted"]
    assert events((await page(api.bob))["entries"]) == ["WebhookRegistered", "TaskCancelled", "TaskSubmitted"]
    for subject in (f"task:{ids['bob']}", f"webhook:{ids['webhook']}", "server:gpu.1", "type:resize", "owner:bob"):
        assert (await page(api.alice, f"subject={subject}"))["entries"] == []
        assert (await page(api.alice, f"subject={subject}"))["searched"] == 0
    assert (await page(api.alice, "actor=bob"))["entries"] == []
    assert (await page(api.client("nobody")))["entries"] == []
    assert (await api.anonymous.get("/api/log")).status == 401


async def test_an_owner_with_many_tasks_sees_the_same_by_searching(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(api)
    by_subject = await read_all(api.alice, "limit=1", "before")
    monkeypatch.setattr(log_query, "FEW_TASKS", 0)

    searched = await read_all(api.alice, "limit=1", "before")

    assert [key(entry) for each in searched for entry in each] == [key(entry) for each in by_subject for entry in each]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("log=others", "log"), ("event=TaskExploded", "event"), ("subject=gpu-3", "subject"),
        ("subject=task:1", "subject"),
        ("before=yesterday", "before"), ("after=tasks:999999", "after"), ("before=tasks:0", "before"),
        ("before=1.1&after=1.1", "after"),
        ("limit=501", "limit"), ("actor=", "actor"), ("since=soon", "since"),
    ],
)  # fmt: skip
async def test_a_query_that_makes_no_sense_is_refused_where_it_does_not(api: Service, query: str, path: str) -> None:
    assert await api.admin.refusal("GET", f"/api/log?{query}") == (400, path)


async def test_what_a_server_wrote_comes_with_the_attempts(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": 1})
    await service.alice.ended(task_id)

    found = (await page(service.alice, f"subject=task:{task_id}"))["entries"]

    assert events(found)[0] == "TaskSucceeded"
    assert found[0]["by"]["kind"] in ("server", "worker")
    assert found[0]["sizes"]["result"] > 0


async def test_large_payloads_make_short_reads_and_leave_nothing_out(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_pages, "MOST_BYTES", 3_000_000)
    for number in range(9):
        await api.alice.submit({"payload": str(number) * 700_000})
    whole = [("tasks", sequence) for sequence in range(9, 0, -1)]

    back = await read_all(api.admin, "limit=500", "before")
    forth = await read_all(api.admin, "limit=500", "after")

    assert [key(entry) for each in back for entry in each] == whole
    assert [key(entry) for each in forth for entry in each] == whole[::-1]


async def test_operations_are_in_the_log_of_who_started_them(api: Service) -> None:
    task_id = await api.alice.submit({"payload": 1})
    started = await api.alice.done("POST", "/api/operations", {"action": "cancel", "ids": [task_id], "reason": "late"})

    async def look() -> list[dict[str, Any]]:
        return list((await page(api.alice, "log=operations&event=OperationStarted"))["entries"])

    [entry] = await wait_until(look, "the operation in the log")
    assert entry["subject"] == {"kind": "operation", "id": started["id"]}
    assert (entry["by"], entry["data"]["reason"]) == ({"kind": "user", "id": "alice"}, "late")
    assert entry["sizes"]["ids"] > 0
    assert (await page(api.bob, "log=operations"))["entries"] == []
    assert (await page(api.bob, f"subject=operation:{started['id']}"))["searched"] == 0
