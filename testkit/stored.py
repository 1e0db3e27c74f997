"""What the object store of results holds, in bytes and by name."""

from __future__ import annotations

from taskstream.container import Container
from taskstream.streams.client.connection import Connection
from taskstream.streams.jetstream.messages import stream_info
from taskstream.streams.objects import Objects
from taskstream.streams.results import STREAM


async def stored_bytes(connection: Connection) -> int:
    """Return the bytes that stored results take."""
    return int((await stream_info(connection, STREAM))["state"]["bytes"])


async def stored_names(objects: Objects) -> set[str]:
    """Return the names of all stored results."""
    return {found.name for found in await objects.descriptions(0, 10_000)}


async def object_bytes(container: Container, name: str) -> bytes:
    """Return an object of the results' bucket."""
    async with container.objects.opened(name, "tests") as parts:
        return b"".join([part async for part in parts])
