"""The demo that `make demo` runs, with fewer tasks."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from testkit.processes import Process, environment, python, run_to_end
from testkit.waiting import wait_until

TASKS = 80
LONGEST_SECONDS = 200.0


COMMAND = python("demo", "--tasks", str(TASKS))


async def test_it_ends_well_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    ended = await run_to_end(tmp_path, COMMAND, LONGEST_SECONDS, TMPDIR=str(tmp_path))
    said = ended.output()
    assert ended.status == 0, said
    assert "\x1b" not in said
    assert re.search(r"kill -9 \d+: server `sync` is gone", said), said
    assert re.search(rf"submitted .*\b{TASKS}$", said, re.MULTILINE), said
    assert re.search(rf"finished .*\b{TASKS - 2}$", said, re.MULTILINE), said
    assert re.search(r"failed +2 +0 +0 +2$", said, re.MULTILINE), said
    assert re.search(r"sync .* offline$", said, re.MULTILINE), said
    assert f"{TASKS} of them end one" in said, said
    assert re.search(r"AttemptStarted +try 1.*(.*\n)+?.*AttemptFailed.*(.*\n)+?.*AttemptStarted +try 2", said), said
    assert gone(said)
    assert not list(tmp_path.glob("taskstream-demo-*"))


async def test_interrupted_it_ends_everything_it_started(tmp_path: Path) -> None:
    env = environment({}) | {"TMPDIR": str(tmp_path)}
    process = Process("demo", COMMAND, env, tmp_path / "out").start()
    try:
        await wait_until(lambda: "submitted in" in process.output(), "its tasks")
        process.signal(signal.SIGINT)
        assert await process.ended() == 1
    finally:
        process.kill()
    said = process.output()
    assert "Traceback" not in said
    assert "Stopped." in said
    assert gone(said)
    assert not list(tmp_path.glob("taskstream-demo-*"))


def gone(said: str) -> bool:
    """Return True if all processes that the demo named have ended."""
    pids = re.findall(r"process +(\d+)", said)
    assert len(pids) == 4, said
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
