"""The listening socket: the port of a service that has just been killed becomes free in a moment."""

from __future__ import annotations

import socket

import pytest

from taskstream.runtime import process
from taskstream.runtime.process import listen
from taskstream.settings import InvalidSettings, Settings


def test_a_port_that_becomes_free_in_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    monkeypatch.setattr("taskstream.runtime.process.time.sleep", lambda _: taken.close())
    with listen(Settings(port=port)) as (settings, sock):
        assert settings.port == port == sock.getsockname()[1]


def test_a_port_in_use_is_named_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RELEASED_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSettings, match=f"cannot listen on 127.0.0.1:{port}: "), listen(Settings(port=port)):
            pass
