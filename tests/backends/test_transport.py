"""`Retry-After`, and the descriptions of connection errors."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.connection_errors import describe
from taskstream.wire.retry_after import parse_retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# Retry-After (RFC 9110, 10.2.3)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30),
        ("Fri, 02 Jan 2026 04:04:35 +0100", 30),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0),
        ("Friday, 02-Jan-26 03:04:35 GMT", 30),
        ("Fri Jan  2 03:04:35 2026 GMT", 30),
    ],
)
def test_a_pause_is_read_as_seconds_or_as_a_date(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [None, "", "soon", "-1", "1.5", "²", "9" * 30, "9" * 5000, "Fri, 99 Jan 2026 03:04:35 GMT",
     "Fri, 02 Jan 2026 03:04:35 -0000"],
    ids=["none", "empty", "word", "negative", "fraction", "superscript", "huge", "absurd", "no date", "no zone"],
)  # fmt: skip
def test_an_invalid_retry_after_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.text(max_size=60))
def test_no_text_in_the_header_breaks_anything(value: str) -> None:
    found = parse_retry_after(value, NOW)

    assert found is None or found >= timedelta(0)


# Connections

KEY = ConnectionKey("secret-host.internal", 8443, True, True, None, None, None)
REFUSED = ConnectionRefusedError(111, "Connect call failed ('10.1.2.3', 8443)")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "Name or service not known")), "does not resolve"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, "10.1.2.3")), "certificate"),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "10.1.2.3")), "certificate"),
        (aiohttp.ClientConnectorError(KEY, REFUSED), "could not be reached"),
        (aiohttp.ServerDisconnectedError("secret-host.internal"), "closed the connection"),
        (ConnectionResetError(104, "10.1.2.3"), "closed the connection"),
        (aiohttp.ClientPayloadError("secret-host.internal"), "broke off"),
        (aiohttp.InvalidURL("http://secret-host.internal"), "not valid"),
        (aiohttp.ClientOSError(5, "10.1.2.3"), "failed"),
        (REFUSED, "failed"),
        (ValueError("http://secret-host.internal"), "failed"),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else "",
)
def test_a_connection_error_is_described_without_the_address(error: Exception, says: str) -> None:
    found = describe(error)

    assert says in found
    for secret in ("secret-host", "internal", "10.1.2.3", "8443", "http"):
        assert secret not in found


def test_the_example_errors_contain_the_address() -> None:
    assert "secret-host" in str(aiohttp.ClientConnectorError(KEY, SimpleNamespace(strerror="x", errno=1)))  # type: ignore[arg-type]
