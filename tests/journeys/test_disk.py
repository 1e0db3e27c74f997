"""A disk fills: it is said, nothing accepted is lost, and new work is taken again once there is space."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from playwright.async_api import expect

from testkit.backend import BackendServer, hold
from testkit.processes import Up, clients_of, quick
from testkit.service import SECRET
from tests.operator.conftest import settings_for, taskstream

from .conftest import Console

LEFT_BYTES = 2 * 1024 * 1024
"""Less than the reserve, a twentieth of the disk, and room for what was accepted."""


def fill(ballast: Path) -> None:
    """Write a file that leaves LEFT_BYTES of its disk."""
    disk = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - LEFT_BYTES)


async def test_a_disk_that_others_fill_is_noticed_and_costs_no_accepted_task(
    small_disk: Path, tmp_path: Path, console: Console
) -> None:
    up = Up("up", tmp_path, quick() | {"LOG_FORMAT": "json", "JWT_SECRET": SECRET})
    up.data = small_disk / "data"
    ballast = small_disk / "ballast"
    try:
        await up.serve()
        env = settings_for(up.url)
        async with BackendServer(hold) as backend, clients_of(up.url) as service:
            await service.admin.register(backend, "gpu-1")
            running = await service.alice.submit({"payload": 1})
            await service.alice.reaches(running, "PROCESSING")
            page = await console.open(up.url)
            fill(ballast)
            await page.locator("main .alarm-critical").get_by_role("link", name="The task store is full").click()
            await expect(page.get_by_role("main")).to_contain_text("takes no new work")
            refused, doctor = await asyncio.gather(
                asyncio.to_thread(lambda: taskstream("tasks", "submit", "{}", env=env)),
                asyncio.to_thread(lambda: taskstream("doctor", "--quiet", "--api-only", env=env)),
            )
            assert (refused.status, "free space on the disk of the data folder" in refused.err) == (7, True)
            assert (doctor.status, "store-refuses" in doctor.out) == (1, True)
            backend.let_go.set()
            await service.alice.reaches(running, "FINISHED")

            ballast.unlink()
            await page.get_by_role("link", name="Overview").click()
            await expect(page.locator("main .alarm").filter(has_text="store")).to_have_count(0)
            again = await service.alice.submit({"payload": 2})
            await service.alice.reaches(again, "FINISHED")
            await page.close()  # before its stream ends with the service
    finally:
        up.kill_all()
