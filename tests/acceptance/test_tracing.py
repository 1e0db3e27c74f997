"""Spans of OpenTelemetry, across the processes of the shipped command."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.backend import BackendServer, accept, at_first, status
from testkit.otlp_collector import OtlpCollector, ReceivedSpan
from testkit.processes import Processes, Up, clients_of
from testkit.receiver import HookReceiver, register
from testkit.waiting import wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
STATE = "vendor=a1"
ASKED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": STATE}
SECRETS = ("payload-in-no-span", "sk-key-in-no-span", "alice")


@pytest.fixture
async def up(processes: Processes, monkeypatch: pytest.MonkeyPatch, collector: OtlpCollector) -> Up:
    """The service in processes of its own, which exports spans at once."""
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.base_url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BSP_MAX_QUEUE_SIZE": "16",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
    }.items():
        monkeypatch.setenv(name, value)
    return await processes.up(APIS="1", WORKERS="1", WEBHOOK_ALLOW="127.0.0.1/32")


@pytest.fixture
async def collector() -> Any:
    async with OtlpCollector() as collector:
        yield collector


def sent_by(headers: dict[str, str]) -> tuple[str, str]:
    lower = {name.lower(): value for name, value in headers.items()}
    return lower["traceparent"], lower["tracestate"]


async def test_a_task_is_one_trace_from_its_caller_to_servers_and_webhooks(up: Up, collector: OtlpCollector) -> None:
    async with (
        BackendServer(at_first(status(500, {"error": SECRETS[0]}))) as backend,
        HookReceiver() as receiver,
        clients_of(up.url) as service,
    ):
        await register(service.alice, receiver, events=["task.succeeded"])
        await service.admin.register(backend, "one", apiKey=SECRETS[1])
        task_id = await service.alice.submit({"secret": SECRETS[0]}, headers=ASKED)
        await service.alice.ended(task_id)
        await receiver.has(1)
        await collector.has(submit_task=1, attempt_task=2, call_server=2, deliver_webhook=1)

    (submitted,) = collector.named("submit task")
    first, second = collector.named("attempt task")
    (delivered,) = collector.named("deliver webhook")
    spans = [submitted, first, second, *collector.named("call server"), delivered]
    assert {span.name for span in collector.spans} == {span.name for span in spans}, "no spans of checks and lists"
    assert len(collector.spans) == len(spans)
    assert {(span.trace_id, span.state, span.service) for span in spans} == {(TRACE, STATE, "taskstream")}
    assert {span.span_id for span in spans}.isdisjoint({CALLER, ""})
    assert (submitted.parent_id, submitted.kind, submitted.process) == (CALLER, "producer", "api-1")
    assert submitted.attributes["messaging.message.id"] == task_id
    for attempt, number, outcome in ((first, 1, "error"), (second, 2, "succeeded")):
        assert (attempt.parent_id, attempt.kind, attempt.process) == (submitted.span_id, "consumer", "worker-1")
        assert attempt.links == ((TRACE, submitted.span_id),)
        assert attempt.attributes["taskstream.attempt"] == number
        assert (attempt.attributes["taskstream.outcome"], attempt.is_error) == (outcome, outcome == "error")
        assert attempt.attributes["messaging.destination.name"] == "default"
    calls = {call.parent_id: call for call in collector.named("call server")}
    for attempt, headers in zip((first, second), backend.headers, strict=True):
        call = calls[attempt.span_id]
        assert (call.kind, call.attributes["taskstream.server"]) == ("client", "one")
        assert attempt.began <= call.began <= call.ended <= attempt.ended
        assert sent_by(headers) == (call.traceparent, STATE)
    assert (delivered.parent_id, delivered.kind) == (submitted.span_id, "client")
    assert sent_by(receiver.headers[0]) == (delivered.traceparent, STATE)
    said = str([span.attributes for span in collector.spans])
    assert not [secret for secret in SECRETS if secret in said.replace(task_id, "")]


async def test_tasks_of_a_batch_are_linked_to_it_and_an_accepted_attempt_ends_its_span(
    up: Up, collector: OtlpCollector
) -> None:
    async with BackendServer(accept) as backend, clients_of(up.url) as service:
        await service.admin.register(backend, "one", callback=True, **{"async": True})
        batch = await service.alice.done("POST", "/api/tasks/batch", [{"payload": 1}, {"payload": 2}])
        await collector.has(submit_batch=1, attempt_task=2, call_server=2)

    (submitted,) = collector.named("submit batch")
    assert submitted.parent_id == ""
    assert submitted.attributes["messaging.message.id"] == batch["batchId"]
    attempts = collector.named("attempt task")
    assert {attempt.links for attempt in attempts} == {((submitted.trace_id, submitted.span_id),)}
    assert {attempt.attributes["taskstream.outcome"] for attempt in attempts} == {"accepted"}
    assert {attempt.attributes["messaging.message.id"] for attempt in attempts} == set(batch["taskIds"])


async def test_a_collector_that_hangs_or_is_gone_delays_no_task_and_no_end(
    up: Up, collector: OtlpCollector, backend: BackendServer
) -> None:
    collector.let_go.clear()
    async with clients_of(up.url) as service:
        await service.admin.register(backend, "one", maxConcurrent=8)
        for task_id in [await service.alice.submit({"n": number}) for number in range(40)]:
            assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        await wait_until(lambda: collector.requests >= 2, "both processes to export")
        collector.let_go.set()
        await wait_until(lambda: bool(collector.spans), "spans that waited")
        await service.alice.ended(await service.alice.submit({"n": 41}))
        assert exported(collector.spans, "api-1") <= 8 + 16 + 1, "the queue is bounded"

        await collector.stop()
        for task_id in [await service.alice.submit({"n": number}) for number in range(20)]:
            assert (await service.alice.ended(task_id))["status"] == "FINISHED"
        before = collector.requests
        collector.let_go.clear()
        await collector.start()
        await service.alice.ended(await service.alice.submit({"n": 42}))
        await wait_until(lambda: collector.requests > before, "an export that hangs")
    up.terminate()
    assert await up.ended() == 0
    assert up.entries("tracing.spans-lost"), "the end waits for the collector, and not for long"
    assert up.entries("process.overdue") == []


def exported(spans: list[ReceivedSpan], process: str) -> int:
    return sum(span.process == process for span in spans)
