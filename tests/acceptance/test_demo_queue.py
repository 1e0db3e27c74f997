"""The demo that `make demo-queue` runs."""

from __future__ import annotations

import re
from pathlib import Path

from testkit.processes import python, run_to_end

LONGEST_SECONDS = 200.0


async def test_the_novel_is_written_and_followed_through_a_crash_of_the_service(tmp_path: Path) -> None:
    ended = await run_to_end(tmp_path, python("demo", "queue"), LONGEST_SECONDS, TMPDIR=str(tmp_path))
    said = ended.output()
    assert ended.status == 0, said
    live, result = said.split("The result")
    assert re.search(r"chapter 2: .*(.*\n)+?.*kill -9 \d+: the service is gone(.*\n)+?.*chapter 3: ", live), said
    assert [int(index) for index in re.findall(r"^  (\d)\. \S.* words\)$", result, re.MULTILINE)] == [1, 2, 3, 4, 5]
    assert "an outline of 40 chapters" in result, said
    pids = re.findall(r"process +(\d+)", said)
    assert len(pids) == 3, said
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list(tmp_path.glob("taskstream-demo-*"))
