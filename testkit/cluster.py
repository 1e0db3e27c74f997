"""Three nats-servers as one JetStream, for one test."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from .nats import NatsServer


class NatsCluster:
    """Servers `n1`, `n2`, `n3`, each with tags of its own."""

    def __init__(self, folder: Path, tags: Sequence[Sequence[str]] = ((), (), ())) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in tags]
        ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
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
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
