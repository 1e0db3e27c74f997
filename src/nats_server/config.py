"""The configuration of the embedded nats-server: `nats.conf` with a few values replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

CONFIG = Path(__file__).parent / "nats.conf"
HOST = "127.0.0.1"
ANY_PORT = -1
"""Lets nats-server choose a free port."""
USER = "taskstream"
"""The only user of an embedded server."""
CLUSTER_NAME = "taskstream"
ROUTE_USER = "route"


class ClusterSeat(Struct, frozen=True, kw_only=True):
    """One server's place in a cluster on this machine."""

    name: str
    """Its name in the cluster; must not change as long as its store exists."""
    port: int
    """The port at which the other servers reach it."""
    route_ports: Sequence[int]
    """The ports of all servers, its own included."""
    password: str
    """The servers' shared password, so no client on this machine can pose as a server."""


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return the configuration with the values of these keys replaced. Raises ValueError unless each key is there once.

    NATS has no way to override them: it refuses `-sd` beside a `store_dir`, and its variables have no defaults.
    """
    for key, value in values.items():
        lines = re.findall(rf"(?m)^[ \t]*{key}:.*$", text)
        if len(lines) != 1:
            raise ValueError(f"nats.conf must have exactly one line `{key}: …`; it has {len(lines)}")
        text = text.replace(lines[0], f"{key}: {value}")
    return text


def with_password(text: str, password: str) -> str:
    """Return the configuration with the user USER, whose password every client must know.

    The password is in plain text: who can read the configuration can read the password's file beside it, too, and a
    bcrypt hash would cost each connection some 50 ms.
    """
    return f"{text}\nauthorization {{ user: {USER}, password: {json.dumps(password)} }}\n"


def with_seat(text: str, seat: ClusterSeat) -> str:
    """Return the configuration with a place in a cluster."""
    routes = ", ".join(
        json.dumps(f"nats-route://{ROUTE_USER}:{seat.password}@{HOST}:{port}") for port in seat.route_ports
    )
    return f"""{text}
server_name: {json.dumps(seat.name)}

cluster {{
  name: {CLUSTER_NAME}
  listen: "{HOST}:{seat.port}"
  authorization {{ user: {ROUTE_USER}, password: {json.dumps(seat.password)} }}
  routes: [{routes}]
}}
"""
