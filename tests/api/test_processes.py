"""Operators read which processes there are, who does which job, and the settings."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import msgspec

from taskstream.streams.leases import Presence
from testkit.backend import BackendServer
from testkit.nats import NatsServer
from testkit.service import SEAL_KEY, SECRET, Service, running_service


async def test_a_worker_shows_its_version_its_jobs_and_its_servers(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")

    def has_all(page: Any) -> bool:
        return bool(page["workers"]) and page["workers"][0]["servers"] == 1 and page["scheduler"]["reportedAt"]

    page = await service.auditor.until("/api/workers", has_all, "the worker to have its jobs")

    [worker] = page["workers"]
    assert (worker["pid"], worker["version"], worker["alive"]) == (os.getpid(), version("taskstream"), True)
    assert worker["host"]
    assert {"scheduler", "reconciler", "projector.tasks"} <= set(worker["leases"])
    assert abs((datetime.fromisoformat(worker["startedAt"]) - datetime.now(UTC)).total_seconds()) < 600
    assert worker["lastSeen"] <= page["readAt"]
    assert page["scheduler"]["worker"] == worker["id"]
    assert (page["api"]["pid"], page["api"]["version"]) == (os.getpid(), version("taskstream"))
    assert page["api"]["indexLagEvents"] is not None


async def test_a_worker_that_does_not_renew_is_shown_as_dead_until_others_bury_it(api: Service) -> None:
    bucket = api.container.buckets.leases
    old = {"host": "other/boot/pid", "pid": 7, "beat": 3}  # as versions announced themselves that had no more to say
    await bucket.put("process.worker-old", msgspec.json.encode(old))
    await bucket.put("lease.scheduler", b"worker-old")

    page = await api.admin.until(
        "/api/workers", lambda it: not it["workers"][0]["alive"], "the worker to be taken for dead"
    )

    [worker] = page["workers"]
    assert (worker["id"], worker["host"], worker["pid"]) == ("worker-old", "other", 7)
    assert (worker["version"], worker["startedAt"]) == (None, None)
    assert (worker["leases"], page["scheduler"]) == (["scheduler"], {"worker": "worker-old", "reportedAt": None})


async def test_workers_are_listed_in_pages(api: Service) -> None:
    for number in range(5):
        value = msgspec.json.encode(Presence(host="h", pid=number, beat=1))
        await api.container.buckets.leases.put(f"process.worker-{number}", value)
    await api.container.buckets.leases.delete("process.worker-3")

    pages = await api.admin.pages("/api/workers", "workers", "limit=2")

    assert [[worker["pid"] for worker in page] for page in pages] == [[0, 1], [2, 4]]


async def test_settings_show_where_each_is_from_and_no_secret(nats: NatsServer, monkeypatch: Any) -> None:
    monkeypatch.setenv("TASKSTREAM_RETRY_CAP", "0.2")
    monkeypatch.setenv("TASKSTREAM_JWT_SECRET_FILE", "/run/secrets/jwt")
    monkeypatch.setenv("TASKSTREAM_RETRY_BASE", "5")  # another value than the process has
    monkeypatch.setenv("TASKSTREAM_RETRY_BSE", "5")
    url = nats.url.replace("//", "//user:a-password@")
    async with running_service(nats.url, worker=False, nats_monitor_url=url) as service:
        answer = await service.admin.get("/api/settings")

        found = {each["name"]: each for each in answer["settings"]}
        names = ("RETRY_CAP", "RETRY_BASE", "MAX_BODY", "JWT_SECRET")
        assert [found[f"TASKSTREAM_{name}"]["source"] for name in names] == [
            "environment", "option", "default", "file",
        ]  # fmt: skip
        assert (found["TASKSTREAM_RETRY_CAP"]["value"], found["TASKSTREAM_RETRY_CAP"]["default"]) == (0.2, 30.0)
        assert (found["TASKSTREAM_JWT_SECRET"]["value"], found["TASKSTREAM_JWT_SECRET"]["secret"]) == ("…", True)
        assert found["TASKSTREAM_NATS_PASSWORD"]["value"] is None
        assert found["TASKSTREAM_MAX_BODY"]["meaning"]
        assert answer["unknown"] == ["TASKSTREAM_RETRY_BSE"]
        for secret in (SECRET, SEAL_KEY, "a-password"):
            assert secret not in str(answer.body)
        assert (await service.auditor.get("/api/settings")).status == 403
        assert (await service.alice.get("/api/workers")).status == 403
