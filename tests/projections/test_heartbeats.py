"""Signs of life of very many servers, one after another, leave nothing behind in a process."""

from __future__ import annotations

from typing import Any

import pytest

from taskstream.projections import heartbeats
from taskstream.projections.heartbeats import Heartbeats


class Writes:
    """A bucket that counts."""

    def __init__(self) -> None:
        self.count = 0

    async def get(self, key: str) -> None:
        return None

    async def put(self, key: str, value: bytes) -> None:
        self.count += 1


async def test_servers_that_come_and_go_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: now)
    bucket: Any = Writes()
    noted = Heartbeats(bucket, ttl_seconds=40.0)
    for number in range(3 * heartbeats.MOST_NOTED):
        now += 1.0
        await noted.note(f"server {number}")
        await noted.note(f"server {number}")

    assert bucket.count == 3 * heartbeats.MOST_NOTED
    assert len(noted._noted) <= heartbeats.MOST_NOTED
