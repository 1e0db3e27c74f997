"""A real service with tasks that ended in every way, and the shipped command that speaks to it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from testkit.processes import Process, Processes, Up, clients_of, environment, python
from testkit.service import SECRET, token

COMMAND = [sys.executable, "-m", "taskstream"]
PATIENCE_SECONDS = 120


class Known(Struct):
    """What the service has."""

    up: Up
    task: str
    failed: str
    waiting: str
    schedule: str
    webhook: str
    delivery: str
    operation: str
    """One that has ended."""

    @property
    def url(self) -> str:
        return self.up.url


class Ran(Struct, frozen=True):
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[Any]:
        """The JSON texts, one a line."""
        return [json.loads(line) for line in self.lines]


def settings_for(url: str, **more: str) -> dict[str, str]:
    """Return the environment of an admin's command."""
    return environment({"URL": url, "TOKEN": token("root", "admin")} | more) | {"COLUMNS": "80"}


def taskstream(*arguments: str, env: Mapping[str, str], given: str = "") -> Ran:
    """Run the shipped command to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=env,
        input=given.encode(),
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


HOSTILE = "bad\x1b[31m\x07\u202e\r\n\x9b2J word"
"""What a server says about a failure: escape sequences, a bell, a change of direction, line breaks."""


async def _seed(processes: Processes, backend: Process) -> Known:
    up = await processes.up(RETRY_BASE="0.05", JWT_SECRET=SECRET)
    address = f"http://127.0.0.1:{await backend.first_line()}"
    endpoints = {"predict": f"{address}/predict", "health": f"{address}/health"}
    async with clients_of(up.url) as service:
        admin = service.admin
        server = {"id": "sync", "name": "Sync", "provider": "test", "endpoints": endpoints, "types": ["default"]}
        await admin.done("POST", "/api/servers", server)
        await admin.done("PUT", "/api/types/default", {"attempts": 2})
        await admin.done("PUT", "/api/types/nobody", {"description": "no server does it"})
        await admin.server_is("sync", "online")
        task = await service.alice.submit({"payload": {"number": 1}})
        failed = await service.alice.submit({"payload": {"number": 2, "image": "x.corrupt"}})
        waiting = await service.alice.submit({"type": "nobody", "payload": {}})
        for each in (task, failed):
            await service.alice.ended(each)
        schedule = {"cron": "0 7 * * *", "task": {"payload": {}}, "name": "daily"}
        made = await admin.done("POST", "/api/schedules", schedule)
        hook = (await admin.done("POST", "/api/webhooks", {"url": f"{address}/hook"}))["webhook"]["id"]
        delivery = (await admin.done("POST", f"/api/webhooks/{hook}/test"))["id"]
        await admin.done("PUT", "/api/owners/carol/limits", {"concurrency": 3})
        bulk = {"action": "retry", "ids": [task], "reason": "tests"}
        operation = (await admin.done("POST", "/api/operations", bulk))["id"]
    return Known(up, task, failed, waiting, made["id"], hook, delivery, operation)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    """A service of the module."""
    folder = tmp_path_factory.mktemp("operator")
    processes = Processes(folder)
    backend = Process("backend", python("demo.backend", "sync"), dict(os.environ), folder / "backend.log").start()
    try:
        yield asyncio.run(_seed(processes, backend))
    finally:
        backend.kill()
        processes.stop()


@pytest.fixture
def admin(known: Known) -> dict[str, str]:
    """The environment of an admin's command."""
    return settings_for(known.url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
