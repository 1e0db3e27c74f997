"""The service of a run: every process of it, and the links between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec

from taskstream.nats_server.config import CONFIG, with_values
from taskstream.nats_server.server import find_executable
from testkit.link import Link
from testkit.processes import Exit, Supervised, environment, python, quick
from testkit.service import Client, quick_settings, token
from testkit.usage import descriptors, resident_mb
from testkit.waiting import until_ok, until_open

from .disk import Disk
from .evidence import Line, Resources, Server
from .fleet import EVERY, FLEET, TYPES, command, processes, puller_command
from .journal import read
from .machine import NOTHING, Machine
from .network import Network
from .schedule import APIS, BACKENDS, OURS, WORKERS, links, model_links, nats_names, routes
from .skewed import Clock

START_SECONDS = 120.0
LONGEST_TRACE = 600
"""Characters of where an exception came from."""
OUT_OF_GRACE = "CancelledError: Task cancelled, timeout graceful shutdown exceeded"
"""The end of an exception of uvicorn's: a process that is asked to end waits so long for requests, and NATS is away."""
CLIENT_SECONDS = 5.0
PORTS = (20_000, 32_000)
RECEIVERS = tuple(f"receiver-{number}" for number in range(1, 6))
LEASE_SECONDS = 4
PULL_LEASE_SECONDS = 3
GRACE_SECONDS = 5.0
"""How late a run of a schedule may be and still not be missed."""
SETTINGS = {
    "LOG_FORMAT": "json",
    "LEASE_TTL": str(LEASE_SECONDS),
    "PULL_LEASE": str(PULL_LEASE_SECONDS),
    "ACK_WAIT": "5",
    "RECONCILE_INTERVAL": "2",
    "HEALTH_INTERVAL": "0.5",
    "HEALTH_RETRIES": "1",
    "HEALTH_RETRY_DELAY": "0.3",
    "SERVER_REMOVE_AFTER": "3600",
    "CIRCUIT_COOLDOWN": "1",
    "MAX_RESULT": "1000000",
    "SCHEDULE_GRACE": str(GRACE_SECONDS),
    "WEBHOOK_TIMEOUT": "1",
    "WEBHOOK_RETRY_BASE": "0.2",
    "WEBHOOK_RETRY_CAP": "1",
    "WEBHOOK_ATTEMPTS": "50",
}
"""Quicker than anybody needs, so that what would take minutes shows in seconds."""


class System:
    """Made by `running`. Names are those of the schedule."""

    def __init__(self, folder: Path, nodes: int, machine: Machine = NOTHING) -> None:
        self.folder = folder
        self.nodes = nodes
        self.machine = machine
        names = (*nats_names(nodes), *APIS, *EVERY, *_cluster_names(nodes), *RECEIVERS)
        self.ports = dict(zip(names, _free_ports(), strict=False))
        self.backends: Sequence[str] = BACKENDS
        self.misbehaves = False
        """Whether servers are busy, and send answers unasked, of their own accord. Set both before the start."""
        self.processes: dict[str, Supervised] = {}
        self.links: dict[str, Link] = {}
        self.disks: dict[str, Disk] = {}
        """By nats-server; empty where the machine has none for us."""
        self.clocks = {name: Clock(folder / f"{name}.clock") for name in OURS}
        self.network: Network | None = None
        """Between nats-servers; None where that is the business of links."""

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.ports[name]}" for name in APIS]

    @property
    def links_to_apis(self) -> list[str]:
        """The APIs again, by ways that may be cut off."""
        return [f"http://127.0.0.1:{self.links[f'callbacks>{name}'].port}" for name in APIS]

    @property
    def receiver_ports(self) -> list[int]:
        """Free ports for receivers of webhooks."""
        return [self.ports[name] for name in RECEIVERS]

    @property
    def nats_urls(self) -> list[str]:
        """Where NATS is without any link between."""
        return [f"nats://{self._host(name)}:{self.ports[name]}" for name in nats_names(self.nodes)]

    def journal_of(self, backend: str) -> Path:
        return self.folder / f"{backend}.jsonl"

    def index_folder(self, name: str) -> Path:
        """Return the folder of an API's index."""
        return self.folder / f"{name}-index"

    @property
    def pullers(self) -> Sequence[str]:
        return [puller for name in self.backends for puller in FLEET[name].pullers]

    @property
    def pushed(self) -> Sequence[str]:
        """The backends that are called."""
        return [name for name in self.backends if not FLEET[name].pullers]

    def backend_lines(self) -> list[Line]:
        """Return the lines of all backends' and pullers' own logs, by time."""
        lines = [line for name in (*self.pushed, *self.pullers) for line in read(self.journal_of(name))]
        return sorted(lines, key=lambda line: line["at"])

    def servers(self) -> dict[str, Server]:
        """Return the backends as they were started and registered."""
        return {name: FLEET[name].server(misbehaves=self.misbehaves) for name in self.backends}

    @staticmethod
    def defaults() -> Line:
        """Return what the service assumes for a task of a type that says nothing."""
        settings = quick_settings()
        return {"attempts": settings.attempts, "timeout": settings.attempt_timeout}

    def exits(self) -> list[Exit]:
        """Return every unexpected end of a process."""
        return [found for process in self.processes.values() for found in process.exits]

    def crashes(self) -> list[str]:
        """Return the exceptions that our processes log as errors, each with the end of where it came from."""
        found = []
        for name in OURS:
            for line in (self.folder / f"{name}.log").read_bytes().splitlines():
                if b'"level": "error"' in line and b'"exception": ' in line:
                    with contextlib.suppress(msgspec.DecodeError):  # a process was killed while it wrote
                        entry = msgspec.json.decode(line)
                        if entry["exception"].endswith(OUT_OF_GRACE):
                            continue
                        found.append(f"{name}: {entry['event']}: {entry['exception'][-LONGEST_TRACE:]}")
        return found

    async def start(self, stack: AsyncExitStack) -> None:
        """Start everything, in order, and return when servers are online."""
        if self.nodes > 1 and self.machine.networks:
            self.network = await stack.enter_async_context(Network(nats_names(self.nodes)))
        for name in (*links(self.nodes), *model_links()):
            target = name.rpartition(">")[2]
            link = Link(self.ports[target], host=self._host(target))
            self.links[name] = await stack.enter_async_context(link)
        if self.nodes > 1 and self.network is None:
            for name in routes(self.nodes):
                target = f"{name.rpartition('>')[2]}-cluster"
                self.links[name] = await stack.enter_async_context(Link(self.ports[target]))
        for name in nats_names(self.nodes):
            if self.machine.disks:
                disk = Disk(self.folder / f"{name}.ext4", self.folder / name)
                self.disks[name] = await stack.enter_async_context(disk)
            inside = self.network.inside(name) if self.network else []
            arguments = [*inside, str(find_executable()), "-c", str(self._nats_config(name))]
            await self._run(stack, name, arguments, dict(os.environ))
        for process, servers in processes(self.backends).items():
            described = [
                FLEET[name].command(name, self.ports[name], self.journal_of(name), misbehaves=self.misbehaves)
                for name in servers
            ]
            await self._run(stack, process, command(described), environment({}))
        listening = (*nats_names(self.nodes), *self.pushed)
        await asyncio.gather(*(until_open(self.ports[name], self._host(name)) for name in listening))
        await asyncio.sleep(2.0 if self.nodes > 1 else 0)  # a cluster elects its leader
        for number, name in enumerate(APIS):
            arguments = self._ours(name, "api", "--port", str(self.ports[name]))
            await self._run(stack, name, arguments, self._environment(name, number))
            if number == 0:
                await until_open(self.ports[name], self._host(name))
                await ready(self.urls[0])
        for number, name in enumerate(WORKERS):
            await self._run(stack, name, self._ours(name, "worker"), self._environment(name, number))
        await asyncio.gather(*map(ready, self.urls))
        for name in self.pullers:
            url = f"http://127.0.0.1:{self.links[self._way_of(name)].port}"
            await self._run(stack, name, puller_command(name, url, self.journal_of(name)), environment({}))
        await self._register()

    @staticmethod
    def _way_of(puller: str) -> str:
        """Return the name of the link by which a puller calls an API."""
        return next(way for way in model_links() if way.startswith(f"{puller}>"))

    def _host(self, name: str) -> str:
        """Return where a process listens."""
        in_network = self.network is not None and name in nats_names(self.nodes)
        return self.network.client_address(name) if self.network and in_network else "127.0.0.1"

    def _ours(self, name: str, *arguments: str) -> list[str]:
        clock = str(self.clocks[name].path)
        return python("chaos.skewed", clock, "-m", "taskstream", *arguments)

    def _environment(self, name: str, number: int) -> dict[str, str]:
        nats = ",".join(f"nats://127.0.0.1:{self.links[f'{name}>{node}'].port}" for node in nats_names(self.nodes))
        own = {
            "NATS_URL": nats,
            "REPLICAS": str(self.nodes),
            "INDEX_DIR": str(self.index_folder(name)),
            "PUBLIC_URL": f"http://127.0.0.1:{self.links[f'callbacks>{APIS[number]}'].port}",
        }
        return environment(quick() | SETTINGS | own)

    async def _run(self, stack: AsyncExitStack, name: str, arguments: list[str], env: dict[str, str]) -> None:
        process = Supervised(name, arguments, env, self.folder / f"{name}.log")
        self.processes[name] = process
        process.start()
        stack.push_async_callback(process.close)

    def _nats_config(self, name: str) -> Path:
        store = json.dumps(str(self.folder / name))
        values = {"host": self._host(name), "port": str(self.ports[name]), "store_dir": store}
        text = with_values(CONFIG.read_text(), values)
        if self.nodes > 1:
            others = [other for other in nats_names(self.nodes) if other != name]
            urls = ", ".join(f'"nats://{self._route(name, other)}"' for other in others)
            host = self.network.cluster_address(name) if self.network else "127.0.0.1"
            # Clients and servers know each other by the links alone: no way around a cut is announced.
            text += (
                f"\nserver_name: {name}\ncluster {{\n  name: chaos\n"
                f"  listen: {host}:{self.ports[f'{name}-cluster']}\n"
                f"  routes: [{urls}]\n  no_advertise: true\n}}\n"
            )
        path = self.folder / f"{name}.conf"
        path.write_text(text)
        return path

    def _route(self, name: str, other: str) -> str:
        """Return the address at which a nats-server finds another."""
        if self.network:
            return f"{self.network.cluster_address(other)}:{self.ports[f'{other}-cluster']}"
        return f"127.0.0.1:{self.links[f'{name}>{other}'].port}"

    async def isolate(self, name: str) -> None:
        """Cut a nats-server off from the other nats-servers, not from its clients."""
        if self.network:
            await self.network.isolate(name)
        for link in self._routes_of(name):
            link.set("cut")

    async def rejoin(self, name: str) -> None:
        if self.network:
            await self.network.rejoin(name)
        for link in self._routes_of(name):
            link.set("pass")

    def _routes_of(self, name: str) -> list[Link]:
        ways = [way for way in routes(self.nodes) if name in way.split(">")]
        return [self.links[way] for way in ways if way in self.links]

    async def _register(self) -> None:
        async with asyncio.timeout(START_SECONDS), _session() as session:
            admin = Client(session, self.urls[0], token("root", "admin"))
            for task_type, definition in TYPES.items():
                await admin.done("PUT", f"/api/types/{task_type}", definition)
            for name in self.backends:
                base = f"http://127.0.0.1:{self.links[f'workers>{name}'].port}" if name in self.pushed else ""
                await admin.done("POST", "/api/servers", FLEET[name].registration(name, base))
            for name in self.backends:
                await admin.server_is(name, "online")

    def resources(self) -> dict[str, Resources]:
        """Return what each process of ours has; one that does not run has nothing."""
        found = {}
        for name in OURS:
            found[name] = Resources(0, 0.0)
            if pid := self.processes[name].pid:
                with contextlib.suppress(OSError):  # it ends meanwhile
                    found[name] = Resources(descriptors(pid), resident_mb(pid))
        return found


@contextlib.asynccontextmanager
async def running(folder: Path, nodes: int, machine: Machine = NOTHING) -> AsyncIterator[System]:
    """Start a service in a folder; end all of it on exit. Raises NotInTime if it does not come up."""
    async with AsyncExitStack() as stack:
        system = System(folder, nodes, machine)
        system.backends, system.misbehaves = EVERY, True
        await system.start(stack)
        yield system


async def ready(url: str) -> None:
    """Wait until an API says that it is ready. Raises NotInTime."""
    await until_ok(f"{url}/health/ready")


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CLIENT_SECONDS))


def _cluster_names(nodes: int) -> tuple[str, ...]:
    return tuple(f"{name}-cluster" for name in nats_names(nodes))


def _free_ports() -> Iterator[int]:
    """Yield free ports.

    They are below the kernel's range for outgoing connections: a process that is down must find its own port free.
    """
    taken: set[int] = set()
    while True:
        port = random.randrange(*PORTS)
        if port in taken:
            continue
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        taken.add(port)
        yield port
