"""Webhooks: events reach their receivers, signed, whatever these answer, and delay no others."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook

from taskstream.backends.egress import resolve_by_system
from taskstream.backup.restore import start_webhooks
from taskstream.events.ids import WebhookRef, parse_webhook_id
from taskstream.streams.topology.epochs import read_extent
from taskstream.webhooks import delivery_loop as lane
from taskstream.webhooks.client import NO_ADDRESS, NO_ANSWER
from taskstream.webhooks.deliveries import DeliveryStore, StoredDelivery
from testkit.backend import BackendServer
from testkit.nats import NatsServer
from testkit.raw_server import RawServer
from testkit.receiver import HookReceiver, Message, answers, deliveries, hang, in_turn, register, settled
from testkit.replaced_log import saved_log
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


async def cancelled(client: Client) -> str:
    """Submit a task that no server runs, and end it."""
    task_id = await client.submit({"payload": {}})
    await client.done("POST", f"/api/task/{task_id}/cancel")
    return task_id


# Messages


async def test_the_end_of_a_task_is_sent_signed(
    service: Service, backend: BackendServer, receiver: HookReceiver
) -> None:
    webhook_id, secret = await register(service.alice, receiver)
    await service.admin.register(backend, "one")

    task_id = await service.alice.submit({"payload": {"a": 1}})

    (message,) = await receiver.has(1)
    assert message.signatures == message.signature_with(secret)
    headers = {"webhook-id": message.id, "webhook-timestamp": message.timestamp}
    assert Webhook(secret).verify(message.raw, {**headers, "webhook-signature": message.signatures}) == message.body
    assert abs(int(message.timestamp) - time.time()) < 60
    assert (message.type, message.body["data"]["taskId"]) == ("task.succeeded", task_id)
    (delivery,) = await settled(service.alice, webhook_id, "delivered")
    assert delivery["messageId"] == message.id
    assert (delivery["taskId"], delivery["attempts"], delivery["nextAttemptAt"]) == (task_id, 1, None)
    assert (delivery["lastAttempt"]["status"], delivery["lastAttempt"]["error"]) == (204, None)


async def test_the_data_is_the_event_as_the_streams_push_it(service: Service, receiver: HookReceiver) -> None:
    await register(service.alice, receiver, events=["all"])

    task_id = await cancelled(service.alice)

    await receiver.has(2)
    bodies = sorted((message.body for message in receiver.messages), key=lambda body: body["data"]["sequence"])
    history = (await service.alice.get(f"/api/task/{task_id}/events"))["events"]
    assert [body["type"] for body in bodies] == ["task.submitted", "task.cancelled"]
    for body, entry in zip(bodies, history, strict=True):
        assert body["timestamp"] == entry["at"]
        assert body["data"] == {
            "type": entry["event"]["type"],
            "taskId": task_id,
            **{name: entry[name] for name in ("sequence", "at", "by")},
            "event": entry["event"],
        }


async def test_a_delivery_that_is_not_found_at_first_is_looked_up_again(
    service: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cluster, from a NATS server that was away and is behind."""
    looks: list[str] = []

    async def behind(*arguments: Any) -> StoredDelivery | None:
        looks.append(arguments[-1])
        return None if len(looks) == 1 else await waiting(*arguments)

    waiting = DeliveryStore.waiting
    monkeypatch.setattr(DeliveryStore, "waiting", behind)
    monkeypatch.setattr(lane, "LOOK_AGAIN", timedelta(seconds=0.1))
    await register(service.alice, receiver)
    await cancelled(service.alice)

    await receiver.has(1)
    assert len(looks) == 2


async def test_only_events_and_types_that_were_chosen_are_sent(service: Service, receiver: HookReceiver) -> None:
    await register(service.alice, receiver, events=["task.submitted"], types=["wanted"])

    for task_type in ("other", "wanted"):
        task_id = await service.alice.submit({"type": task_type, "payload": 1})
        await service.alice.post(f"/api/task/{task_id}/cancel")
    last = await service.alice.submit({"type": "wanted", "payload": 1})

    await receiver.has(2)
    assert receiver.types == ["task.submitted"] * 2
    assert last in {message.body["data"]["taskId"] for message in receiver.messages}


async def test_a_webhook_of_one_task_receives_all_its_events_and_no_others(
    service: Service, receiver: HookReceiver
) -> None:
    task_id = await service.alice.submit({"payload": 1})
    await register(service.alice, receiver, taskId=task_id, events=["all"])

    await cancelled(service.alice)
    await service.alice.post(f"/api/task/{task_id}/cancel")

    await receiver.has(2)
    assert {message.body["data"]["taskId"] for message in receiver.messages} == {task_id}
    assert sorted(receiver.types) == ["task.cancelled", "task.submitted"]


async def test_earlier_events_and_those_of_other_owners_are_not_sent(service: Service, receiver: HookReceiver) -> None:
    await cancelled(service.alice)
    webhook_id, _ = await register(service.alice, receiver)

    await cancelled(service.bob)
    task_id = await cancelled(service.alice)

    (message,) = await receiver.has(1)
    assert message.body["data"]["taskId"] == task_id
    assert len(await settled(service.alice, webhook_id, "delivered")) == 1


@pytest.mark.parametrize(
    ("position", "after", "end", "starts"),
    [
        (0, 0, 0, 0),
        (0, 5, 9, 5),
        (7, 5, 9, 7),
        (5, 7, 9, 7),  # enabled again later
        (9, 5, 7, 7),  # the log lost its last events
        (0, 9, 7, 7),  # registered in a log that an older one replaced
        (5, 9, 7, 7),
    ],
)
async def test_a_webhook_starts_at_no_position_past_the_end_of_the_log(
    api: Service, position: int, after: int, end: int, starts: int
) -> None:
    deliveries, ref = api.container.deliveries, WebhookRef("alice", "x")
    await deliveries.move(ref, position)

    assert await deliveries.start(ref, after, end) == starts
    await deliveries.move(ref, starts + 1)
    assert await deliveries.start(ref, after, 100) == starts + 1, "as the log passes the old position"
    assert await deliveries.start(ref, 50, 100) == 50, "enabled in this log"


async def test_a_webhook_of_a_log_that_was_replaced_gets_all_events_of_the_new_one(
    service: Service, receiver: HookReceiver
) -> None:
    put_back = await saved_log(service.container.appending)
    for _ in range(5):
        await cancelled(service.alice)
    webhook_id, _ = await register(service.alice, receiver)
    await put_back(service.container.appending)
    (end, ref) = (await read_extent(service.container.reading)).last, parse_webhook_id(webhook_id)

    async def has_started() -> bool:
        entry = await service.container.buckets.deliveries.get(f"position.{ref.owner}.{ref.unique}")
        return entry is not None and int(entry.value) == end

    await wait_until(has_started, "the webhook to start at the end of the new log")
    task_ids = [await cancelled(service.alice) for _ in range(8)]
    messages = await receiver.has(8)

    assert {message.body["data"]["taskId"] for message in messages} == set(task_ids)


async def test_a_webhook_registered_during_a_backup_gets_all_events_after_the_restore(
    nats_url: str, receiver: HookReceiver
) -> None:
    """Also if the restored log passes the sequence of its registration before a worker starts."""
    async with running_service(nats_url, worker=False, **QUICK) as service:
        put_back = await saved_log(service.container.appending)
        for _ in range(2):
            await cancelled(service.alice)
        await register(service.alice, receiver)
        await put_back(service.container.appending)
        await start_webhooks(service.container)
        task_ids = [await cancelled(service.alice) for _ in range(4)]
    async with running_service(nats_url, **QUICK):
        messages = await receiver.has(4)

    assert {message.body["data"]["taskId"] for message in messages} == set(task_ids)


async def test_a_test_is_sent_on_demand(service: Service, receiver: HookReceiver) -> None:
    webhook_id, secret = await register(service.alice, receiver)

    sent = await service.alice.post(f"/api/webhooks/{webhook_id}/test")

    (message,) = await receiver.has(1)
    assert sent.status == 200
    assert (message.type, message.id) == ("webhook.test", sent["messageId"])
    assert message.body["data"]["webhookId"] == webhook_id
    assert message.signatures == message.signature_with(secret)
    await settled(service.alice, webhook_id, "delivered")


async def test_a_rotated_secret_signs_beside_the_one_before(service: Service, receiver: HookReceiver) -> None:
    webhook_id, first = await register(service.alice, receiver)

    rotated = await service.alice.post(f"/api/webhooks/{webhook_id}/secret")
    await service.alice.post(f"/api/webhooks/{webhook_id}/test")

    (message,) = await receiver.has(1)
    assert rotated["secret"] != first
    assert rotated["previousUntil"] > time.time() * 1000
    assert message.signatures.split(" ") == [message.signature_with(rotated["secret"]), message.signature_with(first)]


# Receivers


async def test_a_refused_delivery_is_sent_again_with_the_same_id(service: Service, receiver: HookReceiver) -> None:
    receiver.answer = in_turn(500, 302, 200)
    webhook_id, secret = await register(service.alice, receiver)

    await cancelled(service.alice)

    messages = await receiver.has(3)
    (delivery,) = await settled(service.alice, webhook_id, "delivered")
    assert delivery["attempts"] == 3
    assert len({message.id for message in messages}) == len({message.raw for message in messages}) == 1
    assert all(message.signatures == message.signature_with(secret) for message in messages)


async def test_a_receiver_that_is_away_gets_it_when_it_is_back(nats_url: str, receiver: HookReceiver) -> None:
    async with running_service(nats_url, **QUICK | {"webhook_attempts": 50}) as service:
        webhook_id, _ = await register(service.alice, receiver)
        await receiver.stop()
        await cancelled(service.alice)

        async def tried() -> bool:
            found = await deliveries(service.alice, webhook_id, "?status=waiting")
            return bool(found) and found[0]["attempts"] > 1

        await wait_until(tried, "two tries")
        (waiting,) = await deliveries(service.alice, webhook_id)
        await receiver.start()

        await receiver.has(1)
        await settled(service.alice, webhook_id, "delivered")
    assert waiting["lastAttempt"]["status"] is None
    assert waiting["lastAttempt"]["error"] == NO_ANSWER
    assert waiting["nextAttemptAt"] > waiting["createdAt"]


async def test_a_receiver_that_does_not_answer_in_time_is_tried_again(service: Service, receiver: HookReceiver) -> None:
    async def once(message: Message) -> Any:
        return await (hang if len(receiver.messages) == 1 else answers(200))(message)

    receiver.answer = once
    webhook_id, _ = await register(service.alice, receiver)

    await cancelled(service.alice)

    (delivery,) = await settled(service.alice, webhook_id, "delivered")
    assert delivery["attempts"] == 2


async def test_after_the_last_try_it_has_failed_and_is_sent_again_by_hand(
    service: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.webhooks.client.is_public", lambda ip: ip == "127.0.0.1")
    receiver.answer = answers(503, "down\nfor maintenance")
    webhook_id, _ = await register(service.alice, receiver)
    await cancelled(service.alice)
    (failed,) = await settled(service.alice, webhook_id, "failed")
    receiver.answer = answers(200)

    asked = await service.alice.post(f"/api/webhooks/{webhook_id}/deliveries/{failed['id']}/retry")

    (delivered,) = await settled(service.alice, webhook_id, "delivered")
    assert (failed["attempts"], failed["nextAttemptAt"]) == (3, None)
    assert failed["lastAttempt"]["error"] == "the receiver answered 503"
    assert failed["lastAttempt"]["body"] == "down for maintenance"
    assert (asked.status, asked["status"]) == (200, "waiting")
    assert (delivered["id"], delivered["attempts"]) == (failed["id"], 4)
    assert len({message.id for message in receiver.messages}) == 1
    assert await deliveries(service.alice, webhook_id) == [delivered]

    await service.alice.done("POST", f"/api/webhooks/{webhook_id}/deliveries/{failed['id']}/retry")
    assert len({message.id for message in await receiver.has(5)}) == 1


async def test_a_410_disables_it_until_it_is_enabled(service: Service, receiver: HookReceiver) -> None:
    receiver.answer = answers(410)
    webhook_id, _ = await register(service.alice, receiver)
    await cancelled(service.alice)

    (failed,) = await settled(service.alice, webhook_id, "failed")
    disabled = await service.alice.done("GET", f"/api/webhooks/{webhook_id}")
    await cancelled(service.alice)
    refused = await service.alice.post(f"/api/webhooks/{webhook_id}/test")
    receiver.answer = answers(200)
    enabled = await service.alice.call("PATCH", f"/api/webhooks/{webhook_id}", {"active": True})
    task_id = await cancelled(service.alice)

    assert (failed["attempts"], failed["lastAttempt"]["status"]) == (1, 410)
    assert disabled["active"] is False
    assert "410" in disabled["disabledReason"]
    assert refused.status == 409
    assert (enabled["active"], enabled["disabledReason"]) == (True, None)
    messages = await receiver.has(2)
    assert messages[1].body["data"]["taskId"] == task_id  # and not what came while it was disabled
    await settled(service.alice, webhook_id, "delivered")


async def test_a_receiver_that_hangs_holds_up_its_own_deliveries_only(
    nats_url: str, backend: BackendServer, receiver: HookReceiver
) -> None:
    async with running_service(nats_url, **QUICK | {"webhook_timeout": 300.0}) as service, HookReceiver(hang) as stuck:
        await service.admin.register(backend, "one")
        hung, _ = await register(service.alice, stuck)
        good, _ = await register(service.alice, receiver)
        bobs, _ = await register(service.bob, receiver)

        for client in (service.alice, service.bob) * 10:
            await client.ended(await client.submit({"payload": 1}))

        await settled(service.alice, good, "delivered", 10)
        await settled(service.bob, bobs, "delivered", 10)
        assert len(await deliveries(service.alice, hung, "?status=waiting")) == 10
        assert stuck.most_at_once == 4


async def test_the_backlog_of_a_slow_receiver_waits_in_the_log(
    service: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "MOST_WAITING", 5)
    monkeypatch.setattr(lane, "SAVE_SECONDS", 0.05)
    receiver.answer = hang
    webhook_id, _ = await register(service.alice, receiver)
    ended = {await cancelled(service.alice) for _ in range(30)}
    await receiver.has(4)
    behind = await deliveries(service.alice, webhook_id)
    receiver.answer = answers(200)

    await settled(service.alice, webhook_id, "delivered", 30 - 4)

    assert len(behind) < 15
    await wait_until(lambda: {message.body["data"]["taskId"] for message in receiver.messages} == ended, "all of them")


async def test_a_receiver_that_is_back_receives_waiting_deliveries_at_once(
    nats_url: str, receiver: HookReceiver
) -> None:
    receiver.answer = answers(503)
    async with running_service(nats_url, webhook_retry_base=3600.0) as service:
        webhook_id, _ = await register(service.alice, receiver)
        for _ in range(lane.DOWN_AFTER):
            await cancelled(service.alice)
        await receiver.has(lane.DOWN_AFTER)
        receiver.answer = answers(200)

        await service.alice.post(f"/api/webhooks/{webhook_id}/test")

        await settled(service.alice, webhook_id, "delivered", lane.DOWN_AFTER + 1)


async def test_outcomes_of_deliveries_are_in_the_metrics(service: Service, receiver: HookReceiver) -> None:
    async def measured() -> dict[str, float]:
        text = (await service.alice.get("/metrics")).body
        lines = [line.split() for line in text.splitlines() if line.startswith("taskstream_webhook")]
        return {name: float(value) for name, value in lines}

    receiver.answer = in_turn(500, 200, 410)
    before = await measured()
    webhook_id, _ = await register(service.alice, receiver)
    await cancelled(service.alice)
    await settled(service.alice, webhook_id, "delivered", 1)
    await cancelled(service.alice)
    await settled(service.alice, webhook_id, "failed", 1)
    after = await measured()

    grown = {name: value - before.get(name, 0) for name, value in after.items() if not name.endswith("_created")}
    outcomes = ("retried", "delivered", "gone")
    assert [grown[f'taskstream_webhook_tries_total{{outcome="{one}"}}'] for one in outcomes] == [1, 1, 1]
    assert grown["taskstream_webhook_lag_seconds_count"] == 1
    assert after["taskstream_webhook_deliveries_waiting"] == 0


async def test_it_waits_as_long_as_the_receiver_asks(nats_url: str, receiver: HookReceiver) -> None:
    receiver.answer = answers(429, **{"Retry-After": "1000"})
    async with running_service(nats_url) as service:
        webhook_id, _ = await register(service.alice, receiver)
        await cancelled(service.alice)
        await receiver.has(1)

        async def noted() -> Any:
            return [found for found in await deliveries(service.alice, webhook_id) if found["attempts"]]

        (waiting,) = await wait_until(noted, "the note")
    assert 995_000 < waiting["nextAttemptAt"] - waiting["lastAttempt"]["at"] < 1_010_000


async def test_waiting_deliveries_of_a_deleted_webhook_are_dropped(service: Service, receiver: HookReceiver) -> None:
    receiver.answer = hang
    webhook_id, _ = await register(service.alice, receiver)
    await cancelled(service.alice)
    await receiver.has(1)
    bucket = service.container.buckets.deliveries

    await service.alice.delete(f"/api/webhooks/{webhook_id}")

    async def gone() -> bool:
        return not await bucket.scan("waiting.>") and not receiver.running

    await wait_until(gone, "nothing to wait")


async def test_a_deleted_webhooks_secrets_are_overwritten_on_disk(
    api: Service, receiver: HookReceiver, nats: NatsServer
) -> None:
    secrets = api.container.buckets.secrets
    webhook_id, _ = await register(api.alice, receiver)
    await api.alice.post(f"/api/webhooks/{webhook_id}/secret")
    sealed = [entry.value for entry in await secrets.scan("webhook.>")]

    def on_disk() -> int:
        stored = b"".join(path.read_bytes() for path in nats.folder.rglob("*.blk"))
        return sum(value in stored for value in sealed)

    assert on_disk() == 2

    await api.alice.delete(f"/api/webhooks/{webhook_id}")

    assert not await secrets.scan_writes("webhook.>")
    assert on_disk() == 0


# Registration


async def test_an_owner_has_at_most_the_limit_of_webhooks(
    api: Service, receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.api.routes.webhooks.MOST_PER_OWNER", 2)
    ids = [(await register(api.alice, receiver))[0] for _ in range(2)]

    refused = await api.alice.post("/api/webhooks", {"url": receiver.url})
    await api.alice.delete(f"/api/webhooks/{ids[0]}")

    assert refused.status == 409
    await register(api.alice, receiver)
    await register(api.bob, receiver)


@pytest.mark.parametrize(
    ("path", "body", "module"),
    [
        ("/api/webhooks", {"url": "https://example.org/hook"}, "webhooks"),
        ("/api/schedules", {"cron": "@yearly", "task": {"payload": 1}}, "schedules"),
    ],
    ids=["webhooks", "schedules"],
)
async def test_no_race_takes_an_owner_over_the_limit(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], module: str
) -> None:
    """Of requests to two processes at the same time, as many succeed as there is room for, and no fewer."""
    monkeypatch.setattr(f"taskstream.api.routes.{module}.MOST_PER_OWNER", 3)
    async with running_service(nats_url, worker=False) as one, running_service(nats_url, worker=False) as two:
        await one.alice.done("POST", path, body)

        answers = await asyncio.gather(*(service.alice.post(path, body) for service in (one, two) for _ in range(6)))

        assert sorted(answer.status for answer in answers) == [200] * 2 + [409] * 10
        assert (await one.bob.post(path, body)).status == 200
        found = await one.alice.done("GET", path)
        assert len(found[module]) == 3
        await one.alice.done("DELETE", f"{path}/{found[module][0]['id']}")
        assert (await two.alice.post(path, body)).status == 200


PRIVATE_URLS = (
    "http://127.0.0.1:9/hook", "http://169.254.169.254/", "http://[::1]/", "http://10.0.0.1/", "http://0.0.0.0/",
    "http://[::ffff:127.0.0.1]/", "http://localhost:4222/", "http://nats.localhost./", "http://2130706433/",
)  # fmt: skip


async def test_private_backends_allow_no_private_webhooks(nats_url: str, receiver: HookReceiver) -> None:
    """Also where the tour allows the first: a user's webhook reads no service of this machine."""
    async with running_service(nats_url, **QUICK) as service:
        known, _ = await register(service.alice, receiver)  # allowed, until now
    async with running_service(nats_url, **QUICK | {"webhook_allow": ()}) as service:
        for url in PRIVATE_URLS:
            answer = await service.alice.post("/api/webhooks", {"url": url})
            assert answer.status == 400, url
            assert "TASKSTREAM_WEBHOOK_ALLOW" in answer["error"] or "cannot be used" in answer["error"] or "2130" in url
            changed = await service.alice.call("PATCH", f"/api/webhooks/{known}", {"url": url})
            assert changed.status == 400, url
        assert (await service.alice.call("PATCH", f"/api/webhooks/{known}", {"active": True})).status == 400
        await cancelled(service.alice)
        (failed,) = await settled(service.alice, known, "failed")
        last = failed["lastAttempt"]
        assert "TASKSTREAM_WEBHOOK_ALLOW" in last["error"]
        assert (last["status"], last["body"], last["elapsedMs"]) == (None, "", 0)
    assert receiver.messages == []


async def test_a_closed_port_an_open_one_and_a_name_cannot_be_told_apart(nats_url: str, receiver: HookReceiver) -> None:
    """By an error about an address that is refused; nor whether an inside name exists."""
    async with running_service(nats_url, **QUICK | {"webhook_attempts": 1, "webhook_allow": ()}) as service:

        async def inside(host: str, port: int, family: int) -> list[Any]:
            if host == "unknown.internal":
                raise OSError("no such name")
            return await resolve_by_system("127.0.0.1", port, socket.AF_INET)

        policy = service.container.webhook_egress
        policy._resolve = inside
        port = receiver.url.split(":")[2]
        for url in (f"http://known.internal:{port}", "http://known.internal:9/", "http://unknown.internal/"):
            hook = await service.alice.done("POST", "/api/webhooks", {"url": url})
            await service.alice.done("POST", f"/api/webhooks/{hook['webhook']['id']}/test")
            (failed,) = await settled(service.alice, hook["webhook"]["id"], "failed")
            assert failed["lastAttempt"] | {"at": 0} == {
                "at": 0, "status": None, "error": NO_ADDRESS, "body": "", "elapsedMs": 0,
            }  # fmt: skip
    assert receiver.messages == []


async def test_of_an_answer_from_a_private_address_only_status_and_time_are_shown(
    service: Service, receiver: HookReceiver
) -> None:
    """And nothing of how a call without an answer failed, which would tell open ports from closed ones."""
    receiver.answer = answers(404, "the secret of an inside service")
    webhook_id, _ = await register(service.alice, receiver)
    await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
    (failed,) = await settled(service.alice, webhook_id, "failed")
    assert (failed["lastAttempt"]["status"], failed["lastAttempt"]["body"]) == (404, "")
    async with RawServer(lambda _: b"SSH-2.0-OpenSSH_9.6\r\n") as ssh:
        for url in (f"{ssh.url}/hook", "http://127.0.0.1:9/hook"):
            await service.alice.call("PATCH", f"/api/webhooks/{webhook_id}", {"url": url})
            sent = await service.alice.done("POST", f"/api/webhooks/{webhook_id}/test")
            path = f"/api/webhooks/{webhook_id}/deliveries/{sent['id']}"
            found = await service.alice.until(path, lambda delivery: delivery["status"] == "failed", "the test to fail")
            assert found["lastAttempt"]["error"] == NO_ANSWER
            assert found["lastAttempt"]["body"] == ""


async def test_owners_see_their_own_and_admins_all(api: Service, receiver: HookReceiver) -> None:
    webhook_id, _ = await register(api.alice, receiver)
    path = f"/api/webhooks/{webhook_id}"

    assert (await api.bob.get("/api/webhooks"))["webhooks"] == []
    assert await api.bob.refusal("GET", "/api/webhooks?owner=alice") == (403, None)
    for client in (api.admin, api.auditor):
        assert [found["id"] for found in (await client.get("/api/webhooks"))["webhooks"]] == [webhook_id]
        assert (await client.get(path))["owner"] == "alice"
    assert await api.auditor.refusal("DELETE", path) == (403, None)
    assert await api.alice.refusal("GET", f"{path}/deliveries/01KDW1Z6P0C6N4T0Z5V3Q9H8RB") == (404, None)
    await api.admin.done("DELETE", path)
    assert await api.alice.refusal("GET", path) == (404, None)


async def test_a_webhook_is_changed_in_parts_listed_by_pages_and_deleted(api: Service, receiver: HookReceiver) -> None:
    ids = [(await register(api.alice, receiver, description=str(number)))[0] for number in range(3)]

    changed = await api.alice.call("PATCH", f"/api/webhooks/{ids[0]}", {"events": ["progress"], "types": ["a"]})
    pages = await api.alice.pages("/api/webhooks", "webhooks", "limit=2")
    deleted = await api.alice.delete(f"/api/webhooks/{ids[0]}")

    assert (changed["events"], changed["types"], changed["url"]) == (["task.progressed"], ["a"], receiver.url)
    assert changed["description"] == "0"
    newest_first = sorted(ids, reverse=True)
    assert [[found["id"] for found in page] for page in pages] == [newest_first[:2], newest_first[2:]]
    assert deleted.body == {"id": ids[0], "success": True}
    assert (await api.alice.get(f"/api/webhooks/{ids[0]}")).status == 404
    assert len((await api.alice.get("/api/webhooks"))["webhooks"]) == 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "url"),
    ({"url": "http://h.example/", "events": ["TaskSucceeded"]}, "$.events"),
    ({"url": "http://h.example/", "events": []}, "$.events"),
    ({"url": "http://h.example/", "taskId": "01KDW1Z6P00000000000000000~bob"}, "$.taskId"),
    ({"url": "http://h.example/", "secret": "mine"}, "secret"),
]


async def test_a_wrong_registration_is_refused_with_the_reason(api: Service) -> None:
    for body, path in WRONG:
        answer = await api.alice.post("/api/webhooks", body)

        assert answer.status == 400, body
        assert path in str(answer.body)


async def test_deliveries_are_listed_by_pages_the_last_to_change_first(
    service: Service, receiver: HookReceiver
) -> None:
    webhook_id, _ = await register(service.alice, receiver)
    other, _ = await register(service.alice, receiver)
    for _ in range(7):
        await cancelled(service.alice)
    await settled(service.alice, webhook_id, "delivered", 7)
    await settled(service.alice, other, "delivered", 7)
    whole = await deliveries(service.alice, webhook_id)

    assert await service.alice.listed(f"/api/webhooks/{webhook_id}/deliveries", "deliveries", "limit=3") == whole
    assert len({found["id"] for found in whole}) == 7
    ended = [found["endedAt"] for found in whole]
    assert ended == sorted(ended, reverse=True)
    assert await deliveries(service.alice, webhook_id, "?status=failed") == []


async def test_a_secret_is_shown_once_and_kept_nowhere_in_the_clear(
    api: Service, receiver: HookReceiver, nats: NatsServer
) -> None:
    webhook_id, secret = await register(api.alice, receiver)

    shown = [await api.alice.get(f"/api/webhooks/{webhook_id}"), await api.admin.get("/api/webhooks")]

    assert all(secret not in str(answer.body) for answer in shown)
    stored = [file.read_bytes() for file in nats.folder.rglob("*") if file.is_file()]
    assert any(webhook_id.encode() in content for content in stored)
    assert not any(secret.removeprefix("whsec_").encode() in content for content in stored)
