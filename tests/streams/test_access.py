"""Who we are to NATS, and who NATS is to us: let in with the right settings; refused with the name of the wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from taskstream.settings import InvalidSettings, Settings
from taskstream.streams.client import connection as connecting
from taskstream.streams.client.access import Access
from taskstream.streams.client.connection import Connection, open_connection
from taskstream.streams.client.connection_errors import AccessRefused
from taskstream.streams.jetstream.api import api
from taskstream.streams.topology.server_checks import inspect
from testkit import outage
from testkit.certificates import Authority, tls
from testkit.nats import NatsServer
from testkit.operator import Operator
from testkit.waiting import wait_until

Start = Callable[[str], NatsServer]
PASSWORD = "pass/word:with@all"
USERS = f'authorization {{ user: alice, password: "{PASSWORD}" }}'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts nats-servers with more in their configuration."""
    started: list[NatsServer] = []

    def start_one(more: str) -> NatsServer:
        server = NatsServer(tmp_path / f"nats-{len(started)}", more)
        started.append(server)
        server.start()
        return server

    yield start_one
    for server in started:
        server.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


async def let_in(url: str, **settings: Any) -> Connection:
    """Connect and use JetStream."""
    connection = await open_connection(url, "test", Access.from_settings(Settings(**settings)))
    await api(connection, "INFO")
    return connection


async def refused(url: str, **settings: Any) -> str:
    """Return the words of the refusal."""
    with pytest.raises(AccessRefused) as caught:
        await let_in(url, **settings)
    return str(caught.value)


def tls_url(server: NatsServer, host: str = "127.0.0.1") -> str:
    return f"tls://{host}:{server.port}"


# TLS


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_server_by_a_ca_of_ours_is_trusted(start: Start, authority: Authority, scheme: str) -> None:
    server = start(tls(authority))

    connection = await let_in(f"{scheme}://127.0.0.1:{server.port}", nats_ca=str(authority.file))

    assert connection.client._transport._io_writer.get_extra_info("ssl_object") is not None
    await connection.close()


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_without_the_ca_it_is_not_and_the_setting_is_named(
    start: Start, authority: Authority, scheme: str
) -> None:
    server = start(tls(authority))

    said = await refused(f"{scheme}://127.0.0.1:{server.port}")

    assert "not trusted" in said
    assert "TASKSTREAM_NATS_CA" in said


async def test_another_ca_is_not_trusted(start: Start, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other")

    assert "TASKSTREAM_NATS_CA" in await refused(tls_url(start(tls(authority))), nats_ca=str(other.file))


async def test_a_certificate_for_another_host_is_refused(start: Start, authority: Authority) -> None:
    server = start(tls(authority, "elsewhere.example"))

    said = await refused(tls_url(server), nats_ca=str(authority.file))

    assert "another host" in said
    assert "TASKSTREAM_NATS_URL" in said


async def test_a_certificate_that_has_expired_is_refused(start: Start, authority: Authority) -> None:
    server = start(tls(authority, not_after=datetime.now(UTC) - timedelta(days=1)))

    assert "expired" in await refused(tls_url(server), nats_ca=str(authority.file))


async def test_a_client_certificate_lets_in_where_one_is_asked_for(start: Start, authority: Authority) -> None:
    server = start(tls(authority, verify=True))
    certificate, key = map(str, authority.issue("client"))

    connection = await let_in(tls_url(server), nats_ca=str(authority.file), nats_cert=certificate, nats_key=key)

    await connection.close()


async def test_without_one_the_settings_are_named(start: Start, authority: Authority) -> None:
    said = await refused(tls_url(start(tls(authority, verify=True))), nats_ca=str(authority.file))

    assert "client certificate" in said
    assert "TASKSTREAM_NATS_CERT and TASKSTREAM_NATS_KEY" in said


async def test_one_of_another_ca_is_refused(start: Start, authority: Authority, tmp_path: Path) -> None:
    certificate, key = map(str, Authority(tmp_path / "other", "other").issue("client"))
    server = start(tls(authority, verify=True))

    said = await refused(tls_url(server), nats_ca=str(authority.file), nats_cert=certificate, nats_key=key)

    assert certificate in said
    assert "TASKSTREAM_NATS_CERT" in said


@pytest.mark.parametrize("more", [{}, {"nats_ca": True}])
async def test_where_tls_is_asked_for_nothing_is_sent_without(
    start: Start, authority: Authority, more: dict[str, Any]
) -> None:
    server = start(USERS)
    scheme = "nats" if more else "tls"
    settings = {name: str(authority.file) for name in more}

    said = await refused(f"{scheme}://127.0.0.1:{server.port}", nats_user="alice", nats_password=PASSWORD, **settings)

    assert "no TLS" in said
    assert ("TASKSTREAM_NATS_CA" if more else "tls://") in said


async def test_a_new_certificate_is_taken_from_the_same_file_at_the_next_connection(
    start: Start, authority: Authority
) -> None:
    server = start(tls(authority, verify=True))
    certificate, key = authority.issue("client")
    settings = {"nats_ca": str(authority.file), "nats_cert": str(certificate), "nats_key": str(key)}
    connection = await let_in(tls_url(server), **settings)
    renewed = Authority(certificate.parent, "renewed")
    for old, new in zip((certificate, key), renewed.issue("client"), strict=True):
        new.replace(old)
    await outage.end(server, connection)
    server.more = server.more.replace(str(authority.file), str(renewed.file))  # it accepts the new one only

    await outage.begin(server, connection)

    await api(connection, "INFO")
    await connection.close()


async def test_monitoring_by_https_is_trusted_as_the_server_is(start: Start, authority: Authority) -> None:
    server = start("https: 127.0.0.1:-1\n" + tls(authority))
    url = server.monitor_url
    settings = Settings(nats_ca=str(authority.file))
    connection = await let_in(tls_url(server), nats_ca=settings.nats_ca)

    assert url.startswith("https://")
    assert (await inspect(connection, url, None, Access.from_settings(settings))).durability == "always"
    assert (await inspect(connection, url, None)).durability == "unknown"
    await connection.close()


# Users, passwords, tokens


async def test_user_and_password_let_in(start: Start) -> None:
    connection = await let_in(start(USERS).url, nats_user="alice", nats_password=PASSWORD)
    await connection.close()


async def test_user_and_password_in_the_url_let_in(start: Start) -> None:
    server = start(USERS)

    connection = await let_in(f"nats://alice:pass%2Fword%3Awith%40all@127.0.0.1:{server.port},nats://127.0.0.1:1")

    await connection.close()


async def test_a_token_lets_in_by_setting_and_by_url(start: Start) -> None:
    server = start('authorization { token: "open-sesame" }')

    for url, more in (
        (server.url, {"nats_token": "open-sesame"}),
        (f"nats://open-sesame@127.0.0.1:{server.port}", {}),
    ):
        connection = await let_in(url, **more)
        await connection.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "TASKSTREAM_NATS_USER"),
        ({"nats_user": "alice", "nats_password": "wrong-one"}, "TASKSTREAM_NATS_USER"),
        ({"nats_token": "wrong-one"}, "TASKSTREAM_NATS_TOKEN"),
    ],
)
async def test_a_wrong_one_is_refused_at_once_naming_the_setting(
    start: Start, settings: dict[str, Any], named: str
) -> None:
    said = await refused(start(USERS).url, **settings)

    assert named in said
    assert "wrong-one" not in said


async def test_no_password_is_ever_shown(start: Start) -> None:
    server = start(USERS)
    urls = [
        f"nats://alice:hush-hush@127.0.0.1:{server.port}",
        "nats://alice:hush-hush@127.0.0.1:notaport",
        "http://a:hush-hush@b",
    ]
    with structlog.testing.capture_logs() as logs:
        for url in urls:
            with pytest.raises((AccessRefused, InvalidSettings)) as caught:
                await let_in(url)
            assert "hush-hush" not in str(caught.value)
    assert "hush-hush" not in repr(logs)


async def test_a_server_that_is_not_there_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_SECONDS", 0.3)

    with pytest.raises(connecting.StoreUnavailable, match=r"answers at nats://127\.0\.0\.1:1: .*Connect call failed"):
        await open_connection("nats://alice:hush-hush@127.0.0.1:1", "test")


# Credentials files


async def test_a_credentials_file_lets_in(start: Start, tmp_path: Path) -> None:
    operator = Operator()
    server = start(operator.config())

    connection = await let_in(server.url, nats_creds=str(operator.credentials(tmp_path / "user.creds")))

    await connection.close()


async def test_credentials_that_have_expired_are_refused_saying_since_when(start: Start, tmp_path: Path) -> None:
    operator = Operator()
    server = start(operator.config())
    creds = operator.credentials(tmp_path / "user.creds", lifetime_seconds=-60)

    said = await refused(server.url, nats_creds=str(creds))

    assert f"TASKSTREAM_NATS_CREDS='{creds}' expired at 20" in said


async def test_credentials_of_another_operator_are_refused(start: Start, tmp_path: Path) -> None:
    server = start(Operator().config())
    creds = Operator().credentials(tmp_path / "user.creds")

    assert f"TASKSTREAM_NATS_CREDS='{creds}'" in await refused(server.url, nats_creds=str(creds))


async def test_expired_credentials_are_reported_and_new_ones_in_the_file_are_used(start: Start, tmp_path: Path) -> None:
    operator = Operator()
    server = start(operator.config())
    creds = operator.credentials(tmp_path / "user.creds", lifetime_seconds=2)
    with structlog.testing.capture_logs() as logs:
        connection = await let_in(server.url, nats_creds=str(creds))

        def complained() -> bool:
            said = [entry for entry in logs if entry["event"] == "nats.refused" and entry["log_level"] == "error"]
            return any("expired at" in entry["reason"] and str(creds) in entry["reason"] for entry in said)

        await wait_until(complained, "the log to say that the credentials have expired")
        creds.write_text("half written")
        await wait_until(
            lambda: any("not a credentials file" in repr(entry) for entry in logs), "the log to name the file"
        )
    assert not connection.is_connected

    operator.credentials(creds)

    await wait_until(lambda: connection.is_connected, "the connection to be back")
    await api(connection, "INFO")
    await connection.close()


# Permissions


async def test_without_an_inbox_of_its_own_it_says_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "REQUEST_TIMEOUT_SECONDS", 0.5)
    permissions = '{ subscribe: { allow: ["_INBOX_ours.>"] } }'
    server = start(f'authorization {{ users: [ {{ user: alice, password: "p", permissions: {permissions} }} ] }}')

    assert "TASKSTREAM_NATS_INBOX_PREFIX" in await refused(server.url, nats_user="alice", nats_password="p")

    connection = await let_in(server.url, nats_user="alice", nats_password="p", nats_inbox_prefix="_INBOX_ours")
    await connection.close()


# What does not go together


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"nats_ca": "/no/such/file"}, "TASKSTREAM_NATS_CA='/no/such/file'"),
        ({"nats_ca": __file__}, "TASKSTREAM_NATS_CA"),
        ({"nats_cert": "/no/such/file"}, "TASKSTREAM_NATS_CERT"),
        ({"nats_key": "/no/such/file"}, "TASKSTREAM_NATS_CERT"),
        ({"nats_creds": "/no/such/file"}, "TASKSTREAM_NATS_CREDS='/no/such/file'"),
        ({"nats_creds": __file__}, "TASKSTREAM_NATS_CREDS"),
        ({"nats_user": "alice"}, "TASKSTREAM_NATS_PASSWORD"),
        ({"nats_password": "open-sesame"}, "TASKSTREAM_NATS_USER"),
        ({"nats_token": "t", "nats_user": "alice", "nats_password": "open-sesame"}, "TASKSTREAM_NATS_TOKEN"),
    ],
)
def test_a_bad_file_or_half_a_pair_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSettings, match="TASKSTREAM") as caught:
        Access.from_settings(Settings(**settings))

    assert named in str(caught.value)
    assert "open-sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", ",", "http://127.0.0.1", "nats://", "nats://host:port", "nats://a:b@one,nats://c:d@two", "wss://host"]
)
async def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="TASKSTREAM_NATS_URL"):
        await open_connection(url, "test")
