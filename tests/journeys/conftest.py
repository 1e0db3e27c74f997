"""The shipped command with a browser and a shell beside it: what an operator has when something is wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from testkit.processes import Processes, Up, clients_of
from testkit.service import SECRET, ServiceClients
from tests.console.conftest import Console, browser, console, contexts

__all__ = ["Console", "browser", "console", "contexts"]

DISK_MB = 64


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have all tests of this folder share one event loop, and with it one browser."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and isinstance(item, pytest.Function) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    """`taskstream up`, shared by tests that leave nothing wrong behind."""
    processes = Processes(tmp_path_factory.mktemp("journeys"))
    try:
        yield await processes.up(JWT_SECRET=SECRET)
    finally:
        processes.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def service(up: Up) -> AsyncIterator[ServiceClients]:
    """Clients of it."""
    async with clients_of(up.url) as clients:
        yield clients


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB in memory, so that nothing else gets full. Needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    assert mount, "there is no mount here"
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, f"a small disk cannot be mounted (it needs root): {made.stderr.strip()}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
