"""What the supervisor, the spawner and the children say to each other, and how: frames over socket pairs.

A frame is four bytes of length, big-endian, and a message in MessagePack. Secrets of settings go this way, and so are
in no argument and no environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from ..runtime.siblings import SiblingState
from ..settings import Settings

LENGTH_BYTES = 4
LARGEST = 64 * 1024 * 1024
"""Bytes of a frame: the metrics of all processes with very many servers."""
LINK_AND_LISTENER = 2
"""Descriptors that a frame may carry."""
Role: TypeAlias = Literal["api", "worker"]


class Message(Struct, frozen=True, kw_only=True, tag=True):
    """Anything said."""


class Check(Message, frozen=True, kw_only=True):
    """To the spawner, first: check these settings before anything is begun."""

    settings: Settings
    name: str
    """Of the process that logs what is found."""


class MakeKey(Message, frozen=True, kw_only=True):
    """To the spawner: read the key file of the data folder, or make it. The supervisor holds the folder's lock."""

    settings: Settings


class Fork(Message, frozen=True, kw_only=True):
    """To the spawner: start a child. The frame carries two descriptors: its link, and the listening socket."""

    name: str
    role: Role
    settings: Settings
    nats_url: str
    is_embedded: bool
    """NATS is ours: what it acknowledges is on disk."""
    restarts: int = 0
    """How often this child was started again."""


class Checked(Message, frozen=True, kw_only=True):
    """From the spawner: the settings as they are to be used."""

    settings: Settings


class Forked(Message, frozen=True, kw_only=True):
    """From the spawner: the child has started."""

    name: str
    pid: int


class Exited(Message, frozen=True, kw_only=True):
    """From the spawner: a child has ended."""

    pid: int
    status: int
    """An exit status, or a negative signal number."""


class GaveUp(Message, frozen=True, kw_only=True):
    """From the spawner or a child: it gives up, for a reason from outside of the program."""

    status: int
    text: str


class ChildReady(Message, frozen=True, kw_only=True):
    """From a child: it works."""


class Reserve(Message, frozen=True, kw_only=True):
    """From a child: so many bytes of the store are kept for accepted work."""

    size_bytes: int


class Halted(Message, frozen=True, kw_only=True):
    """From a child: its services that have stopped for good, each with the reason."""

    services: dict[str, str]


class StopChild(Message, frozen=True, kw_only=True):
    """To a child: finish, and end."""


class States(Message, frozen=True, kw_only=True):
    """To a child: the states of the others."""

    states: dict[str, SiblingState]


class CollectMetrics(Message, frozen=True, kw_only=True):
    """From a child: collect the metrics of the others."""

    number: int


class AskMetrics(Message, frozen=True, kw_only=True):
    """To a child: send your metrics."""

    number: int


class MetricsPage(Message, frozen=True, kw_only=True):
    """From a child: its metrics."""

    number: int
    text: str


class MetricsPages(Message, frozen=True, kw_only=True):
    """To a child: the metrics of the others that have answered."""

    number: int
    texts: list[str]


ToSpawner: TypeAlias = Check | MakeKey | Fork
FromSpawner: TypeAlias = Checked | Forked | Exited | GaveUp
ToChild: TypeAlias = StopChild | States | AskMetrics | MetricsPages
FromChild: TypeAlias = ChildReady | GaveUp | Reserve | Halted | CollectMetrics | MetricsPage


def frame(message: Message) -> bytes:
    """Return a message as it is sent."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES) + body


class Link:
    """One end of a socket pair, for messages in both directions, in an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Link:
        """Return the link over a connected socket, which it closes."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Send a message. Does nothing once the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def sent(self) -> None:
        """Wait until the other end has taken nearly all."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def receive(self) -> bytes | None:
        """Return the body of the next message; None: the other end is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES))
            return await self._reader.readexactly(size) if size <= LARGEST else None
        except (OSError, asyncio.IncompleteReadError):
            return None

    def close(self) -> None:
        self._writer.close()


def receive_blocking(end: socket.socket, descriptors: int) -> tuple[bytes, list[int]] | None:
    """Return the body of the next message and the descriptors that came with it; None: the other end is gone."""
    content = b""
    received: list[int] = []
    wanted = LENGTH_BYTES
    while len(content) < wanted:
        piece, found, _, _ = socket.recv_fds(end, wanted - len(content), descriptors)
        received += found
        if not piece:
            return None
        content += piece
        if wanted == LENGTH_BYTES == len(content):
            wanted += int.from_bytes(content)
    return content[LENGTH_BYTES:], received


async def send_with(end: socket.socket, message: Message, descriptors: Sequence[int]) -> None:
    """Send a message with descriptors over a socket that does not block. Raises OSError if the other end is gone."""
    content = frame(message)
    sent = 0
    while sent < len(content):
        try:
            sent += socket.send_fds(end, [content[sent:]], () if sent else descriptors)
        except BlockingIOError:
            await asyncio.sleep(0.01)
