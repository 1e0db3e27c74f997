"""The client does on the real service what its conformance tests say. The fake passes the same tests: sdk-check."""

from __future__ import annotations

import json
from pathlib import Path

from testkit.backend import BackendServer, accept
from testkit.processes import Processes, clients_of
from testkit.service import token
from testkit.waiting import wait_until

from .conftest import SDK, node, passes

KILLS = 2


async def test_the_client_keeps_its_promises_on_the_real_service(processes: Processes, tmp_path: Path) -> None:
    up = await processes.up()
    output = await passes(tmp_path, "--test", str(SDK / "typescript/test/service.test.ts"), TASKSTREAM_URL=up.url)
    assert "pass" in output


async def test_a_stream_and_a_wait_survive_kill_9_of_the_service_without_gap_or_repetition(
    processes: Processes, tmp_path: Path
) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service, BackendServer(accept) as backend:
        await service.admin.register(backend, "one", callback=True, **{"async": True})
        task_id = await service.alice.submit({"payload": {}})
        await wait_until(lambda: backend.calls, "the call")
        call = backend.calls[0]
        env = {"TASKSTREAM_URL": up.url, "TASKSTREAM_TOKEN": token("alice"), "TASK": task_id}
        follower = node(tmp_path, str(SDK / "typescript/test/follow.mts"), **env)
        expected = ""
        try:
            for turn in range(KILLS + 1):
                for number in range(5):
                    expected += f"{turn}.{number} "
                    await backend.report_until_taken(call, "PROCESSING", output=f"{turn}.{number} ")
                await wait_until(lambda expected=expected: f"at {expected}\n" in follower.output(), "the output")
                if turn < KILLS:
                    up.kill()
                    await up.serve()
            await backend.report_until_taken(call, "FINISHED", data=1)
            assert await follower.ended(60.0) == 0, follower.output()
        finally:
            follower.kill()
        said = json.loads(follower.output().splitlines()[-1])
        recorded = await service.alice.recorded(task_id)

    steps = [entry["sequence"] for entry in recorded if entry["event"]["type"] != "ProgressReported"]
    assert said == {"output": expected, "sequences": steps, "result": 1}
