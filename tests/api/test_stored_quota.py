"""The quota of stored bytes: a user at it is refused with 429, results are kept, and others notice nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from taskstream.clock import utc_now
from taskstream.container import Container
from taskstream.projections.usage import OF_SCHEDULES, OF_TASKS, Usage, decode, encode, first_day
from taskstream.submission import stored_bytes
from testkit.backend import BackendServer
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

from .test_reports import update

LIMIT = 2_000_000
PAYLOAD = {"text": "x" * 300_000}


def this_day() -> int:
    """Return the present day, which is another one if the tests run over midnight."""
    return first_day(utc_now(), timedelta(microseconds=1))


@pytest.fixture
async def limited(nats_url: str) -> AsyncIterator[Service]:
    """A service whose users may store two megabytes each."""
    async with running_service(nats_url, owner_stored=LIMIT) as service:
        yield service


async def quota(client: Client, policy: str = "stored", path: str = "/api/quotas") -> dict[str, Any]:
    """Return a quota of a user."""
    quotas = {each["policy"]: each for each in (await client.done("GET", path))["quotas"]}
    assert set(quotas) == {"waiting", "stored", "streams"}
    return quotas[policy]


async def has_stored(container: Container, days: dict[int, int], owner: str = "alice") -> None:
    """Set what an owner has stored, by day."""
    await container.buckets.usage.put(OF_TASKS.key(owner), encode(Usage(upto=0, days=days)))


async def test_a_user_at_the_quota_is_refused_and_a_second_one_submits_and_reads(limited: Service) -> None:
    refused = None
    for number in range(10):
        answer = await limited.alice.post("/api/task", {"payload": PAYLOAD})
        assert (await limited.bob.post("/api/task", {"a": number})).status == 200
        assert len((await limited.bob.done("GET", "/api/tasks"))["tasks"]) == number + 1
        if answer.status != 200:
            refused = answer
            break

    assert refused is not None
    assert number == 6
    assert (refused.status, refused["violated-policies"]) == (429, ["stored"])
    assert "of 2,000,000 stored bytes" in refused["detail"]
    assert "ask an administrator to raise your limit `stored`" in refused["detail"]
    assert refused.headers["RateLimit-Policy"] == f'"stored";q={LIMIT}'
    assert refused.headers["RateLimit"].startswith('"stored";r=')
    assert refused.headers["Retry-After"] == "3600"
    assert (await quota(limited.alice))["used"] == pytest.approx(6 * 301_500, rel=0.02)
    assert (await quota(limited.alice))["limit"] == LIMIT
    assert len(await limited.alice.tasks()) == 6


async def test_what_is_submitted_at_once_does_not_pass_the_quota(limited: Service) -> None:
    batch = [{"payload": PAYLOAD}] * 2
    sent = [limited.alice.post("/api/task", {"payload": PAYLOAD}) for _ in range(10)]
    sent += [limited.alice.post("/api/tasks/batch", batch) for _ in range(5)]
    answers, bobs = await asyncio.gather(asyncio.gather(*sent), limited.bob.post("/api/task", {"a": 1}))

    assert {answer.status for answer in answers} == {200, 429}
    assert len(await limited.alice.tasks()) == 6
    assert bobs.status == 200


async def test_every_way_in_is_refused_at_the_quota(limited: Service) -> None:
    failed, waiting = await limited.alice.submit({"a": 1}), await limited.alice.submit({"a": 2})
    await limited.alice.done("POST", f"/api/task/{failed}/cancel")
    headers = {"X-AI-Provider": "p", "X-AI-Model": "m", "X-AI-Key": "k"}
    schedule = {"name": "s", "cron": "0 0 1 1 *", "task": {"payload": {}}}
    created = await limited.alice.done("POST", "/api/schedules", schedule)
    hook = await limited.alice.done("POST", "/api/webhooks", {"url": "http://127.0.0.1:1/"})
    await limited.admin.done("PUT", "/api/owners/alice/limits", {"stored": 1})

    answers = [
        await limited.alice.post("/api/task", {"a": 1}),
        await limited.alice.post("/api/tasks/batch", [{"payload": {}}]),
        await limited.alice.post("/api/projects/p/queue-chapters", {}, headers=headers),
        await limited.alice.post(f"/api/schedules/{created['id']}/run"),
        await limited.alice.post(f"/api/task/{failed}/retry"),
        await limited.alice.put(f"/api/task/{waiting}", update("PROCESSING", custom_data="z")),
        await limited.alice.post("/api/schedules", schedule),
        await limited.alice.call("PATCH", f"/api/schedules/{created['id']}", {"name": "t"}),
        await limited.alice.post("/api/webhooks", {"url": "http://127.0.0.1:1/"}),
        await limited.alice.call("PATCH", f"/api/webhooks/{hook['webhook']['id']}", {"description": "t"}),
        await limited.alice.post(f"/api/webhooks/{hook['webhook']['id']}/secret"),
        await limited.alice.post(f"/api/webhooks/{hook['webhook']['id']}/test"),
    ]

    assert [answer.status for answer in answers] == [429] * 12
    assert (await limited.client("backend", "service").put(f"/api/task/{waiting}", update("PROCESSING"))).status == 200
    assert {answer["violated-policies"][0] for answer in answers} == {"stored"}
    bulk = await limited.alice.done("POST", "/api/tasks/retry", {"ids": [failed]})
    assert "stored bytes" in bulk["refused"][0]["reason"]
    # What stops work is always possible.
    assert (await limited.alice.done("POST", f"/api/schedules/{created['id']}/pause"))["paused"] is True
    assert (await limited.alice.post(f"/api/schedules/{created['id']}/resume")).status == 429
    disabled = await limited.alice.call("PATCH", f"/api/webhooks/{hook['webhook']['id']}", {"active": False})
    assert (disabled.status, disabled["active"]) == (200, False)
    await limited.alice.done("DELETE", f"/api/schedules/{created['id']}")
    await limited.alice.done("DELETE", f"/api/webhooks/{hook['webhook']['id']}")


async def test_a_user_cannot_fill_the_disk_by_changing_one_schedule_for_ever(limited: Service) -> None:
    schedule = {"name": "s", "cron": "0 0 1 1 *", "task": {"payload": PAYLOAD}}
    created = await limited.alice.done("POST", "/api/schedules", schedule)
    statuses = []
    for number in range(10):
        answer = await limited.alice.call("PATCH", f"/api/schedules/{created['id']}", {"name": f"s{number}"})
        statuses.append(answer.status)
        assert (await limited.bob.post("/api/task", {"a": number})).status == 200

    assert statuses == [200] * 5 + [429] * 5
    assert LIMIT - 400_000 < (await quota(limited.alice))["used"] <= LIMIT

    async def is_projected() -> bool:
        entry = await limited.container.buckets.usage.get(OF_SCHEDULES.key("alice"))
        return entry is not None and sum(decode(entry.value).days.values()) > 6 * 300_000

    await wait_until(is_projected, "the events of the schedule to be counted")
    usage = limited.container.submissions.stored
    usage._owners.clear()  # as in a process that stored nothing of it
    assert (await limited.alice.call("PATCH", f"/api/schedules/{created['id']}", {"name": "x"})).status == 429
    assert (await limited.alice.done("DELETE", f"/api/schedules/{created['id']}"))["success"] is True


async def test_an_outcome_is_kept_though_its_owner_is_over_the_quota(limited: Service, backend: BackendServer) -> None:
    task_id = await limited.alice.submit({"a": 1})
    await limited.admin.done("PUT", "/api/owners/alice/limits", {"stored": 1})
    body = json.dumps(update("FINISHED", "z" * 5_000_000)).encode()

    assert (await limited.client("backend", "service").put(f"/api/task/{task_id}", body)).status == 200
    assert len((await limited.alice.details(task_id))["result"]["data"]) == 5_000_000
    assert (await limited.alice.post("/api/task", {"a": 2})).status == 429

    async def is_counted() -> bool:
        return bool((await quota(limited.alice))["used"] > 5_000_000)

    await wait_until(is_counted, "the result to be counted")


async def test_retention_frees_and_the_refusal_says_when(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_bytes, "BELIEVED_SECONDS", 0.0)
    settings = {"owner_stored": LIMIT, "task_retention": 2 * 86_400.0, "worker": False}
    async with running_service(nats_url, **settings) as service:
        today = this_day()
        await has_stored(service.container, {today - 2: LIMIT, today - 3: 10 * LIMIT})
        refused = await service.alice.post("/api/task", {"a": 1})
        shown = await quota(service.alice)

        assert refused.status == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 86_400
        assert "The oldest are freed on " in refused["detail"]
        assert shown["used"] == LIMIT
        assert shown["freesAt"] == (today + 1) * 86_400_000

        await has_stored(service.container, {today - 3: 10 * LIMIT})
        await quota(service.alice)
        assert (await service.alice.post("/api/task", {"a": 1})).status == 200


async def test_a_raised_limit_counts_at_once_and_none_is_no_limit(limited: Service) -> None:
    await has_stored(limited.container, {this_day(): LIMIT})
    assert (await limited.alice.post("/api/task", {"a": 1})).status == 429

    await limited.admin.done("PUT", "/api/owners/alice/limits", {"stored": 2 * LIMIT})
    assert (await limited.alice.post("/api/task", {"a": 1})).status == 200
    await limited.admin.done("PUT", "/api/owners/alice/limits", {"stored": 0})
    assert (await quota(limited.alice))["limit"] is None
    assert (await limited.alice.post("/api/task", {"a": 1})).status == 200


async def test_submissions_read_the_usage_seldom(limited: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_bytes, "BELIEVED_SECONDS", 3600.0)
    reads = 0
    get_many = limited.container.buckets.usage.get_many

    async def counted(keys: list[str]) -> Any:
        nonlocal reads
        reads += 1
        return await get_many(keys)

    monkeypatch.setattr(limited.container.buckets.usage, "get_many", counted)
    for number in range(20):
        await limited.alice.submit({"a": number})

    assert reads == 1


async def test_most_of_a_quota_used_is_a_warning_without_a_name(limited: Service) -> None:
    await has_stored(limited.container, {this_day(): int(0.85 * LIMIT)})
    await limited.alice.submit({"a": 1})

    warnings = (await limited.anonymous.done("GET", "/health/ready"))["warnings"]

    assert [text for text in warnings if text.startswith("an owner has used more than 80 %")]
    assert "alice" not in json.dumps(warnings)


async def test_quotas_are_shown_to_their_owner_and_to_admins(limited: Service) -> None:
    await limited.alice.submit({"a": 1})

    own = await limited.alice.done("GET", "/api/quotas")
    assert own["owner"] == "alice"
    assert await limited.alice.done("GET", "/api/owners/alice/quotas") == own
    for reader in (limited.admin, limited.auditor):
        assert (await quota(reader, path="/api/owners/alice/quotas"))["used"] > 0
    assert (await limited.bob.get("/api/owners/alice/quotas")).status == 403
    assert (await quota(limited.alice, "waiting"))["limit"] == 100_000
    assert (await quota(limited.alice, "waiting"))["used"] == 1
