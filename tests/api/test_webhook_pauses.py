"""Pauses of webhooks: a receiver that asks for one is left alone, and no message loses a try or is lost."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from taskstream.commands.webhook import Registered
from taskstream.events.ids import WebhookRef, token
from taskstream.events.webhook import WebhookSettings
from taskstream.settings import Settings
from taskstream.webhooks.client import WebhookOutcome
from taskstream.webhooks.deliveries import LastAnswer, WebhookDelivery, WebhookPause
from taskstream.webhooks.delivery_loop import AT_ONCE, LONGEST_OWN_PAUSE, next_pause, own_pause
from testkit.receiver import HookReceiver, Message, answers, deliveries, in_turn, register, settled
from testkit.service import Client, running_service
from testkit.waiting import wait_until

ONE_TRY = {"webhook_attempts": 1, "webhook_retry_base": 0.05, "webhook_retry_cap": 0.2, "webhook_timeout": 5.0}
"""A message that loses a try fails. No pause is longer than 0.2 s, whatever the receiver asks for."""
HOUR = {"Retry-After": "3600"}


async def submit_many(client: Client, count: int) -> None:
    await client.done("POST", "/api/tasks/batch", [{"payload": number} for number in range(count)])


async def webhook_of(client: Client, webhook_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await client.done("GET", f"/api/webhooks/{webhook_id}")
    return found


async def paused(client: Client, webhook_id: str) -> dict[str, Any]:
    """Wait until a webhook is paused; return it."""
    found: dict[str, Any] = await client.until(
        f"/api/webhooks/{webhook_id}", lambda webhook: webhook["pausedUntil"], "a pause"
    )
    return found


async def measured(client: Client, name: str) -> float:
    lines = [line.split() for line in (await client.get("/metrics")).body.splitlines()]
    return next((float(line[1]) for line in lines if line and line[0] == name), 0.0)


# The instance: 788 calls in two seconds, and every message lost a try


async def test_a_429_stops_800_messages_after_four_calls_and_costs_none_a_try(nats_url: str) -> None:
    async with (
        HookReceiver(answers(429, **HOUR)) as receiver,
        running_service(nats_url, webhook_attempts=1) as service,
    ):
        webhook_id, _ = await register(service.alice, receiver, events=["task.submitted"])
        await submit_many(service.alice, 800)
        await service.alice.until(
            "/metrics",
            lambda text: (
                "taskstream_webhook_deliveries_waiting 800.0" in text and "taskstream_webhooks_paused 1.0" in text
            ),
            "800 messages to wait for the end of one pause",
        )
        called = len(receiver.messages)
        webhook = await webhook_of(service.alice, webhook_id)
        listed = await deliveries(service.alice, webhook_id, "?status=waiting&limit=200")

        receiver.answer = answers(204)
        for active in (False, True):  # ends the pause
            await service.alice.call("PATCH", f"/api/webhooks/{webhook_id}", {"active": active})
        messages = await receiver.has(called + 800)

        await service.alice.until(
            "/metrics", lambda text: "taskstream_webhook_deliveries_waiting 0.0" in text, "nothing to wait"
        )
        assert called <= AT_ONCE
        assert webhook["pausedUntil"] - webhook["createdAt"] > 3_500_000
        assert {found["pausedUntil"] for found in listed} == {webhook["pausedUntil"]}
        assert {found["nextAttemptAt"] for found in listed} == {webhook["pausedUntil"]}
        assert len(messages) == called + 800
        assert len({message.id for message in messages}) == 800
        assert await deliveries(service.alice, webhook_id, "?status=failed") == []
        assert (await webhook_of(service.alice, webhook_id))["pausedUntil"] is None


async def test_a_pause_that_ends_lets_one_message_through_until_one_is_accepted(nats_url: str) -> None:
    """A receiver gets every event it subscribed to, however often it asks for a pause."""
    refused = AT_ONCE + 6

    async def answer(_: Message) -> web.StreamResponse:
        number = len(receiver.messages)
        running.append(receiver.running)
        return await answers(429 if number <= refused else 204, **HOUR)(_)

    running: list[int] = []
    async with HookReceiver(answer) as receiver, running_service(nats_url, **ONE_TRY) as service:
        webhook_id, _ = await register(service.alice, receiver, events=["task.submitted"])
        await submit_many(service.alice, 30)

        found = await settled(service.alice, webhook_id, "delivered", 30)

        assert len(receiver.messages) == refused + 30
        assert set(running[AT_ONCE:refused]) == {1}
        assert sum(one["attempts"] for one in found) == refused + 30
        assert (await webhook_of(service.alice, webhook_id))["pausedUntil"] is None
        assert await measured(service.alice, 'taskstream_webhook_tries_total{outcome="paused"}') >= refused


# What each status means: a try, a pause, an end


class Row(NamedTuple):
    status: int
    headers: dict[str, str]
    ends: str
    """The delivery's status after one call, if one try is all it has; `waiting`: that call cost no try."""


ROWS = [
    *(Row(status, {}, "delivered") for status in (200, 202, 204)),
    *(Row(status, {}, "failed") for status in (301, 304, 307, 400, 401, 404, 408, 409, 410, 425, 500, 502, 503, 504)),
    *(Row(status, HOUR, "failed") for status in (408, 425, 500, 502, 504)),
    *(Row(503, {"Retry-After": value}, "failed") for value in ("soon", "-1", "9" * 30)),
    *(Row(503, {"Retry-After": value}, "waiting") for value in ("3600", "Fri, 31 Dec 2100 23:59:59 GMT")),
    Row(429, {}, "waiting"),
    *(Row(429, {"Retry-After": value}, "waiting") for value in ("3600", "0", "-1", "soon", "9" * 30)),
    *(Row(429, {"Retry-After": f"Fri, 31 Dec {year} 23:59:59 GMT"}, "waiting") for year in (1999, 2100)),
]  # fmt: skip


async def test_each_status_costs_a_try_or_pauses_its_own_webhook_alone(nats_url: str) -> None:
    slow = {"webhook_attempts": 1, "webhook_retry_base": 3600.0}
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(running_service(nats_url, **slow))
        receivers = [await stack.enter_async_context(HookReceiver(answers(row.status, **row.headers))) for row in ROWS]
        ids = [(await register(service.alice, receiver, events=["task.submitted"]))[0] for receiver in receivers]

        await service.alice.submit({"payload": 1})

        for row, receiver, webhook_id in zip(ROWS, receivers, ids, strict=True):
            (found,) = await settled(service.alice, webhook_id, row.ends)
            if row.ends == "waiting":
                webhook = await paused(service.alice, webhook_id)
                (found,) = await deliveries(service.alice, webhook_id)
                seconds = (webhook["pausedUntil"] - webhook["createdAt"]) / 1000
                # `Retry-After` up to TASKSTREAM_WEBHOOK_RETRY_CAP; without a valid one at most ten minutes
                assert 295 < seconds < 21_700, (row, seconds)
                assert found["pausedUntil"] == webhook["pausedUntil"]
            else:
                assert (await webhook_of(service.alice, webhook_id))["pausedUntil"] is None, row
                assert found["pausedUntil"] is None
            assert len(receiver.messages) == 1, row


# Who takes over, and what users do meanwhile


async def test_a_worker_that_takes_over_keeps_to_the_pause(nats_url: str) -> None:
    async with HookReceiver(answers(429, **HOUR)) as receiver, HookReceiver() as other:
        async with running_service(nats_url) as service:
            webhook_id, _ = await register(service.alice, receiver)
            await register(service.alice, other)
            await service.alice.post(f"/api/webhooks/{webhook_id}/test")
            before = await paused(service.alice, webhook_id)
        async with running_service(nats_url) as service:
            await service.alice.post(f"/api/webhooks/{webhook_id}/test")
            task_id = await service.alice.submit({"payload": 1})
            await service.alice.done("POST", f"/api/task/{task_id}/cancel")
            await other.has(1)
            await settled(service.alice, webhook_id, "waiting", 3)

            after = await webhook_of(service.alice, webhook_id)
            assert (after["pausedUntil"], after["counts"]["waiting"]) == (before["pausedUntil"], 3)
            assert len(receiver.messages) == 1


async def test_a_retry_by_hand_waits_for_the_pause_and_another_url_ends_it(nats_url: str) -> None:
    async with (
        HookReceiver(answers(429, **HOUR)) as receiver,
        HookReceiver() as other,
        running_service(nats_url, webhook_attempts=1) as service,
    ):
        webhook_id, _ = await register(service.alice, receiver)
        sent = await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
        until = (await paused(service.alice, webhook_id))["pausedUntil"]
        path = f"/api/webhooks/{webhook_id}/deliveries/{sent['id']}"
        await service.alice.until(path, lambda found: found["attempts"] == 1, "the record of the call")

        again = await service.alice.done("POST", f"{path}/retry")
        test = await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
        changed = await service.alice.call("PATCH", f"/api/webhooks/{webhook_id}", {"url": other.url})

        await settled(service.alice, webhook_id, "delivered", 2)
        assert (again["status"], again["nextAttemptAt"], again["pausedUntil"]) == ("waiting", until, until)
        assert (test["status"], test["nextAttemptAt"], test["pausedUntil"]) == ("waiting", until, until)
        assert changed["pausedUntil"] is None
        assert (len(receiver.messages), len(other.messages)) == (1, 2)


async def test_enabling_a_webhook_ends_its_pause_though_no_task_did_anything(nats_url: str) -> None:
    async with HookReceiver(answers(429, **HOUR)) as receiver, running_service(nats_url) as service:
        webhook_id, _ = await register(service.alice, receiver)
        sent = await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
        await paused(service.alice, webhook_id)
        path = f"/api/webhooks/{webhook_id}/deliveries/{sent['id']}"
        await service.alice.until(path, lambda found: found["attempts"] == 1, "the record of the call")

        receiver.answer = answers(204)
        await service.alice.call("PATCH", f"/api/webhooks/{webhook_id}", {"active": False})
        enabled = await service.alice.call("PATCH", f"/api/webhooks/{webhook_id}", {"active": True})

        assert enabled["pausedUntil"] is None
        await receiver.has(2)


async def test_a_deleted_webhook_leaves_no_pause_behind(nats_url: str) -> None:
    async with HookReceiver(answers(429, **HOUR)) as receiver, running_service(nats_url) as service:
        bucket = service.container.buckets.deliveries
        webhook_id, _ = await register(service.alice, receiver)
        await service.alice.post(f"/api/webhooks/{webhook_id}/test")
        await paused(service.alice, webhook_id)

        await service.alice.done("DELETE", f"/api/webhooks/{webhook_id}")

        async def is_empty() -> bool:
            return not await bucket.scan("pause.>") and not await bucket.scan("waiting.>")

        await wait_until(is_empty, "no pause and no delivery")


async def test_a_receiver_that_only_asks_for_pauses_is_given_up_with_that_reason(nats_url: str) -> None:
    async with (
        HookReceiver(answers(429)) as receiver,
        running_service(nats_url, **ONE_TRY, webhook_pause_limit=1.0) as service,
    ):
        webhook_id, _ = await register(service.alice, receiver, events=["task.submitted"])
        await submit_many(service.alice, 30)

        failed = await settled(service.alice, webhook_id, "failed", 30)

        assert all("has only asked for pauses since" in one["lastAttempt"]["error"] for one in failed)
        assert sum(one["attempts"] for one in failed) == len(receiver.messages)
        assert any(one["attempts"] == 0 for one in failed)


async def test_damaged_records_stop_neither_their_webhook_nor_others(nats_url: str) -> None:
    async with HookReceiver() as receiver:
        async with running_service(nats_url) as service:
            webhook_id, _ = await register(service.alice, receiver)
            bucket, key = service.container.buckets.deliveries, f"alice.{webhook_id.split('~')[0]}"
            await bucket.put(f"pause.{key}", b'{"until":1}')
            await bucket.put(f"waiting.{key}.01KDW1Z6P0C6N4T0Z5V3Q9H8RB", b"\x00")
            sent = await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
            await receiver.has(1)
            assert [found["id"] for found in await settled(service.alice, webhook_id, "delivered")] == [sent["id"]]
            assert (await webhook_of(service.alice, webhook_id))["pausedUntil"] is None
        async with running_service(nats_url) as service:
            await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
            await receiver.has(2)


async def test_failures_without_a_pause_still_use_up_the_tries(nats_url: str) -> None:
    async with (
        HookReceiver(in_turn(429, 500, 429, 500)) as receiver,
        running_service(nats_url, **ONE_TRY | {"webhook_attempts": 2}) as service,
    ):
        webhook_id, _ = await register(service.alice, receiver)
        await service.alice.post(f"/api/webhooks/{webhook_id}/test")

        (failed,) = await settled(service.alice, webhook_id, "failed")

        assert (failed["attempts"], failed["lastAttempt"]["error"]) == (4, "the receiver answered 500")


# The rules alone

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = Settings()
CAP = timedelta(seconds=SETTINGS.webhook_retry_cap)
asked_pauses = st.one_of(st.none(), st.timedeltas(timedelta(0), timedelta(days=100_000)))
chances = st.floats(0, 1, exclude_max=True)


def registered(url: str = "http://a.example/", enablings: int = 0) -> Registered:
    return Registered(
        webhook_id=WebhookRef(token("alice"), "1").id,
        owner="alice",
        settings=WebhookSettings(url=url, events=("succeeded",)),
        created_at=NOW,
        changed_at=NOW,
        active=True,
        after=1,
        enablings=enablings,
        secret_id="s",
    )


@given(st.lists(st.tuples(asked_pauses, chances, st.timedeltas(timedelta(0), timedelta(days=1))), min_size=1))
def test_whatever_a_receiver_answers_its_pauses_are_bounded_and_never_shortened(
    answered: list[tuple[timedelta | None, float, timedelta]],
) -> None:
    pause, now, webhook = None, NOW, registered()
    for asked, chance, passed in answered:
        following = next_pause(pause, asked, webhook, now, SETTINGS, chance)

        assert now < following.until <= now + CAP or following.until == (pause and pause.until)
        assert following.since == NOW
        if pause is not None:
            assert following.count == pause.count + (pause.until <= now)
            assert pause.until <= now or following.until >= pause.until
        pause, now = following, now + passed


@given(st.integers(1, 10_000), chances)
def test_a_receiver_that_names_no_pause_gets_growing_ones_up_to_ten_minutes(count: int, chance: float) -> None:
    assert own_pause(count, SETTINGS, chance) <= own_pause(count + 1, SETTINGS, chance) <= LONGEST_OWN_PAUSE
    assert own_pause(count, SETTINGS, chance) >= timedelta(seconds=2.5)


def test_pauses_that_the_receiver_does_not_name_double() -> None:
    longest = [round(own_pause(count, SETTINGS, 1.0).total_seconds()) for count in range(1, 10)]

    assert longest == [5, 10, 20, 40, 80, 160, 320, 600, 600]


@pytest.mark.parametrize(
    "other", [registered(url="http://b.example/"), registered(enablings=1)], ids=["url", "enabled"]
)
def test_a_pause_is_of_one_receiver_and_ends_when_the_webhook_is_enabled(other: Registered) -> None:
    pause = next_pause(None, timedelta(hours=1), registered(), NOW, SETTINGS, 0.5)

    assert pause.until_now(registered(), NOW) == NOW + timedelta(hours=1)
    assert pause.until_now(registered(), pause.until) is None
    assert pause.until_now(other, NOW) is None
    assert next_pause(pause, None, other, NOW + timedelta(minutes=1), SETTINGS, 0.5).count == 1


@given(st.lists(st.booleans(), max_size=20))
def test_only_calls_that_do_not_pause_count_as_tries(pausing: list[bool]) -> None:
    delivery = WebhookDelivery(id="1", type="task.succeeded", created_at=NOW)
    for pauses in pausing:
        answer = LastAnswer(at=NOW, status=429 if pauses else 500, error="the receiver answered")
        delivery = delivery.paused(answer, NOW) if pauses else delivery.tried(answer, NOW)

    assert (delivery.attempts, delivery.tries) == (len(pausing), pausing.count(False))
    assert (delivery.paused_since is not None) == any(pausing)
    assert delivery.asked_again(NOW).paused_since is None


@given(st.integers(100, 599), asked_pauses)
def test_a_receiver_asks_for_a_pause_by_429_or_by_503_with_a_time(status: int, asked: timedelta | None) -> None:
    outcome = WebhookOutcome(answer=LastAnswer(at=NOW, status=status, error="no"), retry_after=asked)

    assert outcome.asks_for_pause == (status == 429 or (status == 503 and asked is not None))


def test_an_older_delivery_without_the_new_fields_is_read() -> None:
    assert WebhookPause.__struct_fields__ == ("until", "since", "count", "url", "enablings")
    old = WebhookDelivery(id="1", type="task.succeeded", created_at=NOW)
    assert (old.sendable_since, old.paused_since) == (NOW, None)
