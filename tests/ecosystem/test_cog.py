"""What only Cog does: a file as output, and a setup that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.service import ServiceClients

from .programs import PROGRAMS, Running
from .registrations import at, registration

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run's folder."""
    return tmp_path / "cog"


@pytest.fixture
def running(request: pytest.FixtureRequest, folder: Path) -> Iterator[Running]:
    """A Cog model that is not started yet; it ends with the test."""
    running = Running(PROGRAMS[request.param], folder)
    yield running
    running.kill()


@pytest.mark.parametrize("running", ["cog-file"], indirect=True)
async def test_a_file_in_the_output_is_a_file_of_the_result(service: ServiceClients, running: Running) -> None:
    running.start()
    await running.ready()
    body = at(registration("Cog"), running.port) | {"id": "cog-file", "types": ["paint"]}
    await service.admin.done("POST", "/api/servers", body)
    await service.admin.server_is("cog-file", "online")

    task_id = await service.alice.submit({"type": "paint", "payload": {"text": "hello world"}})
    ended = await service.alice.ended(task_id)
    assert ended["status"] == "FINISHED", ended
    file = await service.alice.get(f"/api/task/{task_id}/result/file")
    assert (file.status, file.body) == (200, "HELLO WORLD")


@pytest.mark.parametrize("running", ["cog"], indirect=True)
async def test_a_setup_that_fails_is_shown_with_its_log(service: ServiceClients, running: Running) -> None:
    running.hold("break-setup")
    running.start()
    body = at(registration("Cog"), running.port) | {"id": "cog-broken", "types": ["never"]}
    await service.admin.done("POST", "/api/servers", body)

    found = await service.admin.until(
        "/api/servers/cog-broken", lambda server: "setup failed" in (server["statusReason"] or ""), "its reason"
    )
    assert found["status"] == "offline"
    assert "the weights are broken" in found["statusReason"]
