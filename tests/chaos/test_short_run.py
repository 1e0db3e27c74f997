"""Short runs with faults: what `make chaos` does, on every change. A seed that once broke a promise stays here."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LONGEST_RUN_SECONDS = 600.0
"""A run that never becomes quiet gives up before this, and says what it waited for."""


@pytest.mark.timeout(LONGEST_RUN_SECONDS + 20)
@pytest.mark.parametrize(
    ("nodes", "seed", "seconds"),
    [
        pytest.param(1, 16, 14, id="one node, seed 16"),  # power cuts, an API's clock 88 s behind, another's 50 s ahead
        pytest.param(1, 78, 14, id="one node, seed 78"),  # corrupted data, clocks of APIs 25 s ahead, 10 s behind
        pytest.param(3, 3, 16, id="three nodes, seed 3"),  # the disk of one of three is full
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
