"""The headers of calls to servers and webhooks: who calls, for which request, and which attempt."""

from __future__ import annotations

import errno
import os
from importlib.metadata import version
from typing import Any

import pytest

from taskstream.backends.egress import EgressPolicy
from testkit.backend import BackendServer, at_first, status
from testkit.receiver import HookReceiver, deliveries, register
from testkit.service import running_service

AGENT = f"taskstream/{version('taskstream')}"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "vendor=a1,other=b2"
ASKED = {"X-Request-Id": "asked-1", "traceparent": TRACE, "tracestate": STATE.replace(",", " , ")}
SENT = ("user-agent", "x-request-id", "traceparent", "tracestate")


def sent(headers: dict[str, str]) -> tuple[str | None, ...]:
    lower = {name.lower(): value for name, value in headers.items()}  # aiohttp writes some names its own way
    return tuple(lower.get(name) for name in SENT)


async def test_calls_name_this_service_the_request_and_the_attempt(nats_url: str) -> None:
    async with (
        running_service(nats_url) as service,
        BackendServer(at_first(status(500))) as backend,
        HookReceiver() as receiver,
    ):
        await register(service.alice, receiver, events=["task.succeeded"])
        await service.admin.register(backend, "one")
        task_id = await service.alice.submit({"n": 1}, headers=ASKED)
        await service.alice.ended(task_id)
        batch = await service.alice.done("POST", "/api/tasks/batch", [{"payload": 2}, {"payload": 3}], headers=ASKED)
        for each in batch["taskIds"]:
            await service.alice.ended(each)
        await receiver.has(3)
        plain = await service.alice.submit(
            {"n": 4}, headers={"X-Request-Id": "asked-2", "traceparent": "00-bad", "tracestate": STATE}
        )
        await service.alice.ended(plain)
        await receiver.has(4)
    of_task = [
        headers["Idempotency-Key"]
        for call, headers in zip(backend.calls, backend.headers, strict=True)
        if call["task_id"] == task_id
    ]
    assert of_task == [f"{task_id}.1", f"{task_id}.2"]
    assert len({headers["Idempotency-Key"] for headers in backend.headers}) == len(backend.headers)
    traced = {sent(headers) for headers in [*backend.headers[:-2], *receiver.headers[:-1]]}
    assert traced == {(AGENT, "asked-1", TRACE, STATE)}
    assert {sent(headers) for headers in (backend.headers[-1], receiver.headers[-1])} == {
        (AGENT, "asked-2", None, None)
    }


async def test_a_lack_of_descriptors_costs_a_webhook_no_try(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = [3]
    open_socket = EgressPolicy._open_socket

    async with HookReceiver() as receiver:
        port = receiver.url.rpartition(":")[2].partition("/")[0]

        def lack(self: EgressPolicy, info: Any) -> Any:
            if str(info[4][1]) == port and lacking[0]:
                lacking[0] -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return open_socket(self, info)

        monkeypatch.setattr(EgressPolicy, "_open_socket", lack)
        async with running_service(nats_url) as service:
            webhook, _ = await register(service.alice, receiver, events=["task.cancelled"])
            task_id = await service.alice.submit({"n": 1})
            await service.alice.done("POST", f"/api/task/{task_id}/cancel")
            await receiver.has(1)
            assert lacking == [0]
            await service.alice.until(
                f"/api/webhooks/{webhook}/deliveries",
                lambda body: body["deliveries"][0]["status"] == "delivered",
                "its end",
            )
            (delivery,) = await deliveries(service.alice, webhook)
            assert delivery["attempts"] == 1
