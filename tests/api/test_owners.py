"""Owners' limits over HTTP: admins set them, each owner reads their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from taskstream.events.limits import Limits
from taskstream.projections.fleet import Fleet
from testkit.queue_surface import MODEL
from testkit.service import Answer, Service, running_service
from testkit.waiting import wait_until

LIMITS = {"concurrency": 5, "perSecond": 0.5, "burst": 3, "waiting": 100, "stored": 10**9}
STORED = 10 * 1024**3
"""By default, where NATS does not say how much it may store."""
SUBJECTS = ("auth0|5f7c8ec7", "https://issuer.example.org/users/ä b", "a.b", "*", ">", "limits", "..a", "x" * 256)


@pytest.fixture
async def limited(nats_url: str) -> AsyncIterator[Service]:
    """A service whose settings limit every owner."""
    settings = {"owner_concurrency": 10, "owner_per_second": 2.5, "owner_burst": 7, "owner_waiting": 50}
    async with running_service(nats_url, worker=False, **settings) as service:
        yield service


def path(owner: str) -> str:
    return f"/api/owners/{quote(owner, safe='')}/limits"


def effective(answer: Answer) -> tuple[object, ...]:
    assert answer.status == 200, answer
    return tuple(answer[name] for name in LIMITS)


async def test_limits_are_set_once_read_and_removed(api: Service) -> None:
    async def recorded() -> int:
        return len(await api.container.commands.owners.log.load("owner.alice"))

    put = await api.admin.put(path("alice"), LIMITS)
    again = await api.admin.put(path("alice"), LIMITS)
    assert (again.body, await recorded()) == (put.body, 1)
    read = await api.admin.get(path("alice"))
    deleted = await api.admin.delete(path("alice"))

    assert put.status == 200
    assert put.body == read.body == {"owner": "alice", **LIMITS, "own": LIMITS}
    assert effective(deleted) == (None, None, None, 100_000, STORED)
    assert deleted["own"] is None
    assert (await api.admin.get(path("alice"))).body == deleted.body
    assert (await api.admin.delete(path("alice"))).body == deleted.body


async def test_what_is_not_an_owners_own_is_the_services_and_zero_is_no_limit(limited: Service) -> None:
    """Each change replaces all limits there were."""
    found = await limited.admin.get(path("alice"))
    assert (effective(found), found["own"]) == ((10, 2.5, 7, 50, STORED), None)

    for own, expected in [
        ({"concurrency": 1}, (1, 2.5, 7, 50, STORED)),
        ({"perSecond": 20}, (10, 20, 20, 50, STORED)),
        ({"stored": 7}, (10, 2.5, 7, 50, 7)),
        ({"concurrency": 0, "perSecond": 0, "waiting": 0, "stored": 0}, (None, None, None, None, None)),
    ]:
        found = await limited.admin.put(path("alice"), own)
        assert (effective(found), found["own"]) == (expected, own)


async def test_limits_hold_in_this_process_once_they_are_answered(api: Service) -> None:
    await api.admin.put(path("alice"), LIMITS)
    assert api.container.fleet.owner_limits("alice").concurrency == 5
    assert api.container.fleet.allowance("alice").waiting == 100

    await api.admin.delete(path("alice"))
    assert not api.container.fleet.owner_limits("alice").is_any


async def test_an_owner_is_any_text_that_a_token_may_name(api: Service) -> None:
    for owner in SUBJECTS:
        assert (await api.admin.put(path(owner), {"concurrency": 1}))["owner"] == owner
        assert (await api.client(owner).get(path(owner)))["concurrency"] == 1

    listed = [found["owner"] for found in (await api.admin.get("/api/owners"))["owners"]]
    assert listed == sorted(SUBJECTS)
    assert effective(await api.alice.get(path("alice")))[0] is None


async def test_what_no_token_names_is_no_owner(api: Service) -> None:
    for segment in ("%ff", "%00", "%0A", "x" * 257, "a%E2%80%A8b"):
        assert await api.admin.refusal("GET", f"/api/owners/{segment}/limits") == (400, "owner"), segment


async def test_owners_read_their_own_limits_and_nobody_elses(api: Service) -> None:
    await api.admin.put(path("alice"), LIMITS)

    assert (await api.alice.get(path("alice")))["own"] == LIMITS
    for where in (path("alice"), "/api/owners"):
        assert (await api.auditor.get(where)).status == 200
        for client in (api.bob, api.client("backend", "service")):
            assert await client.refusal("GET", where) == (403, None)
    assert await api.alice.refusal("GET", "/api/owners") == (403, None)


async def test_wrong_limits_are_refused_by_their_path(api: Service) -> None:
    for body, where in [
        ({"concurrency": -1}, "$.concurrency"),
        ({"concurrency": 1.5}, "$.concurrency"),
        ({"concurrency": "5"}, "$.concurrency"),
        ({"perSecond": -0.1}, "$.perSecond"),
        ({"perSecond": 1e-300}, "$.perSecond"),
        ({"perSecond": 1, "burst": 0}, "$.burst"),
        ({"burst": 5}, "$.burst"),
        ({"perSecond": 0, "burst": 5}, "$.burst"),
        ({"waiting": -1}, "$.waiting"),
        ({"stored": -1}, "$.stored"),
        ({"stored": "10 GB"}, "$.stored"),
        ({"rate": 1}, "$.rate"),
        ({}, None),
        ({"concurrency": None}, None),
    ]:
        assert await api.admin.refusal("PUT", path("alice"), body) == (400, where), body
    assert (await api.admin.get(path("alice")))["own"] is None


async def test_owners_are_listed_by_name_in_pages(limited: Service) -> None:
    for owner in ("carol", "alice", "bob"):
        await limited.admin.put(path(owner), {"concurrency": 1})
    await limited.admin.delete(path("bob"))
    await limited.admin.put(path("dave"), {"waiting": 1})

    pages = await limited.admin.pages("/api/owners", "owners", "limit=2")

    assert [[found["owner"] for found in page] for page in pages] == [["alice", "carol"], ["dave"]]
    assert effective(Answer(200, {}, pages[1][0])) == (10, 2.5, 7, 1, STORED)


async def test_a_process_that_starts_later_has_the_limits_from_the_registry(nats_url: str) -> None:
    async with running_service(nats_url) as first:
        await first.admin.put(path("a.b"), LIMITS)
        await wait_until(lambda: first.container.buckets.registry.get("owner.a=2Eb"), "the owner's key in the registry")

        fleet = Fleet()
        await fleet.restore(first.container.buckets.registry)

    assert fleet.owner_limits("a=2Eb") == Limits(concurrency=5, per_second=0.5, burst=3)


# The quota of waiting tasks


async def test_more_tasks_than_may_wait_are_a_429_that_says_when_to_come_back(limited: Service) -> None:
    await limited.admin.put(path("alice"), {"waiting": 2})
    for _ in range(2):
        await limited.alice.submit({"a": 1})

    refused = await limited.alice.post("/api/task", {"a": 1})

    assert refused.status == 429
    assert refused["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert refused["violated-policies"] == ["waiting"]
    assert refused["error"] == refused["detail"]
    seconds = int(refused.headers["Retry-After"])
    assert seconds >= 1
    assert refused.headers["RateLimit"] == f'"waiting";r=0;t={seconds}'
    assert refused.headers["RateLimit-Policy"] == '"waiting";q=2'
    assert len(await limited.alice.tasks()) == 2
    queued = await limited.alice.post("/api/projects/novel/queue-chapters", {"chaptersToGenerate": 1}, headers=MODEL)
    assert (queued.status, queued["success"], "Retry-After" in queued.headers) == (429, False, True)


async def test_a_quota_is_one_owners_and_holds_as_it_was_last_set(limited: Service) -> None:
    await limited.admin.put(path("alice"), {"waiting": 1})
    await limited.alice.submit({"a": 1})
    assert (await limited.alice.post("/api/task", {"a": 1})).status == 429

    await limited.bob.submit({"a": 1})
    await limited.admin.put(path("alice"), {"waiting": 2})
    await limited.alice.submit({"a": 1})
    await limited.admin.put(path("alice"), {"waiting": 0})
    await limited.alice.submit({"a": 1})
