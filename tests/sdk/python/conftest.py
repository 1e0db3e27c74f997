"""Clients of a service that runs in the test's process: blocking ones are called in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskstream_client import AsyncClient, Client
from testkit.processes import Processes
from testkit.service import Service, token


class Threaded:
    """Calls a blocking client in threads, so that the service in this process goes on."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, work: Callable[[Client], Any]) -> Any:
        return await asyncio.to_thread(work, self.client)


@pytest.fixture
async def alice(service: Service) -> AsyncIterator[AsyncClient]:
    """An asynchronous client of the service."""
    async with AsyncClient(service.url, token("alice")) as client:
        yield client


@pytest.fixture
async def blocking(service: Service) -> AsyncIterator[Threaded]:
    """A blocking client of the service."""
    with Client(service.url, token("alice")) as client:
        yield Threaded(client)


@pytest.fixture
async def root(service: Service) -> AsyncIterator[AsyncClient]:
    """A client of an admin."""
    async with AsyncClient(service.url, token("root", "admin")) as client:
        yield client


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts the shipped command; whatever it started is ended with the test, by its process id."""
    started = Processes(tmp_path)
    yield started
    started.stop()
