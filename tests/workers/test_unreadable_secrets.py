"""Secrets whose seal key is missing: tasks wait or go elsewhere, none fails, and all goes on once the key is back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from structlog.testing import capture_logs

from taskstream.vault.sealing import Sealer, new_key
from testkit.backend import BackendServer
from testkit.receiver import HookReceiver, deliveries, register
from testkit.service import Client, Service, running_service
from testkit.waiting import wait_until

KEY = "sk-live-9f8e7d6c5b4a"
MODEL = {"X-AI-Provider": "openai", "X-AI-Model": "gpt", "X-AI-Key": KEY}
RARE = {"health_interval": 300.0, "health_interval_failing": 300.0}
"""Settings with which only the first check of a server comes in the time of a test."""


class WrongKey(Sealer):
    """A sealer without the key that values were sealed with, which counts the tries."""

    def __init__(self) -> None:
        super().__init__([new_key()])
        self.tries = 0

    def open(self, token: bytes, purpose: str) -> str:
        self.tries += 1
        return super().open(token, purpose)


@contextmanager
def without_seal_key(service: Service) -> Iterator[WrongKey]:
    """Have this process run with another seal key, as if the right one were lost."""
    secrets = service.container.secrets
    right, wrong = secrets._sealer, WrongKey()
    secrets._sealer = wrong
    try:
        yield wrong
    finally:
        secrets._sealer = right


async def misconfigured(admin: Client, server_id: str) -> dict[str, Any]:
    """Wait for a server to be shown as misconfigured; return it."""

    def is_so(server: dict[str, Any]) -> bool:
        return server["status"] == "offline" and str(server["statusReason"]).startswith("misconfigured: ")

    found: dict[str, Any] = await admin.until(f"/api/servers/{server_id}", is_so, f"{server_id} to be misconfigured")
    return found


async def test_a_task_whose_server_has_an_unreadable_key_goes_to_another_server(
    nats_url: str, backend: BackendServer
) -> None:
    async with running_service(nats_url, **RARE) as service, BackendServer() as other:
        await service.admin.register(backend, "keyed", apiKey=KEY, weight=100)
        with capture_logs() as logged, without_seal_key(service):
            task_id = await service.alice.submit({})
            server = await misconfigured(service.admin, "keyed")
            assert "register the server again with its key" in server["statusReason"]
            assert "TASKSTREAM_SEAL_KEYS" in server["statusReason"]
            assert (await service.alice.details(task_id))["status"] == "WAITING"

            await service.admin.register(other, "keyless")
            details = await service.alice.ended(task_id)

        assert (details["status"], details["attempt"], details["serverId"]) == ("FINISHED", 1, "keyless")
        assert backend.calls == []
        assert [line["server"] for line in logged if line["event"] == "server.misconfigured"] == ["keyed"]


async def test_heartbeats_bring_no_server_online_whose_key_cannot_be_read(nats_url: str) -> None:
    async with running_service(nats_url) as service:
        with without_seal_key(service):
            server = {"id": "beating", "name": "b", "provider": "p", "endpoints": {"predict": "http://127.0.0.1:9/"}}
            await service.admin.post("/api/servers", {**server, "apiKey": KEY})
            service.container.secrets._sealer = WrongKey()
            await service.admin.done("PATCH", "/api/servers/beating", {"weight": 2})  # checks it
            before = await misconfigured(service.admin, "beating")

            await service.admin.post("/api/servers/beating/heartbeat", {})

            after = (await service.admin.get("/api/servers/beating")).body
            assert (after["status"], after["statusSince"]) == ("offline", before["statusSince"])
        await service.admin.done("PATCH", "/api/servers/beating", {"apiKey": KEY})
        await service.admin.until("/api/servers/beating", lambda one: one["status"] == "online", "it to be back")


async def test_a_server_registered_again_with_its_key_takes_the_tasks_that_waited(
    nats_url: str, backend: BackendServer
) -> None:
    async with running_service(nats_url, **RARE) as service:
        await service.admin.register(backend, "gpu", apiKey=KEY)
        with without_seal_key(service):
            tasks = [await service.alice.submit({"n": n}) for n in range(5)]
            await misconfigured(service.admin, "gpu")
            why = await service.alice.done("GET", f"/api/task/{tasks[0]}/why")
            assert why["holds"][0]["kind"] == "no-server"

            await service.admin.register(backend, "gpu", apiKey=KEY)
            ended = [await service.alice.ended(task) for task in tasks]

        assert {(details["status"], details["attempt"]) for details in ended} == {("FINISHED", 1)}
        history = await service.alice.history(tasks[0])
        assert [event["type"] for event in history] == ["TaskSubmitted", "AttemptStarted", "TaskSucceeded"]
        assert {headers["Authorization"] for headers in backend.headers} == {f"Bearer {KEY}"}


async def test_health_checks_see_an_unreadable_key_and_its_return_and_do_not_remove(
    nats_url: str, backend: BackendServer
) -> None:
    async with running_service(nats_url, health_interval=0.2, server_remove_after=0.1) as service:
        await service.admin.register(backend, "gpu", apiKey=KEY)
        with without_seal_key(service) as wrong:
            await misconfigured(service.admin, "gpu")
            before, position = wrong.tries, service.container.fleet.sequence
            await wait_until(lambda: wrong.tries > before + 3, "more checks")
            assert service.container.fleet.sequence == position
        await service.admin.server_is("gpu", "online")


async def test_a_task_whose_model_key_is_unreadable_waits_and_says_so(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "gpu")
    with without_seal_key(service):
        made = await service.alice.done("POST", "/api/projects/n/queue-chapters", {}, headers=MODEL)
        assert made["taskId"]
    # Sealed with a key that is gone now.
    path = f"/api/task/{made['taskId']}/why"
    why = await service.alice.until(path, lambda body: body["holds"], "the task to be held")
    details = await service.alice.details(made["taskId"])

    assert why["holds"][0]["kind"] == "key-unreadable"
    assert "cannot be decrypted, until an admin has put the old seal key back" in why["summary"]
    assert (details["status"], details["attempt"]) == ("WAITING", 0)
    assert backend.calls == []


async def test_a_task_runs_once_its_model_key_opens_again(service: Service, backend: BackendServer) -> None:
    made = await service.alice.done("POST", "/api/projects/n/queue-chapters", {}, headers=MODEL)
    with capture_logs() as logged, without_seal_key(service):
        await service.admin.register(backend, "gpu")
        await wait_until(lambda: [line for line in logged if line["event"] == "attempt.key-unreadable"], "a warning")
    details = await service.alice.ended(made["taskId"])

    assert (details["status"], details["attempt"]) == ("FINISHED", 1)
    assert backend.headers[0]["X-AI-Key"] == KEY


async def test_a_task_whose_model_key_is_lost_for_good_fails_and_says_so(
    service: Service, backend: BackendServer
) -> None:
    made = await service.alice.done("POST", "/api/projects/n/queue-chapters", {}, headers=MODEL)
    for entry in await service.container.buckets.secrets.scan("task.>"):
        await service.container.buckets.secrets.erase(entry.key)

    await service.admin.register(backend, "gpu")
    details = await service.alice.ended(made["taskId"])

    assert (details["status"], details["attempt"]) == ("FAILED", 1)
    assert details["error"] == "the model key is not stored any more; submit the task again with the key"


async def test_a_webhook_whose_secret_is_unreadable_pauses_and_loses_no_try(nats_url: str) -> None:
    async with running_service(nats_url, webhook_attempts=1) as service, HookReceiver() as receiver:
        webhook_id, _ = await register(service.alice, receiver, events=["task.submitted"])
        path = f"/api/webhooks/{webhook_id}"
        with without_seal_key(service):
            await service.alice.submit({})
            await service.alice.until(path, lambda found: found["pausedUntil"], "the webhook to pause")
            delivery, *_ = await deliveries(service.alice, webhook_id)

    assert (delivery["status"], delivery["pausedUntil"] is None) == ("waiting", False)
    assert "the webhook's secret cannot be decrypted; nothing was sent" in str(delivery)
    assert receiver.messages == []
