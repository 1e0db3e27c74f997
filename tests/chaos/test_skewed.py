"""A process whose clock is skewed sees it, in both places our code reads it, as soon as it is set."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from chaos.skewed import Clock

ROOT = Path(__file__).parent.parent.parent
READER = """
import sys, time
from taskstream.clock import utc_now
for _ in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, utc_now().timestamp(), utc_now().utcoffset().total_seconds(), flush=True)
"""


async def test_a_jump_is_seen_at_once_and_so_is_the_way_back(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    (tmp_path / "reader.py").write_text(READER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaos.skewed", str(clock.path), "-m", "reader"),
        cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        for ahead in (0.0, 90.0, -90.0, 0.25, 0.0):
            clock.set(ahead)
            before = time.time()
            process.stdin.write(b"?\n")
            seen = [float(word) for word in (await process.stdout.readline()).split()]
            after = time.time()
            assert all(before + ahead - 0.001 <= instant <= after + ahead + 0.001 for instant in seen[:3]), ahead
            assert seen[3] == 0.0
    finally:
        process.stdin.close()
        assert await process.wait() == 0
