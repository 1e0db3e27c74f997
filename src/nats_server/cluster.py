"""The embedded cluster of `taskstream up --cluster N`: several nats-servers on one machine, for trials.

    DATA_DIR/cluster.json         the number of servers, their ports, and the password between them
    DATA_DIR/nats-password        the password of clients
    DATA_DIR/node-1/ … node-N/    one `EmbeddedNats` each

It shows what a cluster does when a server dies. It does not protect against the loss of the machine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..clock import random_bits
from .config import CONFIG, HOST, ClusterSeat
from .server import (
    PASSWORD_FILE,
    STORE,
    EmbeddedNats,
    EmbeddedNatsError,
    OtherNumberOfNodes,
    Startable,
    end_stale_server,
    lock,
    new_password,
    write_private,
)

PLAN = "cluster.json"
PORTS = range(20_000, 32_000)
"""Below the kernel's ephemeral ports: a server that is down must find its own port free again."""


class Ports(Struct, frozen=True, kw_only=True):
    """The ports of one server."""

    client: int
    route: int


class ClusterPlan(Struct, frozen=True, kw_only=True):
    """The content of `cluster.json`."""

    ports: tuple[Ports, ...]
    password: str
    """Between the servers; another one at each start."""


class EmbeddedCluster(Startable):
    """Several nats-servers as one JetStream cluster. All end when this process ends.

    `max_storage` is in bytes, for each server.
    """

    def __init__(self, data_dir: Path, nodes: int, *, max_storage: int = 0, config: Path = CONFIG) -> None:
        self._folder = data_dir.expanduser().resolve()
        self._size = nodes
        self._numbers = range(1, nodes + 1)
        self._max_storage = max_storage
        self._config = config
        self._password = new_password()
        self._lock: IO[bytes] | None = None
        self.nodes: list[EmbeddedNats] = []
        """Empty until started."""

    @property
    def url(self) -> str:
        """The URLs of all servers for clients, separated by commas, with user and password. Known once started."""
        return ",".join(node.url for node in self.nodes)

    async def start(self) -> None:
        """Start all servers and return when each accepts connections; they may not have elected a leader yet.

        Raises OtherNumberOfNodes if the folder belongs to a cluster of another size, or another EmbeddedNatsError;
        nothing is left running then.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock(self._folder)
        try:
            await asyncio.gather(*(end_stale_server(self._folder / name(number)) for number in self._numbers))
            self.nodes = list(self._seated(self._plan()))
            write_private(self._folder / PASSWORD_FILE, self._password.encode())
            async with asyncio.TaskGroup() as starting:
                for node in self.nodes:
                    starting.create_task(node.start())
        except BaseExceptionGroup as group:
            await self.stop()
            raise group.exceptions[0] from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all servers and release the folder. Repeating does nothing."""
        try:
            await asyncio.gather(*(node.stop() for node in self.nodes))
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _plan(self) -> ClusterPlan:
        """Return the plan of the folder, with a new port for each one that another process now uses."""
        check_size(self._folder, self._size)
        path = self._folder / PLAN
        kept = read_plan(path)
        free = free_ports({number for ports in kept.ports for number in (ports.client, ports.route)} if kept else set())
        if kept is None:
            made = tuple(Ports(client=next(free), route=next(free)) for _ in range(self._size))
            plan = ClusterPlan(ports=made, password=new_password())
        else:
            plan = replace(
                kept,
                password=new_password(),
                ports=tuple(
                    Ports(
                        client=ports.client if is_free(ports.client) else next(free),
                        route=ports.route if is_free(ports.route) else next(free),
                    )
                    for ports in kept.ports
                ),
            )
        write_private(path, msgspec.json.encode(plan))
        return plan

    def _seated(self, plan: ClusterPlan) -> Iterator[EmbeddedNats]:
        routes = [ports.route for ports in plan.ports]
        for number, ports in zip(self._numbers, plan.ports, strict=True):
            seat = ClusterSeat(name=name(number), port=ports.route, route_ports=routes, password=plan.password)
            folder = self._folder / seat.name
            yield EmbeddedNats(
                folder,
                port=ports.client,
                max_storage=self._max_storage,
                config=self._config,
                seat=seat,
                password=self._password,
            )


def name(number: int) -> str:
    return f"node-{number}"


def check_size(data_dir: Path, nodes: int) -> None:
    """Raise OtherNumberOfNodes if the folder holds the store of another number of servers, which these cannot read."""
    folder = data_dir.expanduser().resolve()
    plan = read_plan(folder / PLAN)
    found = len(plan.ports) if plan else 1 if (folder / STORE).exists() else nodes
    if found != nodes:
        raise OtherNumberOfNodes(folder, nodes, found)


def read_plan(path: Path) -> ClusterPlan | None:
    """Return the stored plan, None if there is none. Raises EmbeddedNatsError for one that does not decode."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClusterPlan)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise EmbeddedNatsError(f"{path} is damaged ({error}): restore it, or choose another data folder") from None


def free_ports(taken: set[int]) -> Iterator[int]:
    """Yield each port that is free now and not in `taken`, once. Raises EmbeddedNatsError at the end of the range."""
    start = random_bits(16)
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        if port not in taken and is_free(port):
            yield port
    raise EmbeddedNatsError(f"no port between {PORTS.start} and {PORTS.stop} is free: end other processes")


def is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
