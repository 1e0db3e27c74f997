"""Outages of NATS, seen by its connections."""

from __future__ import annotations

from taskstream.streams.client.connection import Connection
from testkit.nats import NatsServer

from .waiting import wait_until


async def end(nats: NatsServer, *connections: Connection, gently: bool = False) -> None:
    """End the server as kill -9 does, or `gently`; return once the connections have noticed."""
    if gently:
        nats.stop()
    else:
        nats.kill()
    await wait_until(lambda: not any(connection.is_connected for connection in connections), "all to be disconnected")


async def begin(nats: NatsServer, *connections: Connection) -> None:
    """Start the server again; return once the connections are back."""
    nats.start()
    await wait_until(lambda: all(connection.is_connected for connection in connections), "all to be connected")


async def limit_store(nats: NatsServer, megabytes: int, *connections: Connection) -> None:
    """Restart the server with a limit to its store."""
    nats.config = nats.config.replace("max_file_store: -1", f"max_file_store: {megabytes}MB")
    await restart(nats, *connections, gently=True)


async def restart(nats: NatsServer, *connections: Connection, gently: bool = False) -> None:
    """Do `end`, then `begin`."""
    await end(nats, *connections, gently=gently)
    await begin(nats, *connections)
