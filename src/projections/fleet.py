"""The fleet, in memory: every server and task type, folded from the log, the same in every process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import structlog
from msgspec import Struct

from ..commands import server, task_type
from ..commands.server import Present, ServerState
from ..commands.task_type import TypeState
from ..errors import NotFound, UnreadableEvent
from ..events.codec import server_codec, type_codec
from ..events.ids import token
from ..events.subjects import server_token
from ..streams.buckets import Bucket
from ..streams.connection import Connection, api
from ..streams.log import Position, decode
from ..streams.pulling import follow
from ..streams.topology import SERVERS

log = structlog.get_logger(__name__)

CHECKPOINT = "checkpoint"


class ServerView(Struct, frozen=True, kw_only=True):
    """A server as of `sequence`: the value of `server.<id>` in the registry bucket."""

    sequence: int
    state: ServerState


class TypeView(Struct, frozen=True, kw_only=True):
    """A type as of `sequence`: the value of `type.<name>` in the registry bucket."""

    name: str
    sequence: int
    state: TypeState


_encode = msgspec.json.Encoder().encode
_decode_server = msgspec.json.Decoder(ServerView).decode
_decode_type = msgspec.json.Decoder(TypeView).decode


class Change(NamedTuple):
    """A key of the registry and its value after an event."""

    key: str
    value: bytes


def _about(position: Position) -> tuple[str, str, str]:
    """Return the key of what an event is about, and its parts: `server.gpu-1`, `server`, `gpu-1`."""
    kind, name, _ = position.subject.split(".", 2)
    return f"{kind}.{name}", kind, name


Watcher: TypeAlias = Callable[[Collection[str]], None]
"""Is told of servers, by token, that have changed, or for which something has: where a type changed, all."""


class Fleet:
    """Servers and types as of `sequence` of the SERVERS log."""

    def __init__(self) -> None:
        self.sequence = 0
        self.unreadable: dict[str, UnreadableEvent] = {}
        """What is left out because an event of it does not decode: `server.<id>` or `type.<name>`, and which event."""
        self._servers: dict[str, ServerView] = {}
        self._types: dict[str, TypeView] = {}
        self._pools = set(task_type.UNDEFINED.pools)
        self._watchers: list[Watcher] = []
        self._moved = asyncio.Event()

    def servers(self) -> Iterable[Present]:
        """Return the registered servers."""
        return (view.state for view in self._servers.values() if isinstance(view.state, Present))

    def server(self, server_id: str) -> Present:
        """Return a registered server. Raises NotFound, or UnreadableEvent for one that is left out."""
        found = self.find(server_id)
        if found is None:
            self.must_be_readable(f"server.{server_token(server_id)}")
            raise NotFound("server", server_id)
        return found

    def find(self, server_id: str) -> Present | None:
        """Return a registered server, None if there is none."""
        return self.by_token(server_token(server_id))

    def by_token(self, name: str) -> Present | None:
        """Return the registered server whose token this is, None if there is none."""
        view = self._servers.get(name)
        return view.state if view and isinstance(view.state, Present) else None

    def knows(self, server_id: str) -> bool:
        """Tell whether a server is registered, or once was."""
        name = server_token(server_id)
        return bool(server_id) and (name in self._servers or f"server.{name}" in self.unreadable)

    def must_be_readable(self, key: str) -> None:
        """Raise the UnreadableEvent for which a server or type is left out, if it is."""
        if error := self.unreadable.get(key):
            raise error.with_traceback(None)  # the same error each time: tracebacks would pile up in it

    def types(self) -> Iterable[TypeState]:
        """Return the types that are defined now."""
        return (view.state for view in self._types.values() if view.state.definition is not None)

    def type_state(self, name: str) -> TypeState:
        """Return what is known of a type; an undefined one has no definition. Raises UnreadableEvent."""
        self.must_be_readable(f"type.{token(name)}")
        return self._type_state(name)

    def _type_state(self, name: str) -> TypeState:
        view = self._types.get(token(name))
        return view.state if view else task_type.UNDEFINED

    def pools_of(self, server_settings: Present) -> set[str]:
        """Return the pools in which tasks may wait that this server can run."""
        names = server_settings.settings.types
        if not names:
            return self.pools()
        return {pool for name in names for pool in self._type_state(name).pools}

    def pools(self) -> set[str]:
        """Return every pool in which tasks may wait."""
        return self._pools

    def watch(self, changed: Watcher) -> None:
        """Have `changed` called after every change; it must not raise."""
        self._watchers.append(changed)

    async def reached(self, sequence: int, timeout_seconds: float = 2.0) -> None:
        """Wait until the fleet reflects `sequence`; give up quietly after the timeout."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.sequence < sequence:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            log.warning("fleet.behind", wanted=sequence, reached=self.sequence)

    def apply(self, positions: Iterable[Position]) -> list[Change]:
        """Fold events, in order; those already reflected change nothing. Raises UnreadableEvent."""
        changes: dict[str, Change] = {}
        servers: set[str] = set()
        try:
            for position in positions:
                key, kind, name = _about(position)
                fold = self._fold_server if kind == "server" else self._fold_type
                if key not in self.unreadable and (change := fold(name, position)):
                    changes[change.key] = change
                    servers.update([name] if kind == "server" else self._servers)
                self.sequence = max(self.sequence, position.sequence)
        finally:
            if changes:
                self._tell(servers)
            self._moved.set()
        return list(changes.values())

    def reflect(self, positions: Sequence[Position]) -> None:
        """Fold events as `apply` does, but leave out the servers and types of which one does not decode.

        What became of such a one is not known here: it is better unknown than shown, or given work, as it was.
        """
        try:
            self.apply(positions)
        except UnreadableEvent:
            for position in positions:
                try:
                    self.apply([position])
                except UnreadableEvent as error:
                    self._leave_out(position, error)

    def _leave_out(self, position: Position, error: UnreadableEvent) -> None:
        key, kind, name = _about(position)
        log.error("fleet.unreadable", left_out=key, reason=str(error), action="run the version that wrote it")
        self.unreadable[key] = error
        (self._servers if kind == "server" else self._types).pop(name, None)
        self.sequence = max(self.sequence, position.sequence)
        self._tell([name] if kind == "server" else self._servers)
        self._moved.set()

    def _tell(self, servers: Collection[str]) -> None:
        for changed in self._watchers:
            changed(servers)

    def _fold_server(self, name: str, position: Position) -> Change | None:
        view = self._servers.get(name)
        if view and view.sequence >= position.sequence:
            return None
        recorded = decode(server_codec, position).recorded
        state = server.evolve(view.state if view else server.ABSENT, recorded)
        self._servers[name] = view = ServerView(sequence=position.sequence, state=state)
        return Change(f"server.{name}", _encode(view))

    def _fold_type(self, name: str, position: Position) -> Change | None:
        view = self._types.get(name)
        if view and view.sequence >= position.sequence:
            return None
        recorded = decode(type_codec, position).recorded
        state = task_type.evolve(view.state if view else task_type.UNDEFINED, recorded)
        self._types[name] = view = TypeView(name=recorded.event.name, sequence=position.sequence, state=state)
        self._pools.update(state.pools)
        return Change(f"type.{name}", _encode(view))

    async def restore(self, bucket: Bucket) -> None:
        """Start from the registry bucket instead of the first event of the log."""
        for entry in await bucket.scan():
            kind, _, name = entry.key.partition(".")
            if kind == "server":
                self._servers[name] = _decode_server(entry.value)
            elif kind == "type":
                self._types[name] = view = _decode_type(entry.value)
                self._pools.update(view.state.pools)
            elif kind == CHECKPOINT:
                self.sequence = int(entry.value)

    async def follow(self, connection: Connection, caught_up: asyncio.Event) -> None:
        """Keep up with the log, for ever; `caught_up` is set once all that was there is reflected."""
        async for positions in follow(connection, SERVERS, ["server.>", "type.>"], self.sequence):
            self.reflect(positions)
            if not positions:
                caught_up.set()

    async def catch_up(self, connection: Connection) -> None:
        """Wait until the fleet reflects all that the log holds now."""
        info = await api(connection, f"STREAM.INFO.{SERVERS}")
        await self.reached(int(info["state"]["last_seq"]))
