"""Short runs with faults: what `make chaos` does, on every change. A seed that once broke a promise stays here.

The evidence of each is then doctored in every way that `doctoring.py` knows, and the check concerned must notice.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.processes import python, run_to_end

from .doctoring import DOCTORINGS, missed

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
async def test_every_promise_holds_and_every_doctoring_is_noticed(
    tmp_path: Path, nodes: int, seed: int, seconds: int
) -> None:
    evidence = tmp_path / "evidence"
    options = ("--seed", str(seed), "--seconds", str(seconds), "--nodes", str(nodes), "--evidence", str(evidence))
    command = python("chaos", *options)
    ended = await run_to_end(tmp_path, command, LONGEST_RUN_SECONDS)
    assert ended.status == 0, ended.output()
    assert missed(evidence.read_bytes(), DOCTORINGS) == []
