"""Leases: renewal keeps an attempt, silence loses it, and what comes late changes nothing."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from taskstream.errors import NotFound
from taskstream.pulling import requests
from taskstream.streams.timers import AttemptDue
from taskstream.workers.attempts.outcomes import is_of_lease
from testkit.puller import Puller, register_pulled
from testkit.service import Service
from testkit.waiting import wait_until

from ..deciders.test_states import RUNNING


async def outcome_of(service: Service, task_id: str) -> Any:
    """Wait for the event that says what became of a cancelled attempt, and return it."""

    async def look() -> Any:
        return next((e for e in await service.alice.history(task_id) if e["type"] == "CancelReported"), None)

    return await wait_until(look, "what became of the attempt")


async def test_an_attempt_that_is_not_renewed_goes_to_another_puller(brief: Service) -> None:
    puller = Puller(brief.client("fleet", "service"))
    task_id = await brief.alice.submit({"payload": 1})
    lost = await puller.one()

    second = await puller.one()

    assert (second["task"], second["number"]) == (task_id, 2)
    assert await puller.told(lost, "renew") == "gone"
    assert await puller.told(lost, "done", {"result": "late"}) == "gone"
    assert await puller.told(second, "done", {"result": "in time"}) == "recorded"
    assert (await brief.alice.ended(task_id))["result"]["data"] == "in time"
    (failed,) = [event for event in await brief.alice.history(task_id) if event["type"] == "AttemptFailed"]
    assert (failed["kind"], failed["error"]) == ("worker_lost", "the puller did not renew its lease")


@pytest.mark.parametrize("report", ["renew", "progress"])
async def test_an_attempt_is_kept_for_longer_than_a_lease_by_reports(brief: Service, report: str) -> None:
    puller = Puller(brief.client("fleet", "service"))
    task_id = await brief.alice.submit({"payload": 1})
    taken = await puller.one()
    until = time.monotonic() + 2.5 * taken["leaseSeconds"]

    async def is_late() -> bool:
        assert await puller.told(taken, report, {"progress": 1} if report == "progress" else None) == "running"
        return time.monotonic() > until

    await wait_until(is_late, "two leases to be over")

    assert await puller.told(taken, "done", {"result": 1}) == "recorded"
    assert (await brief.alice.ended(task_id))["attempt"] == 1


async def test_no_renewal_goes_beyond_the_deadline_of_an_attempt(brief: Service) -> None:
    puller = Puller(brief.client("fleet", "service"))
    task_id = await brief.alice.submit({"payload": 1, "timeout": 1.5, "attempts": 1})
    taken = await puller.one()

    async def is_gone() -> bool:
        return await puller.told(taken, "renew") == "gone"

    await wait_until(is_gone, "the deadline")

    ended = await brief.alice.ended(task_id)
    assert (ended["status"], ended["error"]) == ("FAILED", "the server did not report before the attempt's deadline")


async def test_a_cancelled_task_is_taken_from_its_puller(service: Service, puller: Puller) -> None:
    task_id = await service.alice.submit({"payload": 1})
    taken = await puller.one()
    body = {"server": "site-b", "attempts": [taken["attempt"]], "wait": 30}
    waiting = asyncio.create_task(puller.client.done("POST", "/api/attempts/cancelled", body))
    await service.admin.until(f"/api/task/{task_id}", lambda task: True, "the task")

    await service.alice.done("POST", f"/api/task/{task_id}/cancel", {})

    (stopped,) = (await waiting)["attempts"]
    assert (stopped["attempt"], stopped["status"], stopped["cancelled"]) == (taken["attempt"], "gone", True)
    renewed = await puller.say(taken, "renew")
    assert (renewed["status"], renewed["cancelled"]) == ("gone", True)
    assert await puller.told(taken, "release") == "gone"
    outcome = await outcome_of(service, task_id)
    assert (outcome["outcome"], outcome["detail"]) == ("confirmed", "its puller has stopped")


async def test_a_cancel_that_no_puller_acknowledges_is_reported_as_such(brief: Service) -> None:
    puller = Puller(brief.client("fleet", "service"))
    task_id = await brief.alice.submit({"payload": 1})
    await puller.one()

    await brief.alice.done("POST", f"/api/task/{task_id}/cancel", {})

    outcome = await outcome_of(brief, task_id)
    assert outcome["outcome"] == "requested"
    assert "has not said that it stopped" in outcome["detail"]


async def test_a_wait_for_cancels_ends_empty_when_none_comes(service: Service, puller: Puller) -> None:
    await service.alice.submit({"payload": 1})
    taken = await puller.one()

    body = {"server": "site-b", "attempts": [taken["attempt"]], "wait": 0.1}
    assert (await puller.client.done("POST", "/api/attempts/cancelled", body))["attempts"] == []
    body["attempts"] = ["made-up"]
    (unknown,) = (await puller.client.done("POST", "/api/attempts/cancelled", body))["attempts"]
    assert (unknown["status"], unknown["cancelled"]) == ("gone", False)


async def test_an_attempt_that_reached_no_puller_comes_back_by_its_lease(
    brief: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[bytes] = []

    async def killed(self: Any, message: Any, answer: bytes) -> None:
        answered.append(answer)  # the process dies before anybody hears of it

    puller = Puller(brief.client("fleet", "service"))
    task_id = await brief.alice.submit({"payload": 1})
    with monkeypatch.context() as patch:
        patch.setattr(requests._PullRequest, "_answer", killed)
        lost = await puller.one()
        await wait_until(lambda: answered, "the hand-over")

    second = await puller.one()

    assert (second["task"], second["number"]) == (task_id, 2)
    assert await puller.told(lost, "renew") == "gone"


async def test_a_lease_that_ended_while_the_service_was_down_is_given_once_more(
    brief: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskstream.clock import utc_now
    from taskstream.events.envelope import Actor
    from taskstream.events.ids import parse_task_id
    from taskstream.streams.timers import AttemptDue
    from taskstream.workers.attempts import outcomes

    puller = Puller(brief.client("fleet", "service"))
    task_id = await brief.alice.submit({"payload": 1})
    taken = await puller.one()
    due = AttemptDue(attempt=1, at=utc_now() - 2 * outcomes.LATE)

    await outcomes.end_if_due(brief.container, parse_task_id(task_id), due, by=Actor("timer", "deadline"))

    assert await puller.told(taken, "renew") == "running"


async def test_an_attempt_of_another_server_is_none_of_a_puller_s(service: Service, puller: Puller) -> None:
    await register_pulled(service.admin, "site-c", types=["none"])
    await service.alice.submit({"payload": 1})
    taken = await puller.one()
    attempts = service.container.pulled_attempts

    body = {"server": "site-c", "attempts": [taken["attempt"]], "wait": 0}
    (stopped,) = (await service.admin.done("POST", "/api/attempts/cancelled", body))["attempts"]

    assert (stopped["status"], stopped["cancelled"]) == ("gone", False)
    assert (await attempts.by_server(taken["attempt"], "site-b")).running is not None
    with pytest.raises(NotFound):
        await attempts.by_server(taken["attempt"], "site-c")


@pytest.mark.parametrize(
    ("lease", "set_to", "is_lease"),
    [
        (timedelta(seconds=3), timedelta(milliseconds=-100), True),
        (timedelta(seconds=3), timedelta(0), False),
        (None, timedelta(milliseconds=-100), False),
    ],
)
def test_a_lease_that_ends_just_before_the_deadline_is_not_taken_for_it(
    lease: timedelta | None, set_to: timedelta, is_lease: bool
) -> None:
    deadline = datetime(2026, 11, 30, 16, tzinfo=UTC)
    state = msgspec.structs.replace(RUNNING, deadline=deadline, lease=lease)

    assert is_of_lease(state, AttemptDue(attempt=1, at=deadline + set_to), deadline + set_to) == is_lease
