"""Deliveries: every try is listed, the message can be read, and what was given up can be sent again."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from taskstream.clock import utc_now
from taskstream.events.ids import delivery_id, parse_webhook_id
from taskstream.webhooks import deliveries as store
from taskstream.webhooks.deliveries import LastAnswer, WebhookDelivery
from testkit.receiver import HookReceiver, answers, deliveries, in_turn, register, settled
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

QUICK = {"webhook_retry_base": 0.05, "webhook_retry_cap": 0.2, "webhook_attempts": 3, "webhook_timeout": 0.5}


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url, **QUICK) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[HookReceiver]:
    async with HookReceiver() as started:
        yield started


async def cancelled(client: Client, **task: Any) -> str:
    """Submit a task that no server runs, and end it."""
    task_id = await client.submit({"payload": {}} | task)
    await client.done("POST", f"/api/task/{task_id}/cancel")
    return task_id


# Tries


async def test_each_try_is_listed_with_its_answer(
    service: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.webhooks.client.is_public", lambda ip: ip == "127.0.0.1")
    receiver.answer = in_turn(500, 302, 204)
    webhook_id, _ = await register(service.alice, receiver)

    await cancelled(service.alice)

    (delivery,) = await settled(service.alice, webhook_id, "delivered")
    tries = delivery["tries"]
    assert [(one["status"], one["error"]) for one in tries] == [
        (500, "the receiver answered 500"),
        (302, "the receiver answered 302; redirects are not followed"),
        (204, None),
    ]
    assert tries[-1] == delivery["lastAttempt"]
    assert [one["at"] for one in tries] == sorted(one["at"] for one in tries)


def test_of_many_tries_the_first_and_the_latest_are_kept() -> None:
    now = utc_now()
    delivery = WebhookDelivery(id="x", type="webhook.test", created_at=now)

    for second in range(100):
        answer = LastAnswer(at=now + timedelta(seconds=second), status=500, error="the receiver answered 500")
        delivery = delivery.tried(answer, now)

    seconds = [(one.at - now).seconds for one in delivery.kept_tries]
    assert seconds == [0, *range(81, 100)]
    assert (delivery.attempts, len(seconds)) == (100, store.MOST_TRIES_KEPT)


async def test_tries_before_a_repetition_by_hand_stay_listed(service: Service, receiver: HookReceiver) -> None:
    receiver.answer = in_turn(500, 500, 500, 204)
    webhook_id, _ = await register(service.alice, receiver)
    await cancelled(service.alice)
    (failed,) = await settled(service.alice, webhook_id, "failed")

    await service.alice.done("POST", f"/api/webhooks/{webhook_id}/deliveries/{failed['id']}/retry")

    (delivered,) = await settled(service.alice, webhook_id, "delivered")
    assert [one["status"] for one in delivered["tries"]] == [500, 500, 500, 204]


# Messages


async def test_the_message_is_shown_as_it_was_sent_without_its_signature(
    service: Service, receiver: HookReceiver
) -> None:
    webhook_id, secret = await register(service.alice, receiver)
    await cancelled(service.alice, payload={"big": 2**63, "ü": "\u2028"})
    (sent,) = await receiver.has(1)
    (delivery,) = await settled(service.alice, webhook_id, "delivered")

    shown = await service.alice.done("GET", f"/api/webhooks/{webhook_id}/deliveries/{delivery['id']}/body")

    assert shown["body"].encode() == sent.raw
    assert (shown["method"], shown["url"], shown["sizeBytes"]) == ("POST", receiver.url, len(sent.raw))
    headers = {name.lower(): value for name, value in shown["headers"].items()}
    received = {name.lower(): value for name, value in receiver.headers[0].items()}
    assert headers.pop("webhook-signature") == "v1,(not shown)"
    assert {"user-agent", "x-request-id", "webhook-id", "webhook-timestamp"} <= headers.keys()
    assert {name: received[name] for name in headers} == headers
    assert sent.signatures.split(",")[1] not in json.dumps(shown)
    assert secret not in json.dumps(shown)


async def test_the_message_of_a_test_that_waits_is_shown_without_a_time(service: Service) -> None:
    async with HookReceiver(answers(429, **{"Retry-After": "3600"})) as paused:
        webhook_id, _ = await register(service.alice, paused)
        await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
        await paused.has(1)
        waiting = await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")

        shown = await service.alice.done("GET", f"/api/webhooks/{webhook_id}/deliveries/{waiting['id']}/body")

    assert json.loads(shown["body"])["type"] == "webhook.test"
    assert "webhook-timestamp" not in shown["headers"]


async def test_the_message_of_an_event_past_its_retention_is_refused_with_the_reason(api: Service) -> None:
    async with HookReceiver() as receiver:
        webhook_id, _ = await register(api.alice, receiver)
        now = utc_now()
        ref = parse_webhook_id(webhook_id)
        gone = WebhookDelivery(id=delivery_id(ref, 7, now), type="task.failed", sequence=999_999, created_at=now)
        await api.container.deliveries.make(ref, gone, maybe_made=False)

        answer = await api.alice.get(f"/api/webhooks/{webhook_id}/deliveries/{gone.id}/body")

    assert answer.status == 409
    assert "past its retention" in answer["detail"]


# Counts


async def test_a_webhook_counts_its_deliveries_by_status(service: Service, receiver: HookReceiver) -> None:
    receiver.answer = in_turn(204, 204, 500)
    webhook_id, _ = await register(service.alice, receiver)
    for _ in range(2):
        await cancelled(service.alice)
    await settled(service.alice, webhook_id, "delivered", 2)
    await cancelled(service.alice)
    await settled(service.alice, webhook_id, "failed", 1)

    one = await service.alice.done("GET", f"/api/webhooks/{webhook_id}")
    (listed,) = (await service.alice.done("GET", "/api/webhooks?counts=true"))["webhooks"]
    (plain,) = (await service.alice.done("GET", "/api/webhooks"))["webhooks"]

    assert one["counts"] == {"waiting": 0, "delivered": 2, "failed": 1, "capped": False}
    assert (listed["counts"], listed["lagSeconds"]) == (one["counts"], one["lagSeconds"])
    assert one["lagSeconds"] == 0
    assert (plain["counts"], plain["lagSeconds"]) == (None, None)


async def test_a_delivery_sent_again_no_longer_counts_as_failed(service: Service, receiver: HookReceiver) -> None:
    receiver.answer = in_turn(500, 500, 500, 204)
    webhook_id, _ = await register(service.alice, receiver)
    await cancelled(service.alice)
    (failed,) = await settled(service.alice, webhook_id, "failed", 1)

    await service.alice.done("POST", f"/api/webhooks/{webhook_id}/deliveries/{failed['id']}/retry")

    await settled(service.alice, webhook_id, "delivered", 1)
    expected = {"waiting": 0, "delivered": 1, "failed": 0, "capped": False}
    await service.alice.until(f"/api/webhooks/{webhook_id}", lambda body: body["counts"] == expected, "the counts")


async def test_without_a_worker_the_lag_grows_although_nothing_waits_yet(
    api: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.webhooks.figures.SAVED_WITHIN", timedelta(0))
    webhook_id, _ = await register(api.alice, receiver)
    await api.alice.submit({"payload": 1})  # an event that it does not send
    quiet = await api.alice.done("GET", f"/api/webhooks/{webhook_id}")

    await cancelled(api.alice)

    behind = await api.alice.done("GET", f"/api/webhooks/{webhook_id}")
    assert (quiet["lagSeconds"], quiet["counts"]["waiting"]) == (0, 0)
    assert behind["lagSeconds"] > 0
    assert behind["counts"]["waiting"] == 0


async def test_a_webhook_that_is_not_active_has_no_lag(api: Service, receiver: HookReceiver) -> None:
    webhook_id, _ = await register(api.alice, receiver, active=False)

    assert (await api.alice.done("GET", f"/api/webhooks/{webhook_id}"))["lagSeconds"] is None


async def test_more_records_than_are_counted_are_said_to_be_capped(
    api: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_LOOKED_AT", 3)
    webhook_id, _ = await register(api.alice, receiver)
    for _ in range(5):
        await api.alice.done("POST", f"/api/webhooks/{webhook_id}/test")

    counts = (await api.alice.done("GET", f"/api/webhooks/{webhook_id}"))["counts"]

    assert counts["capped"] is True


# Resending


async def failed_ones(service: Service, receiver: HookReceiver, count: int) -> str:
    """Register a webhook whose first deliveries failed; it works from now on."""
    receiver.answer = answers(500)
    webhook_id, _ = await register(service.alice, receiver)
    for _ in range(count):
        await cancelled(service.alice)
    await settled(service.alice, webhook_id, "failed", count)
    receiver.answer = answers(204)
    return webhook_id


async def test_all_failed_deliveries_are_sent_again_after_a_dry_run(service: Service, receiver: HookReceiver) -> None:
    webhook_id = await failed_ones(service, receiver, 5)
    tried = len(receiver.messages)
    path = f"/api/webhooks/{webhook_id}/deliveries/retry"

    dry = await service.alice.done("POST", path, {"dryRun": True})
    waiting = await deliveries(service.alice, webhook_id, "?status=waiting")
    done = await service.alice.done("POST", path, {})

    assert dry == {"dryRun": True, "matched": 5, "nextCursor": None}
    assert (waiting, len(receiver.messages) >= tried) == ([], True)
    assert done == {"dryRun": False, "matched": 5, "nextCursor": None}
    await settled(service.alice, webhook_id, "delivered", 5)
    assert (await service.alice.done("POST", path, {}))["matched"] == 0


async def test_pages_of_a_resend_send_each_delivery_once(
    service: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.api.routes.deliveries.MOST_RESENT", 2)
    webhook_id = await failed_ones(service, receiver, 5)
    tried = len(receiver.messages)
    cursor, sizes = None, []

    while True:
        body = {"cursor": cursor} if cursor else {}
        answer = await service.alice.done("POST", f"/api/webhooks/{webhook_id}/deliveries/retry", body)
        sizes.append(answer["matched"])
        if (cursor := answer["nextCursor"]) is None:
            break

    await settled(service.alice, webhook_id, "delivered", 5)
    assert (sum(sizes), max(sizes)) == (5, 2)
    assert len(receiver.messages) == tried + 5


async def test_a_resend_takes_those_of_a_time_and_a_status(service: Service, receiver: HookReceiver) -> None:
    webhook_id, _ = await register(service.alice, receiver)
    await cancelled(service.alice)
    (first,) = await settled(service.alice, webhook_id, "delivered", 1)
    await wait_until(lambda: time.time() * 1000 > first["createdAt"] + 1, "a later millisecond")
    since = int(time.time() * 1000)
    await cancelled(service.alice)
    both = await settled(service.alice, webhook_id, "delivered", 2)
    path = f"/api/webhooks/{webhook_id}/deliveries/retry"

    listed = await deliveries(service.alice, webhook_id, f"?since={since}")
    none = await service.alice.done("POST", path, {"since": since, "dryRun": True})
    later = await service.alice.done("POST", path, {"status": "delivered", "since": since, "dryRun": True})
    earlier = await service.alice.done("POST", path, {"status": "delivered", "before": since, "dryRun": True})
    every = await service.alice.done("POST", path, {"status": "delivered", "since": "1h"})

    assert [one["id"] for one in listed] == [one["id"] for one in both if one["id"] != first["id"]]
    assert [none["matched"], later["matched"], earlier["matched"], every["matched"]] == [0, 1, 1, 2]
    await receiver.has(4)


async def test_a_resend_is_refused_while_too_many_messages_wait(
    api: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.api.routes.deliveries.MOST_WAITING", 2)
    webhook_id, _ = await register(api.alice, receiver)
    for _ in range(2):
        await api.alice.done("POST", f"/api/webhooks/{webhook_id}/test")

    answer = await api.alice.post(f"/api/webhooks/{webhook_id}/deliveries/retry", {})

    assert answer.status == 409
    assert "wait already" in answer["detail"]


async def test_only_owners_and_admins_send_again_and_only_readers_see_messages(
    service: Service, receiver: HookReceiver
) -> None:
    webhook_id = await failed_ones(service, receiver, 1)
    (failed,) = await deliveries(service.alice, webhook_id)
    resend = f"/api/webhooks/{webhook_id}/deliveries/retry"
    body = f"/api/webhooks/{webhook_id}/deliveries/{failed['id']}/body"

    statuses = {
        "bob reads": (await service.bob.get(body)).status,
        "bob sends": (await service.bob.post(resend, {})).status,
        "auditor reads": (await service.auditor.get(body)).status,
        "auditor sends": (await service.auditor.post(resend, {})).status,
        "admin sends": (await service.admin.post(resend, {"dryRun": True})).status,
    }

    assert statuses == {
        "bob reads": 404,
        "bob sends": 404,
        "auditor reads": 200,
        "auditor sends": 403,
        "admin sends": 200,
    }
