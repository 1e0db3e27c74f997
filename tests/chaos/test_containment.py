"""Hostile owners beside ordinary ones: what the first choose costs the others nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.containment import contain
from chaos.hostile import CHOICES, OWNERS

WINDOW_SECONDS = 3.0


@pytest.mark.timeout(400)  # six windows, each followed by a wait until no task of it is left
async def test_no_owner_s_throughput_falls_because_of_another_s_choices(tmp_path: Path) -> None:
    contained = await contain(tmp_path, WINDOW_SECONDS, rounds=3, choices=CHOICES)
    print(contained)
    assert contained.violations == []
    assert all(window.recovered for window in contained.evidence.windows)
    assert {entry.owner for entry in contained.evidence.log if entry.type == "AttemptStarted"} > set(OWNERS)
