"""The demo that `make demo-queue` runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from testkit.processes import environment
from testkit.waiting import wait_until


async def test_the_novel_is_written_and_followed_through_a_crash_of_the_service(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo", "queue"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment({}) | {"TMPDIR": str(tmp_path)},
        )
    try:
        await wait_until(lambda: process.poll() is not None, "the demo to end", 200)
    finally:
        process.terminate()
        process.wait()
    said = out.read_text()
    assert process.returncode == 0, said
    live, result = said.split("The result")
    assert re.search(r"chapter 2: .*(.*\n)+?.*kill -9 \d+: the service is gone(.*\n)+?.*chapter 3: ", live), said
    assert [int(index) for index in re.findall(r"^  (\d)\. \S.* words\)$", result, re.MULTILINE)] == [1, 2, 3, 4, 5]
    assert "an outline of 40 chapters" in result, said
    pids = re.findall(r"process +(\d+)", said)
    assert len(pids) == 3, said
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list(tmp_path.glob("taskstream-demo-*"))
