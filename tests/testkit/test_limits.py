"""A test that hangs costs itself, and neither the run nor the machine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from taskstream.nats_server.server import command_of

ROOT = Path(__file__).parents[2]
CONFTEST = """
from testkit import limits
from testkit.limits import *
limits.SETUP_SECONDS, limits.TEARDOWN_SECONDS = 1.0, 1.0
"""
HANGING = """
import asyncio, subprocess, sys
from pathlib import Path
import pytest

@pytest.fixture
def server():
    server = subprocess.Popen([sys.executable, "-c", "input()", "served"], stdin=subprocess.PIPE)
    Path(f"{server.pid}.pid").touch()
    yield server
    server.kill()
    server.communicate()

@pytest.fixture
def never_stops(server):
    yield
    server.wait()

async def test_a_coroutine(server):
    try:
        await asyncio.Event().wait()
    finally:
        assert server.poll() is None

def test_a_function(server):
    server.wait()

def test_a_teardown(never_stops):
    pass

def test_another():
    pass
"""


async def test_what_hangs_fails_alone_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_hanging.py").write_text(HANGING)
    options = ["-rA", "-n", "1", "--dist", "worksteal", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *options, "--timeout", "2", f"--rootdir={tmp_path}", "test_hanging.py"),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await run.communicate()
    said = output.decode()

    assert "FAILED test_hanging.py::test_a_coroutine - AssertionError: did not end within 1 s" in said, said
    assert "FAILED test_hanging.py::test_a_function - Failed: Timeout (>2.0s)" in said, said
    assert "FAILED test_hanging.py::test_a_teardown - worker 'gw0' crashed" in said, said
    assert "PASSED test_hanging.py::test_another" in said, said
    started = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(started) == 3
    assert not [pid for pid in started if "served" in command_of(pid)]
