"""Every process is restarted in turn under load, and nobody's request fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.rolling import DRAIN_SECONDS, roll
from chaos.schedule import OURS, nats_names


@pytest.mark.timeout(600)  # seven processes end, drain and start one after another
async def test_a_cluster_is_restarted_process_by_process_and_no_request_fails(tmp_path: Path) -> None:
    rolled = await roll(nodes=3, drain_seconds=DRAIN_SECONDS, folder=tmp_path)
    print(rolled)
    assert rolled.violations == []
    assert {restart.name for restart in rolled.restarts} == {*nats_names(3), *OURS}
    assert sum(passage.status == 200 for passage in rolled.passages) > 100
