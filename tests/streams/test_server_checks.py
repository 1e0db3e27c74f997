"""The checks of a NATS server: version, durability, clock."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from taskstream.clock import utc_now
from taskstream.container import Container
from taskstream.errors import StoreUnavailable
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.topology import server_checks
from taskstream.streams.topology.server_checks import NatsTooOld, ServerChecks, clock_difference_ms, inspect
from testkit.nats import NatsServer


class Pretending(Connection):
    """A connection whose server says it has another version."""

    version = ""

    @property
    def server_version(self) -> str:
        return self.version


def pretending(container: Container, version: str) -> Connection:
    other = Pretending.__new__(Pretending)
    other.__dict__ = container.reading.__dict__
    other.version = version
    return other


@pytest.mark.parametrize("version", ["2.14.9", "2.9.25", "1.99.99", "2.14.99-beta.2"])
async def test_a_server_older_than_needed_is_refused(container: Container, version: str) -> None:
    with pytest.raises(NatsTooOld, match=rf"{re.escape(version)} is too old: upgrade it to 2\.15\.0 or newer"):
        await inspect(pretending(container, version), None, None)


@pytest.mark.parametrize("version", ["2.15.0", "2.15.1-RC.1", "2.16.0", "3.0.0", "10.0.0"])
async def test_a_server_new_enough_is_taken(container: Container, version: str) -> None:
    assert (await inspect(pretending(container, version), None, None)).version == version


async def test_the_server_of_these_tests_is_new_enough(container: Container) -> None:
    assert container.server_checks.version == container.reading.server_version
    assert container.server_checks.warnings() == []


@pytest.mark.parametrize(
    ("line", "durability"), [("sync_interval: always", "always"), ("", "interval"), ("sync_interval: 10s", "interval")]
)
async def test_how_a_server_syncs_is_read_from_its_monitoring(tmp_path: Path, line: str, durability: str) -> None:
    server = NatsServer(tmp_path / "nats", "http: 127.0.0.1:-1")
    server.config = server.config.replace("sync_interval: always", line)
    server.start()
    connection = await open_connection(server.url, "test")

    found = await inspect(connection, server.monitor_url, None)

    assert found.durability == durability
    await connection.close()
    server.stop()


@pytest.mark.parametrize("monitor_url", [None, "http://127.0.0.1:1", "not a url"])
async def test_without_monitoring_it_is_not_known_how_a_server_syncs(
    container: Container, monitor_url: str | None
) -> None:
    assert (await inspect(container.reading, monitor_url, None)).durability == "unknown"


async def test_who_started_the_server_need_not_ask(container: Container) -> None:
    assert (await inspect(container.reading, "http://127.0.0.1:1", "always")).durability == "always"


async def test_the_clocks_of_one_machine_agree(container: Container) -> None:
    assert abs(await clock_difference_ms(container.reading)) < 1_000


@pytest.mark.parametrize("seconds", [-90, 90])
async def test_a_clock_that_differs_is_measured(
    container: Container, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setattr(server_checks, "utc_now", lambda: utc_now() - timedelta(seconds=seconds))

    assert await clock_difference_ms(container.reading) == pytest.approx(seconds * 1_000, abs=1_000)


async def test_a_server_without_jetstream_is_refused(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    server.config = "host: 127.0.0.1\nport: 4222\n"
    server.start()
    connection = await open_connection(server.url, "test")

    with pytest.raises(StoreUnavailable):
        await inspect(connection, None, None)

    await connection.close()
    server.stop()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ServerChecks(version="2.15.1", durability="always", clock_difference_ms=999.0), []),
        (ServerChecks(version="2.15.1", durability="interval", clock_difference_ms=0.0), ["sync_interval: always"]),
        (
            ServerChecks(version="2.15.1", durability="unknown", clock_difference_ms=0.0),
            ["TASKSTREAM_NATS_MONITOR_URL"],
        ),
        (ServerChecks(version="2.15.1", durability="always", clock_difference_ms=-1_001.0), ["-1001 ms"]),
    ],
)
def test_what_is_weaker_than_it_should_be_is_said_with_what_to_do(found: ServerChecks, words: list[str]) -> None:
    warnings = found.warnings()

    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))
