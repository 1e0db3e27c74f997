"""The demos of `make demo`, with fewer tasks, and of `make demo-queue`."""

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
    assert_nothing_is_left(tmp_path, said, 4)


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
    assert_nothing_is_left(tmp_path, said, 4)


async def test_the_novel_is_written_and_followed_through_a_crash_of_the_service(tmp_path: Path) -> None:
    ended = await run_to_end(tmp_path, python("demo", "queue"), LONGEST_SECONDS, TMPDIR=str(tmp_path))
    said = ended.output()
    assert ended.status == 0, said
    live, result = said.split("The result")
    assert re.search(r"chapter 2: .*(.*\n)+?.*kill -9 \d+: the service is gone(.*\n)+?.*chapter 3: ", live), said
    assert [int(index) for index in re.findall(r"^  (\d)\. \S.* words\)$", result, re.MULTILINE)] == [1, 2, 3, 4, 5]
    assert "an outline of 40 chapters" in result, said
    assert_nothing_is_left(tmp_path, said, 3)


def assert_nothing_is_left(folder: Path, said: str, processes: int) -> None:
    """Check that all processes that the demo named have ended, and that its folder is removed."""
    pids = re.findall(r"process +(\d+)", said)
    assert len(pids) == processes, said
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list(folder.glob("taskstream-demo-*"))
