"""A service with a backend whose behaviour a test sets, and a type that is a model of façades."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from testkit.backend import BackendServer
from testkit.service import Service, running_service

QUICK_HOOKS = {"webhook_retry_base": 0.05, "webhook_retry_cap": 0.2, "webhook_attempts": 3}
FLUX = {
    "model": "acme/flux",
    "description": "makes pictures",
    "schema": {"type": "object", "properties": {"prompt": {"type": "string"}}},
    "attempts": 1,
}
ITERATOR: dict[str, Any] = {
    "model": "acme/writer",
    "schema": {
        "type": "object",
        "properties": {"prompt": {"$ref": "#/$defs/text"}},
        "$defs": {"text": {"type": "string"}},
        "x-output": {
            "type": "array",
            "items": {"type": "string"},
            "x-cog-array-type": "iterator",
            "x-cog-array-display": "concatenate",
        },
    },
}


@pytest.fixture
async def backend() -> AsyncIterator[BackendServer]:
    async with BackendServer() as server:
        yield server


@pytest.fixture
async def service(nats_url: str, backend: BackendServer) -> AsyncIterator[Service]:
    """A service with the types `flux` and `writer`, and a server for both."""
    async with running_service(nats_url, **QUICK_HOOKS) as running:
        await running.admin.done("PUT", "/api/types/flux", FLUX)
        await running.admin.done("PUT", "/api/types/writer", ITERATOR)
        await running.admin.register(backend, "gpu-1", types=["flux", "writer"], callback=True)
        yield running
