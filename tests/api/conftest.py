"""The API alone: nothing runs the tasks, so they stay as a test leaves them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from testkit.service import Service, running_service


@pytest.fixture
async def api(nats_url: str) -> AsyncIterator[Service]:
    """The API without a worker."""
    async with running_service(nats_url, worker=False) as service:
        yield service
