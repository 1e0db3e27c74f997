"""A network for the nats-servers of a cluster: a namespace for each, one way to its clients, one to the other servers.

    ours ── bridge `clients` (10.203.0.254) ──┬── 10.203.0.1  nats-1  10.203.1.1 ──┬── bridge `cluster`
                                              ├── 10.203.0.2  nats-2  10.203.1.2 ──┤
                                              └── 10.203.0.3  nats-3  10.203.1.3 ──┘

All of it is in the namespaces that `machine.seclude` made: the addresses are nobody else's, and nothing stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from .machine import NAMED_NETWORKS, command

BRIDGES = {"clients": "10.203.0", "cluster": "10.203.1"}
DISABLED, FORWARDING = "0", "3"
"""States of a bridge's port, from <linux/if_bridge.h>."""


class Network:
    """Give it the servers' names; use as an async context manager."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    async def __aenter__(self) -> Self:
        for bridge, subnet in BRIDGES.items():
            await command("ip", "link", "add", bridge, "type", "bridge")
            await command("ip", "address", "add", f"{subnet}.254/24", "dev", bridge)
            await command("ip", "link", "set", bridge, "up")
        for name in self._names:
            await command("ip", "netns", "add", name)
            await command("ip", "-n", name, "link", "set", "lo", "up")
            for bridge in BRIDGES:
                end = _port(bridge, name)
                await command("ip", "link", "add", end, "type", "veth", "peer", "name", bridge, "netns", name)
                await command("ip", "link", "set", end, "master", bridge, "up")
                await command("ip", "-n", name, "address", "add", f"{self._address(bridge, name)}/24", "dev", bridge)
                await command("ip", "-n", name, "link", "set", bridge, "up")
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in self._names:
            for bridge in BRIDGES:
                await command("ip", "link", "delete", _port(bridge, name))
            await command("ip", "netns", "delete", name)
        for bridge in BRIDGES:
            await command("ip", "link", "delete", bridge)

    def client_address(self, name: str) -> str:
        return self._address("clients", name)

    def cluster_address(self, name: str) -> str:
        return self._address("cluster", name)

    def inside(self, name: str) -> list[str]:
        """Return the words before a command that make it run in a server's namespace, by the same process id."""
        return ["nsenter", f"--net={NAMED_NETWORKS / name}"]

    async def isolate(self, name: str) -> None:
        """Have every packet between a server and the other servers vanish, without a word to either."""
        await command("bridge", "link", "set", "dev", _port("cluster", name), "state", DISABLED)

    async def rejoin(self, name: str) -> None:
        await command("bridge", "link", "set", "dev", _port("cluster", name), "state", FORWARDING)

    def _address(self, bridge: str, name: str) -> str:
        return f"{BRIDGES[bridge]}.{self._names.index(name) + 1}"


def _port(bridge: str, name: str) -> str:
    """Return the name of a server's end on a bridge; the kernel allows 15 characters."""
    return f"{bridge}-{name}"
