"""A service, and servers that speak as vLLM does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from testkit.service import Service, running_service
from testkit.vllm import VllmServer


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Service]:
    async with running_service(nats_url) as service:
        yield service


@pytest.fixture
async def vllm() -> AsyncIterator[VllmServer]:
    async with VllmServer() as found:
        yield found


@pytest.fixture
async def other() -> AsyncIterator[VllmServer]:
    async with VllmServer() as found:
        yield found
