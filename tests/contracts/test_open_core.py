"""What a start that fails leaves behind: nothing."""

from __future__ import annotations

import pytest

from taskstream.container import open_core
from taskstream.errors import StoreUnavailable
from taskstream.runtime import container as core
from taskstream.streams.client.connection import Connection
from tests.support.service import quick_settings


async def test_a_start_that_fails_closes_its_connections(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Connection] = []

    async def fail(connection: Connection, *_: object) -> None:
        opened.append(connection)
        raise StoreUnavailable("no leader")

    monkeypatch.setattr(core, "ensure_streams", fail)

    with pytest.raises(StoreUnavailable):
        await open_core(quick_settings(), nats_url, durability="always")

    assert [connection.client.is_closed for connection in opened] == [True]
