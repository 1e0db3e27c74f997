"""A simulated power cut takes what was not synced, and nothing else: without the first it would show nothing.

And what nats-server does on a full disk. Takes root on Linux, `mount` and `mkfs.ext4`; the one test that is left out,
and says so, where there are none.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from chaos.losses import MESSAGES, NO_DISKS

ROOT = Path(__file__).parent.parent.parent


async def losses(fault: str, sync_interval: str) -> dict[str, int]:
    """Do it to a nats-server that syncs as told; return what it had acknowledged, and what it kept of it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "chaos.losses", fault, "--sync-interval", sync_interval),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()  # the kernel ends what it has started
            await process.wait()
    if process.returncode == NO_DISKS:
        pytest.skip(errors.decode().strip())  # the kernel refuses: without root there is no disk to cut
    assert process.returncode == 0, errors.decode()
    counted: dict[str, int] = json.loads(output)
    assert counted["acknowledged"] >= MESSAGES
    return counted


async def test_a_power_cut_takes_acknowledged_messages_with_nats_own_sync_interval() -> None:
    counted = await losses("power_cut", "2m")

    assert counted["kept"] < counted["acknowledged"]


async def test_a_power_cut_takes_nothing_acknowledged_with_sync_interval_always() -> None:
    counted = await losses("power_cut", "always")

    assert counted["kept"] == counted["acknowledged"]


async def test_a_full_disk_takes_nothing_acknowledged_and_refuses_until_a_restart() -> None:
    counted = await losses("disk_full", "always")

    assert counted["kept"] == counted["acknowledged"]
    assert not counted["taken_with_room"]
