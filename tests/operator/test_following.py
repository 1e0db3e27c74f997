"""Following tasks over a restart of the API."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from testkit.backend import BackendServer, hold
from testkit.processes import Processes, clients_of
from testkit.waiting import wait_until

from .conftest import COMMAND, settings_for

pytestmark = pytest.mark.timeout(240)


async def test_following_a_task_survives_a_restart_of_the_api(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    following: subprocess.Popen[bytes] | None = None
    try:
        up = await processes.up(WORKERS="1")
        async with BackendServer(hold) as backend, clients_of(up.url) as service:
            await service.admin.register(backend, "one")
            task = await service.alice.submit({"payload": {}})
            await service.alice.reaches(task, "PROCESSING")
            output = tmp_path / "followed"
            with output.open("wb") as out:
                following = subprocess.Popen(
                    [*COMMAND, "tasks", "follow", task, "--after", "0", "--json"], env=settings_for(up.url), stdout=out
                )
            await wait_until(lambda: b"AttemptStarted" in output.read_bytes(), "the start in the output")
            up.kill()
            assert following.poll() is None
            await up.serve()
            backend.let_go.set()
            await wait_until(lambda: following is not None and following.poll() is not None, "the command to end")
            assert following.returncode == 0
            history = await service.alice.history(task)
        shown = [json.loads(line) for line in output.read_text().splitlines()]
        followed = [message["event"]["type"] for message in shown if "event" in message]
        assert followed == [event["type"] for event in history]
        assert followed[-1] == "TaskSucceeded"
    finally:
        if following is not None:
            following.kill()
            following.wait()
        processes.stop()
