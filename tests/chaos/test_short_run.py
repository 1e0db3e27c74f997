"""Short runs with faults: what `make chaos` does, on every change. A seed that once broke a promise stays here."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LONGEST_RUN_SECONDS = 170.0
"""A run that never becomes quiet gives up well before this."""


@pytest.mark.parametrize(
    ("nodes", "seed", "seconds"),
    [
        # The first two with a power cut, a full disk, corrupted data, and clocks that are 25 and 21 s behind.
        pytest.param(1, 16, 14, id="one node, seed 16"),
        pytest.param(1, 38, 14, id="one node, seed 38"),
        pytest.param(3, 3, 16, id="three nodes, seed 3"),  # a power cut and a full disk of one of three
    ],
)
async def test_every_promise_holds(nodes: int, seed: int, seconds: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "chaos", "--seed", str(seed), "--seconds", str(seconds), "--nodes", str(nodes)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LONGEST_RUN_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()  # the kernel ends what it has started
            await process.wait()
    assert process.returncode == 0, output.decode()
