"""What one puller, or one server's pullers, may use."""

from __future__ import annotations

import asyncio

import pytest

from taskstream.errors import TooManyAsks
from taskstream.pulling import attempts as attempts_module
from testkit.puller import Puller, register_pulled
from testkit.runpod_worker import RunpodWorker
from testkit.service import Service
from testkit.waiting import wait_until


async def test_open_requests_are_bounded(service: Service, puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.container.pull_requests.places, "of_one", 1)
    await register_pulled(service.admin, "site-c")
    asking = asyncio.create_task(puller.take())
    await service.admin.until("/api/servers/site-b", lambda server: server["openAsks"] == 1, "the request to be open")

    refused = await puller.client.post("/api/attempts/take", {"server": "site-b", "wait": 0})
    of_another = await puller.client.post("/api/attempts/take", {"server": "site-c", "wait": 0})

    assert (refused.status, refused["violated-policies"], refused.headers["Retry-After"]) == (429, ["asks"], "5")
    assert of_another.status == 200
    asking.cancel()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"max": 101}, "$.max"),
        ({"max": 0}, "$.max"),
        ({"wait": 61}, "$.wait"),
        ({"types": ["x"] * 101}, "$.types"),
        ({"puller": "x"}, "$"),
    ],
    ids=str,
)
async def test_a_request_has_bounds(puller: Puller, body: dict[str, object], path: str) -> None:
    status, found = await puller.client.refusal("POST", "/api/attempts/take", {"server": "site-b", **body})

    assert status == 400
    assert str(found).startswith(path)


async def test_a_server_gives_back_few_attempts_at_a_time(
    service: Service, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float] = []

    async def hold(seconds: float) -> None:
        held.append(seconds)

    monkeypatch.setattr(attempts_module, "RETURNS_AT_ONCE", 2)
    monkeypatch.setattr(attempts_module.asyncio, "sleep", hold)
    attempts = service.container.pulled_attempts

    for _ in range(100):
        await attempts._hold_return("site-b")
    await attempts._hold_return("site-c")

    assert 0 < held[0] <= held[-1] <= attempts_module.LONGEST_HOLD_SECONDS
    assert len(held) in (97, 98)


async def accepted(service: Service, task_id: str) -> None:
    """Wait until the log says that a puller has the task."""

    async def is_accepted() -> bool:
        return any(event["type"] == "AttemptAccepted" for event in await service.alice.history(task_id))

    await wait_until(is_accepted, "the attempt to be accepted")


async def test_a_renewal_extends_a_lease_only_so_often(
    service: Service, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await service.alice.submit({"payload": 1})
    taken = await puller.one()
    await accepted(service, task_id)  # which sets the timer, too
    timers = service.container.timers
    set_to: list[object] = []
    real = timers.watch_deadline

    async def watch(ref: object, attempt: int, at: object) -> None:
        set_to.append(at)
        await real(ref, attempt, at)  # type: ignore[arg-type]

    monkeypatch.setattr(timers, "watch_deadline", watch)

    assert [await puller.told(taken, "renew") for _ in range(5)] == ["running"] * 5

    assert len(set_to) == 1


async def test_requests_that_wait_for_attempts_to_stop_are_bounded(
    service: Service, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.container.pulled_attempts.watchers, "of_one", 1)
    await register_pulled(service.admin, "shouting")
    await service.alice.submit({"payload": 1})
    taken = await puller.one()
    body = {"server": "site-b", "attempts": [taken["attempt"]], "wait": 0}
    worker = RunpodWorker(service.client("fleet", "service"))

    async with worker.watching():
        async with worker.request("GET", "job-stop/another", "t=1") as refused:
            assert refused.status == 429
        with service.container.pulled_attempts.watchers.open("site-b"):
            answer = await puller.client.post("/api/attempts/cancelled", body)

    assert (answer.status, answer["violated-policies"]) == (429, ["asks"])
    assert (await puller.client.post("/api/attempts/cancelled", body)).status == 200
    await wait_until(lambda: is_free(service, "shouting"), "the place of the hung up request to be free")


def is_free(service: Service, server_id: str) -> bool:
    try:
        service.container.pulled_attempts.watchers.open(server_id).close()
    except TooManyAsks:
        return False
    return True
