"""The URLs of NATS servers; user and password in them are for NATS, and never shown."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from ...settings import InvalidSettings, variable

DEFAULT_PORT = 4222


def servers_of(url: str) -> list[SplitResult]:
    """Return the servers of a list separated by commas. Raises InvalidSettings, which repeats no password."""
    servers = []
    for part in filter(None, map(str.strip, url.split(","))):
        whole = part if "://" in part else f"nats://{part}"
        try:
            server = urlsplit(whole)
            hostname, _ = server.hostname, server.port
        except ValueError as error:
            raise InvalidSettings(f"{variable('nats_url')}: a URL in it is malformed: {error}") from None
        if not hostname or server.scheme not in ("nats", "tls"):
            raise InvalidSettings(
                f"{variable('nats_url')}: must be nats://HOST:PORT or tls://HOST:PORT, separated by commas"
            )
        servers.append(server)
    if not servers:
        raise InvalidSettings(f"{variable('nats_url')}: names no server")
    return servers


def address(server: SplitResult) -> str:
    """Return the server's URL without user and password: fit to be shown."""
    host = f"[{server.hostname}]" if ":" in (server.hostname or "") else server.hostname
    return f"{server.scheme}://{host}:{server.port or DEFAULT_PORT}"


def shown(url: str) -> str:
    """Return any URL without user and password."""
    return re.sub(r"//[^/@]*@", "//", url)
