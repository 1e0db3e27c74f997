"""A simulated power cut takes what was not synced, and nothing else: without the first it would show nothing.

And what nats-server does on a full disk. Takes root on Linux, `mount` and `mkfs.ext4`; the one test that is left out,
and says so, where there are none.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.losses import MESSAGES, NO_DISKS
from testkit.processes import python, run_to_end


async def losses(folder: Path, fault: str, sync_interval: str) -> dict[str, int]:
    """Apply a fault to a nats-server with a sync interval; return how many messages it acknowledged and kept."""
    ended = await run_to_end(folder, python("chaos.losses", fault, "--sync-interval", sync_interval))
    if ended.status == NO_DISKS:
        pytest.skip(ended.tail())  # the kernel refuses: without root there is no disk to cut
    assert ended.status == 0, ended.tail()
    counted: dict[str, int] = json.loads(ended.tail().splitlines()[-1])
    assert counted["acknowledged"] >= MESSAGES
    return counted


async def test_a_power_cut_takes_acknowledged_messages_with_nats_own_sync_interval(tmp_path: Path) -> None:
    counted = await losses(tmp_path, "power_cut", "2m")

    assert counted["kept"] < counted["acknowledged"]


async def test_a_power_cut_takes_nothing_acknowledged_with_sync_interval_always(tmp_path: Path) -> None:
    counted = await losses(tmp_path, "power_cut", "always")

    assert counted["kept"] == counted["acknowledged"]


async def test_a_full_disk_takes_nothing_acknowledged_and_refuses_until_a_restart(tmp_path: Path) -> None:
    counted = await losses(tmp_path, "disk_full", "always")

    assert counted["kept"] == counted["acknowledged"]
    assert not counted["taken_with_room"]
