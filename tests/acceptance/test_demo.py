"""The demo that `make demo` runs, with fewer tasks."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from testkit.processes import environment
from testkit.waiting import wait_until

TASKS = 80


def start(folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    out = folder / "out"
    with out.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo", "--tasks", str(TASKS)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment({}) | {"TMPDIR": str(folder)},
        )
    return process, out


async def test_it_ends_well_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    process, out = start(tmp_path)
    try:
        await wait_until(lambda: process.poll() is not None, "the demo to end", 200)
    finally:
        process.terminate()
        process.wait()
    said = out.read_text()
    assert process.returncode == 0, said
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
    process, out = start(tmp_path)
    try:
        await wait_until(lambda: "AttemptStarted" in out.read_text() or "submitted in" in out.read_text(), "its tasks")
        process.send_signal(signal.SIGINT)
        await wait_until(lambda: process.poll() is not None, "the demo to end")
    finally:
        process.kill()
        process.wait()
    said = out.read_text()
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "Stopped." in said
    assert gone(said)
    assert not list(tmp_path.glob("taskstream-demo-*"))


def gone(said: str) -> bool:
    """Return True if all processes that the demo named have ended."""
    pids = re.findall(r"process +(\d+)", said)
    assert len(pids) == 4, said
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
