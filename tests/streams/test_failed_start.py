"""What a start that fails leaves behind: nothing."""

from __future__ import annotations

import pytest

from taskstream import container
from taskstream.container import open_container
from taskstream.errors import StoreUnavailable
from taskstream.streams.client.connection import Connection
from testkit.service import quick_settings


async def test_a_start_that_fails_closes_its_connections(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Connection] = []

    async def fail(connection: Connection, *_: object) -> None:
        opened.append(connection)
        raise StoreUnavailable("no leader")

    monkeypatch.setattr(container, "ensure_streams", fail)

    with pytest.raises(StoreUnavailable):
        await open_container(quick_settings(), nats_url, durability="always")

    assert [connection.client.is_closed for connection in opened] == [True]
