"""Webhooks of predictions: signed as Replicate signs, decided from the log, delivered like any other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskstream.events.codec import task_codec
from taskstream.events.envelope import Actor, Recorded, Stored
from taskstream.events.ids import TaskRef, facade_webhook_ref, new_ref
from taskstream.events.kinds import word_of
from taskstream.events.subjects import task_root
from taskstream.events.task import AttemptStarted, ProgressReported, TaskCancelled, TaskEvent
from taskstream.push.updates import LoggedEvent, event_at
from taskstream.streams.jetstream.messages import Position
from taskstream.webhooks.prediction_events import PredictionEvents
from testkit.backend import BackendServer, accept, hold
from testkit.receiver import HookReceiver, answers, in_turn, settled
from testkit.service import Service, running_service
from testkit.waiting import wait_until

from .conftest import FLUX

V1 = "/replicate/v1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REF = new_ref("alice", NOW, 0)


@pytest.fixture
async def receiver() -> AsyncIterator[HookReceiver]:
    async with HookReceiver() as started:
        yield started


def webhook_of(owner: str = "alice") -> str:
    return str(facade_webhook_ref(owner, "replicate").id)


async def created(service: Service, url: str, *events: str) -> Any:
    """Create a prediction with a webhook."""
    body = {"input": {}, "webhook": url, **({"webhook_events_filter": list(events)} if events else {})}
    answer = await service.alice.post(f"{V1}/models/acme/flux/predictions", body)
    assert answer.status == 201, answer
    return answer.body


async def test_the_end_of_a_prediction_is_its_body_signed_with_the_owners_secret(
    service: Service, receiver: HookReceiver
) -> None:
    secret = (await service.alice.done("GET", f"{V1}/webhooks/default/secret"))["key"]
    prediction = await created(service, receiver.url + "?id=7", "completed")

    await wait_until(lambda: receiver.messages, "the message")

    (message,) = receiver.messages
    assert message.signatures == message.signature_with(secret)
    assert "_" not in secret.removeprefix("whsec_")
    shown = {name: message.body[name] for name in ("id", "status", "output", "webhook", "webhook_events_filter")}
    assert shown == {
        "id": prediction["id"],
        "status": "succeeded",
        "output": {"echo": {}},
        "webhook": receiver.url + "?id=7",
        "webhook_events_filter": ["completed"],
    }
    assert message.body["urls"]["get"] == f"{service.url}{V1}/predictions/{prediction['id']}"


async def test_the_secret_is_the_owners_and_stays(service: Service) -> None:
    first = await service.alice.done("GET", f"{V1}/webhooks/default/secret")

    assert await service.alice.done("GET", f"{V1}/webhooks/default/secret") == first
    assert await service.bob.done("GET", f"{V1}/webhooks/default/secret") != first
    assert (await service.auditor.get(f"{V1}/webhooks/default/secret")).status == 403


async def test_without_a_filter_every_event_comes_as_it_was_then(
    service: Service, receiver: HookReceiver, backend: BackendServer
) -> None:
    backend.answer = accept
    prediction = await created(service, receiver.url)
    await wait_until(lambda: backend.calls, "the call")
    call = backend.calls[0]

    async def report(update: Any) -> None:
        headers = {"Authorization": f"Bearer {call['callback_token']}"}
        async with service.alice.session.put(call["callback_url"], json=update, headers=headers) as response:
            assert response.status == 200

    await report({"metadata": {"status": "PROCESSING", "log": "warm", "progress": 40}})
    await wait_until(lambda: len(receiver.messages) == 2, "the start and the logs")
    await report({"data": "done", "metadata": {"status": "FINISHED"}})
    await wait_until(lambda: len(receiver.messages) == 3, "the end")

    start, logs, end = sorted((message.body for message in receiver.messages), key=lambda body: len(body["logs"]))
    assert {message["id"] for message in (start, logs, end)} == {prediction["id"]}
    assert (start["status"], start["logs"], start["output"]) == ("processing", "", None)
    assert (logs["status"], logs["logs"]) == ("processing", "warm\n 40%|████      | 40/100")
    assert (end["status"], end["output"]) == ("succeeded", "done")


async def test_a_receiver_that_is_gone_or_asks_to_wait_delays_no_other(service: Service) -> None:
    async with HookReceiver(answers(410)) as gone, HookReceiver(answers(429)) as full, HookReceiver() as well:
        for url in (gone.url, full.url):
            await created(service, url, "completed")
        await settled(service.alice, webhook_of(), "failed", 2)

        await created(service, well.url, "completed")

        await wait_until(lambda: well.messages, "the message to the other receiver")
        assert (len(gone.messages), len(full.messages)) == (1, 3)


async def test_a_delivery_is_retried_with_the_same_id(service: Service, receiver: HookReceiver) -> None:
    receiver.answer = in_turn(500, 204)

    await created(service, receiver.url, "completed")

    await wait_until(lambda: len(receiver.messages) == 2, "the second try")
    assert receiver.messages[0].id == receiver.messages[1].id


async def test_deliveries_are_listed_with_the_owners_webhooks(service: Service, receiver: HookReceiver) -> None:
    prediction = await created(service, receiver.url, "completed")
    await settled(service.alice, webhook_of(), "delivered")

    webhook = await service.alice.done("GET", f"/api/webhooks/{webhook_of()}")
    (delivery,) = (await service.alice.done("GET", f"/api/webhooks/{webhook_of()}/deliveries"))["deliveries"]
    message = await service.alice.done("GET", f"/api/webhooks/{webhook_of()}/deliveries/{delivery['id']}/body")

    assert (webhook["url"], webhook["facade"], webhook["counts"]["delivered"]) == ("", "replicate", 1)
    assert (delivery["type"], delivery["taskId"]) == ("prediction.completed", prediction["id"])
    assert message["url"] == receiver.url
    assert message["body"] == receiver.messages[0].raw.decode()


async def test_the_webhook_of_predictions_is_stopped_and_not_deleted(
    service: Service, receiver: HookReceiver, backend: BackendServer
) -> None:
    await service.alice.done("GET", f"{V1}/webhooks/default/secret")
    path = f"/api/webhooks/{webhook_of()}"

    assert (await service.alice.delete(path)).status == 409
    assert (await service.alice.call("PATCH", path, {"url": receiver.url})).status == 409
    assert (await service.alice.post(f"{path}/test")).status == 409
    assert (await service.alice.call("PATCH", path, {"active": False})).status == 200
    backend.answer = hold
    await created(service, receiver.url)
    assert (await service.alice.call("PATCH", path, {"active": True})).status == 200
    assert (await service.alice.done("GET", path))["active"]


async def test_tasks_of_the_own_api_are_not_sent(service: Service, receiver: HookReceiver) -> None:
    await service.alice.done("GET", f"{V1}/webhooks/default/secret")
    await service.alice.ended(await service.alice.submit({"type": "flux", "payload": {}}))

    await created(service, receiver.url, "completed")

    await wait_until(lambda: receiver.messages, "the message")
    assert len(await service.alice.listed(f"/api/webhooks/{webhook_of()}/deliveries", "deliveries")) == 1


# What is sent, decided from the log


def logged(event: TaskEvent, milliseconds: int = 0, ref: TaskRef = REF) -> LoggedEvent:
    recorded: Recorded[TaskEvent] = Recorded(
        id="e", at=NOW + timedelta(milliseconds=milliseconds), by=Actor("system", "test"), event=event
    )
    subject = f"{task_root(ref)}.{word_of(type(event))}"
    found = event_at(Position(1, subject, task_codec.encode(recorded)))
    assert found is not None
    assert isinstance(found.stored, Stored)
    return found


def started(attempt: int = 1) -> AttemptStarted:
    return AttemptStarted(attempt=attempt, server_id="s", worker_id="w", deadline=NOW)


def test_the_first_attempt_is_the_start() -> None:
    chosen = PredictionEvents()

    assert chosen.word_of(logged(started()), ()) == "start"
    assert chosen.word_of(logged(started(2)), ()) is None
    assert chosen.word_of(logged(started()), ("completed",)) is None


def test_output_and_logs_come_at_most_once_in_half_a_second() -> None:
    chosen = PredictionEvents()
    output, lines = ProgressReported(attempt=1, output="a"), ProgressReported(attempt=1, lines=("x",))

    assert [chosen.word_of(logged(output, at), ()) for at in (0, 200, 499, 500, 900)] == [
        "output", None, None, "output", None,
    ]  # fmt: skip
    assert chosen.word_of(logged(lines, 1_000), ()) == "logs"
    assert chosen.word_of(logged(lines, 1_000, new_ref("alice", NOW, 1)), ()) == "logs"


def test_a_report_is_the_first_of_its_events_that_is_wanted() -> None:
    both = ProgressReported(attempt=1, output="a", lines=("x",), progress=3.0)

    assert PredictionEvents().word_of(logged(both), ("logs", "completed")) == "logs"
    assert PredictionEvents().word_of(logged(both), ()) == "output"
    assert PredictionEvents().word_of(logged(both), ("completed",)) is None
    assert PredictionEvents().word_of(logged(ProgressReported(attempt=1, message="m")), ()) is None


def test_the_end_is_always_told_to_those_who_want_it() -> None:
    end = TaskCancelled(attempt=0, server_id="", reason="r")

    assert PredictionEvents().word_of(logged(end), ()) == "completed"
    assert PredictionEvents().word_of(logged(end), ("output",)) is None


async def test_an_end_while_no_worker_runs_is_sent_by_the_next_one(nats_url: str, receiver: HookReceiver) -> None:
    async with running_service(nats_url, worker=False) as running:
        await running.admin.done("PUT", "/api/types/flux", FLUX)
        prediction = await created(running, receiver.url, "completed")
        await running.alice.done("POST", f"{V1}/predictions/{prediction['id']}/cancel")

    async with running_service(nats_url):
        await wait_until(lambda: receiver.messages, "the message")

    assert [message.body["status"] for message in receiver.messages] == ["canceled"]
