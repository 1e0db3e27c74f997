"""Batches, schedules, webhooks, servers, types, files by the Python client, on a real service."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest

from taskstream_client import (
    AsyncClient,
    BadSignature,
    Ended,
    NewTask,
    NotFound,
    Refused,
    TaskstreamError,
    Unauthorized,
    verify,
)
from testkit.backend import BackendServer
from testkit.receiver import HookReceiver, Message
from testkit.service import Service, running_service, token
from testkit.waiting import wait_until

from .conftest import Threaded


async def test_a_batch_of_any_size_is_submitted_once_per_key(alice: AsyncClient) -> None:
    items = [NewTask(type="shout", payload=number, delay=3600) for number in range(2300)]
    items[5] = NewTask(type="shout", payload="late", depends_on=[4, 999])
    items[2299] = NewTask(type="shout", payload="last", depends_on=[0, 2298])

    batch = await alice.batch(items, idempotency_key="k")
    again = await alice.batches.submit(items, idempotency_key="k")

    assert (len(batch.batch_ids), len(set(batch.task_ids)), batch.repeated) == (3, 2300, False)
    assert (again.task_ids, again.repeated) == (batch.task_ids, True)
    assert (await alice.tasks.get(batch.task_ids[5])).depends_on == [batch.task_ids[4], batch.task_ids[999]]
    assert (await alice.tasks.get(batch.task_ids[-1])).depends_on == [batch.task_ids[0], batch.task_ids[2298]]
    assert [task.index async for task in alice.batches.tasks(batch.batch_ids[2])] == list(range(300))
    assert [found.id async for found in alice.batches.list()] == batch.batch_ids[::-1]
    assert (await alice.batches.cancel(batch.batch_ids[2])).done == 300


async def test_a_batch_that_cannot_be_submitted_in_order_stores_nothing(alice: AsyncClient) -> None:
    items: list[Any] = [{"payload": number} for number in range(1500)]
    items[0] = {"payload": 0, "dependsOn": [1400]}

    with pytest.raises(ValueError, match="item 0 depends on item 1400"):
        await alice.batch(items)
    with pytest.raises(Refused, match=r"item 1: \$\.priority"):
        await alice.batch([{"payload": 1}, {"payload": 2, "priority": "urgent"}])

    assert [task async for task in alice.tasks.list()] == []
    assert (await alice.batch([])).task_ids == []


async def test_the_stream_of_a_batch_ends_with_its_last_task(
    service: Service, backend: BackendServer, alice: AsyncClient
) -> None:
    await service.admin.register(backend, "one")
    batch = await alice.batch([NewTask(payload=number) for number in range(5)])

    updates = [update async for update in alice.batches.stream(batch.batch_ids[0], after="0")]

    ended = {update.task_id for update in updates if isinstance(update, Ended)}
    assert ended == set(batch.task_ids)
    assert (await alice.batches.get(batch.batch_ids[0])).done
    results = [task.data async for task in alice.batches.tasks(batch.batch_ids[0], results=True)]
    assert results == [{"echo": number} for number in range(5)]


async def test_schedules_are_made_changed_paused_run_and_deleted(alice: AsyncClient, blocking: Threaded) -> None:
    task = NewTask(type="report", payload={"of": "yesterday"})
    made = await alice.schedules.create(
        "30 2 * * *", task, time_zone="Europe/Berlin", name="nightly", idempotency_key="k"
    )

    assert (await alice.schedules.create("30 2 * * *", task, time_zone="Europe/Berlin", name="nightly",
                                         idempotency_key="k")).id == made.id  # fmt: skip
    assert (made.name, made.next_at, len(made.next_runs)) == ("nightly", made.next_runs[0], 5)
    changed = await alice.schedules.update(made.id, cron="0 3 * * *")
    assert (changed.cron, changed.name) == ("0 3 * * *", "nightly")
    assert (await alice.schedules.pause(made.id, reason="holiday")).pause_reason == "holiday"
    assert not (await alice.schedules.resume(made.id)).paused
    run = await alice.schedules.run(made.id)
    assert [each.id async for each in alice.tasks.list(schedule=made.id)] == [run]
    assert len([each async for each in alice.schedules.runs(made.id)]) == 1
    assert await blocking(lambda client: [each.id for each in client.schedules.list()]) == [made.id]
    assert "03:00" in (await alice.schedules.preview("0 3 * * *")).words
    await alice.schedules.delete(made.id)
    with pytest.raises(NotFound):
        await alice.schedules.get(made.id)


def headers_of(message: Message) -> dict[str, str]:
    return {
        "Webhook-Id": message.id,
        "webhook-timestamp": message.timestamp,
        "webhook-signature": message.signatures,
    }


async def test_a_message_of_a_webhook_is_verified_and_a_changed_one_is_not(nats_url: str) -> None:
    async with (
        HookReceiver() as receiver,
        running_service(nats_url) as service,
        AsyncClient(service.url, token("alice")) as alice,
    ):
        made = await alice.webhooks.create(receiver.url, events=["task.submitted"], types=["shout"])
        task = await alice.submit("shout", {}, delay=3600)
        await wait_until(lambda: receiver.messages, "the message")
        rotated = await alice.webhooks.rotate_secret(made.webhook.id)
        deliveries = [each async for each in alice.webhooks.deliveries(made.webhook.id)]
    call = receiver.messages[0]
    headers = headers_of(call)

    message = verify(call.raw, headers, [rotated.secret, made.secret])

    assert (message.type, message.task_id) == ("task.submitted", task.id)
    assert message.update is not None
    assert message.update.task_id == task.id
    assert [each.type for each in deliveries] == ["task.submitted"]
    assert "whsec" not in repr(made)
    assert made.secret != rotated.secret
    later = float(call.timestamp) + 301
    for changes in (
        {"body": call.raw + b" "},
        {"secret": rotated.secret},
        {"headers": {}},
        {"headers": {**headers, "webhook-timestamp": "soon"}},
        {"headers": {**headers, "Webhook-Id": "msg_other"}},
        {"now": lambda: later},
    ):
        given: dict[str, Any] = {"body": call.raw, "headers": headers, "secret": made.secret, **changes}
        with pytest.raises(BadSignature):
            verify(**given)
    assert verify(call.raw, headers, made.secret, now=lambda: later, tolerance=302).id == message.id


async def test_webhooks_are_listed_changed_tested_and_deleted(nats_url: str) -> None:
    async with (
        HookReceiver() as receiver,
        running_service(nats_url) as service,
        AsyncClient(service.url, token("alice")) as alice,
    ):
        made = await alice.webhooks.create(receiver.url, description="mine")
        assert [each.id async for each in alice.webhooks.list(counts=True)] == [made.webhook.id]
        assert not (await alice.webhooks.update(made.webhook.id, active=False)).active
        assert (await alice.webhooks.update(made.webhook.id, active=True)).active
        delivery = await alice.webhooks.test(made.webhook.id)
        await wait_until(lambda: receiver.messages, "the message")
        assert verify(receiver.messages[0].raw, headers_of(receiver.messages[0]), made.secret).type == "webhook.test"
        await alice.webhooks.retry_delivery(made.webhook.id, delivery.id)
        await alice.webhooks.delete(made.webhook.id)
        with pytest.raises(NotFound):
            await alice.webhooks.get(made.webhook.id)


async def test_admins_register_change_drain_and_remove_servers(root: AsyncClient, backend: BackendServer) -> None:
    server = await root.servers.register(
        "one", predict=f"{backend.url}/predict", types="shout", max_concurrent=3, labels={"gpu": "a100"},
        settings={"weight": 2},
    )  # fmt: skip

    assert (server.types, server.max_concurrent, server.labels, server.weight) == (["shout"], 3, {"gpu": "a100"}, 2)
    assert (await root.servers.update("one", {"weight": 3, "labels": {}})).weight == 3
    assert await root.servers.drain("one", reason="new disk") == 0
    assert (await root.servers.get("one")).maintenance
    await root.servers.resume("one")
    assert (await root.servers.register("two")).mode == "pull"
    assert [each.id async for each in root.servers.list()] == ["one", "two"]
    await root.servers.delete("one")
    defined = await root.types.define("shout", {"attempts": 7, "description": "louder"})
    assert (defined.attempts, (await root.types.get("shout")).description) == (7, "louder")
    assert "shout" in [each.name async for each in root.types.list()]
    await root.types.delete("shout")


async def test_files_are_uploaded_read_linked_and_deleted(
    alice: AsyncClient, blocking: Threaded, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 4000
    path = tmp_path / "picture.png"
    path.write_bytes(content)

    file = await alice.files.upload(path, purpose="test", idempotency_key="k")
    again = await blocking(lambda client: client.files.upload(path, purpose="test", idempotency_key="k"))
    small = await alice.files.upload(io.BytesIO(b"skipped hello"), name="a.txt")

    assert (file.name, file.media_type, file.bytes) == ("picture.png", "image/png", len(content))
    assert (file.sha256, again.id) == (hashlib.sha256(content).hexdigest(), file.id)
    assert [each.id async for each in alice.files.list(purpose="test")] == [file.id]
    assert await alice.files.read(file.id) == content
    assert await blocking(lambda client: client.files.download(file.id, tmp_path / "b.png")) == len(content)
    assert (tmp_path / "b.png").read_bytes() == content
    assert (await alice.files.get(small.id)).media_type == "text/plain"
    assert small.ref == {"$file": small.id}
    assert (await alice.files.link(file.id, expires_in=60)).url.startswith("http")
    await alice.files.delete(file.id)
    with pytest.raises(NotFound):
        await alice.files.read(file.id)
    with pytest.raises(Refused, match="sha256"):
        await alice.files.upload(b"x", sha256="0" * 64)


async def test_an_api_key_is_made_used_listed_and_revoked(service: Service, alice: AsyncClient) -> None:
    made = await alice.keys.create("nightly job", types=["shout"])

    async with AsyncClient(service.url, made.key) as limited:
        assert (await limited.submit("shout", {}, delay=3600)).owner == "alice"
        with pytest.raises(TaskstreamError):
            await limited.submit("other", {}, delay=3600)
        assert [each.name async for each in alice.keys.list()] == ["nightly job"]
        assert (await alice.keys.get(made.details.id)).types == ["shout"]
        await alice.keys.revoke(made.details.id, reason="done")
        with pytest.raises(Unauthorized):
            await limited.submit("shout", {}, delay=3600)
    assert made.key not in repr(made)
    assert (await alice.keys.get(made.details.id)).status == "revoked"


async def test_any_other_request_has_the_same_errors(alice: AsyncClient) -> None:
    assert "series" in await alice.request("GET", "/api/stats")
    with pytest.raises(NotFound):
        await alice.request("GET", "/api/nothing")
    with pytest.raises(ValueError, match="slash"):
        await alice.request("GET", "api/stats")
    with pytest.raises(TaskstreamError, match="empty"):
        await alice.tasks.get("")
