"""The client does on the real service what its conformance tests say. The fake passes the same tests: sdk-check."""

from __future__ import annotations

from pathlib import Path

from testkit.processes import Processes

from .conftest import SDK, passes


async def test_the_client_keeps_its_promises_on_the_real_service(processes: Processes, tmp_path: Path) -> None:
    up = await processes.up()
    output = await passes(tmp_path, "--test", str(SDK / "typescript/test/service.test.ts"), TASKSTREAM_URL=up.url)
    assert "pass" in output
