"""The configuration of our own nats-server: `nats.conf`, with a few values of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from .errors import EmbeddedNatsError

CONFIG = Path(__file__).parent / "nats.conf"
HOST = "127.0.0.1"
ANY_PORT = -1
"""What nats-server calls a port that it may choose itself."""
CLUSTER_NAME = "taskstream"
ROUTE_USER = "route"


class ClusterSeat(Struct, frozen=True, kw_only=True):
    """One server's place in a cluster on this machine."""

    name: str
    """Who it is to the others, for as long as its store lives."""
    port: int
    """Where the others reach it."""
    route_ports: Sequence[int]
    """Where it finds all of them, itself included."""
    password: str
    """What servers ask of each other: clients on this machine cannot pose as one."""


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return the configuration with each key, which must be there once, at another value.

    NATS itself cannot: it refuses `-sd` beside a `store_dir`, and a variable of the environment has no default.
    """
    for key, value in values.items():
        lines = re.findall(rf"(?m)^[ \t]*{key}:.*$", text)
        if len(lines) != 1:
            raise EmbeddedNatsError(f"nats.conf must have exactly one line `{key}: …`; it has {len(lines)}")
        text = text.replace(lines[0], f"{key}: {value}")
    return text


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
