"""`taskstream doctor` finds each problem that a test plants, and names the command that corrects it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from testkit.cli import Command, run_commands
from testkit.processes import Processes, Up, clients_of
from testkit.service import SEAL_KEY, SECRET, token
from testkit.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
OTHER_KEY = base64.urlsafe_b64encode(b"another seal key of the tests 32").decode()


class Doctor:
    """Runs the command on the service's own machine, several times in one process."""

    def __init__(self, up: Up, folder: Path) -> None:
        self._up = up
        self._folder = folder

    async def wrong(self, *calls: tuple[Sequence[str], dict[str, str]]) -> list[dict[str, dict[str, Any]]]:
        """Return what each call finds wrong, by check. A call: options, and settings; an empty one is unset."""
        usual = {"URL": self._up.url, "JWT_SECRET": SECRET, "SEAL_KEYS": SEAL_KEY, "DATA_DIR": str(self._up.data)}
        commands = [
            Command(
                ["doctor", "--json", *options],
                {name: value for name, value in (usual | more).items() if value},
                None,
                str(self._folder / f"{at}.out"),
            )
            for at, (options, more) in enumerate(calls)
        ]
        found = []
        for command, ran in zip(commands, await run_commands(self._folder, commands), strict=True):
            findings = [json.loads(line) for line in Path(command.stdout).read_text().splitlines()]
            wrong = {each["check"]: each for each in findings if each["state"] in ("problem", "warning")}
            assert (ran.status, ran.said) == (1 if wrong else 0, ""), (command, findings)
            assert all(each["fix"] for each in wrong.values()), wrong
            found.append(wrong)
        return found


API, LOCAL = ["--api-only"], ["--local-only"]


async def test_doctor_finds_each_planted_problem_and_its_fix(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    try:
        up = await processes.up(HEALTH_INTERVAL="0.2", SERVER_REMOVE_AFTER="600", WORKERS="1")
        doctor = Doctor(up, tmp_path)
        async with clients_of(up.url) as service:
            await _well(doctor)
            await _wrong_environments(doctor, up)
            await _wrong_key_file(doctor, up)
            await _alarms(doctor, service.admin)
        url = up.nats_url
        up.kill()
        stopped, gone = await doctor.wrong(([], {}), (LOCAL, {"NATS_URL": url}))
        assert stopped["API"]["fix"] == "taskstream up"
        assert "no NATS server answers" in gone["NATS"]["text"]
    finally:
        processes.stop()


async def _well(doctor: Doctor) -> None:
    """A service without servers has that as its only problem; its machine has none."""

    async def is_quiet() -> bool:
        return [each.keys() for each in await doctor.wrong(([], {}), (LOCAL, {}))] == [{"servers"}, set()]

    await wait_until(is_quiet, "a service that is well")


async def _wrong_environments(doctor: Doctor, up: Up) -> None:
    none = {"JWT_SECRET": "", "SEAL_KEYS": ""}
    planted: list[tuple[Sequence[str], dict[str, str], str, str]] = [
        (LOCAL, {"RETRY_BAES": "1"}, "settings", "unset TASKSTREAM_RETRY_BAES"),
        (LOCAL, {"PORT": "many"}, "settings", "TASKSTREAM_PORT"),
        (LOCAL, {"JWT_SECRET": "short"}, "settings", "at least 32"),
        (LOCAL, {"JWT_SECRET": ""}, "settings", "TASKSTREAM_JWT_SECRET"),
        (LOCAL, {"TOKEN": "a", "TOKEN_FILE": "b"}, "settings", "both set"),
        (API, none, "token", "taskstream token --sub"),
        (API, none | {"TOKEN": token("root", "admin", lifetime_seconds=60)}, "token", "ends in"),
        (API, none | {"TOKEN": token("alice")}, "token", "no admin"),
        (API, none | {"TOKEN": "a.b.c"}, "token", "TASKSTREAM_TOKEN"),
        (LOCAL, {"SEAL_KEYS": "no key"}, "seal keys", "taskstream seal-key"),
        (LOCAL, {"SEAL_KEYS": OTHER_KEY}, "seal keys", "which this environment lacks"),
        (LOCAL, {"SEAL_KEYS": "", "NATS_URL": up.nats_url}, "seal keys", "TASKSTREAM_SEAL_KEYS"),
        (LOCAL, {"NATS_URL": up.nats_url}, "durability of NATS", "TASKSTREAM_NATS_MONITOR_URL"),
        (LOCAL, {"STORAGE_RESERVE": str(2**59)}, "disk", "TASKSTREAM_TASK_RETENTION"),
        (API, {"URL": "http://127.0.0.1:9"}, "API", "taskstream up"),
    ]
    found = await doctor.wrong(*((options, more) for options, more, _, _ in planted))
    for (_, more, check, text), wrong in zip(planted, found, strict=True):
        assert text in f"{wrong[check]['text']} {wrong[check]['fix']}", (more, wrong)


async def _wrong_key_file(doctor: Doctor, up: Up) -> None:
    key = up.data / "seal.key"
    key.write_text(SEAL_KEY + "\n")
    key.chmod(0o644)
    (exposed,) = await doctor.wrong((LOCAL, {}))
    assert exposed["seal keys"]["fix"] == f"chmod 600 {key}"
    key.unlink()


async def _alarms(doctor: Doctor, admin: Any) -> None:
    """Plant what only the service knows: a server that is down, a paused pool with a backlog."""
    endpoints = {"predict": "http://127.0.0.1:9/p", "health": "http://127.0.0.1:9/h"}
    await admin.done("POST", "/api/servers", {"id": "down", "name": "d", "provider": "x", "endpoints": endpoints})
    await admin.done("POST", "/api/pools/default/pause", {"reason": "tests"})
    await admin.submit({"payload": {}})

    async def both() -> Any:
        (wrong,) = await doctor.wrong((API, {}))
        return wrong if {"server-offline", "pool-paused-with-backlog"} <= wrong.keys() else None

    wrong = await wait_until(both, "both alarms")
    assert wrong["server-offline"]["fix"] == "taskstream servers show down"
    assert wrong["pool-paused-with-backlog"]["fix"] == "taskstream pools resume default"
