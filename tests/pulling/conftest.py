"""Services with a pulled server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from testkit.puller import Puller, register_pulled
from testkit.service import Service, running_service


@pytest.fixture
async def puller(service: Service) -> Puller:
    """A puller of a pulled server of the service."""
    await register_pulled(service.admin)
    return Puller(service.client("fleet", "service"))


@pytest.fixture
async def brief(nats_url: str) -> AsyncIterator[Service]:
    """A service whose leases last a second."""
    async with running_service(nats_url, pull_lease=1.0) as service:
        await register_pulled(service.admin)
        yield service
