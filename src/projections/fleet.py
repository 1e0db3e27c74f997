"""The fleet, in memory: every server, task type and pool, and owners' limits, folded from the log in every process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
import structlog
from msgspec import Struct

from ..commands import owner, pool, server, task_type
from ..commands.owner import UNLIMITED, Allowance, OwnerState, allowance
from ..commands.pool import PoolState
from ..commands.server import Present, ServerState
from ..commands.task_type import TypeState
from ..errors import NotFound, UnreadableEvent
from ..events.codec import Codec, owner_codec, pool_codec, server_codec, type_codec
from ..events.envelope import Event, Recorded
from ..events.ids import token
from ..events.limits import NO_LIMITS, Limits
from ..events.owner import OwnerLimited
from ..events.server import ServerEvent
from ..events.subjects import FLEET, pool_root, server_root, server_token, type_root
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.consumers import follow
from ..streams.jetstream.messages import Position
from ..streams.log import decode
from ..streams.topology.definitions import SERVERS

S = TypeVar("S")
E = TypeVar("E", bound=Event)

_encode = msgspec.json.Encoder().encode
log = structlog.get_logger(__name__)

CHECKPOINT = "checkpoint"


class View(Struct, Generic[S], frozen=True, kw_only=True, omit_defaults=True):
    """A thing as of `sequence`: the value of `<kind>.<token>` in the registry bucket."""

    name: str = ""
    """Of a type or a pool; the states of servers and owners have it themselves."""
    sequence: int
    state: S


class Change(NamedTuple):
    """A key of the registry and its value after an event."""

    key: str
    value: bytes


def no_name(_event: Event) -> str:
    return ""


class Views(dict[str, View[S]], Generic[S, E]):
    """All views of one kind, by token."""

    def __init__(
        self,
        kind: str,
        codec: Codec[E],
        unknown: S,
        evolve: Callable[[S, Recorded[E]], S],
        state_type: Any,
        name_of: Callable[[E], str] = no_name,
    ) -> None:
        """`unknown`: the state of what the log has nothing of; `state_type`: what states decode as."""
        super().__init__()
        self.kind = kind
        self._codec = codec
        self._unknown = unknown
        self._evolve = evolve
        self._name_of = name_of
        self._decoder = msgspec.json.Decoder(View[state_type])

    def state(self, token: str) -> S:
        """Return the state of a thing, also of one there is not."""
        view = self.get(token)
        return view.state if view is not None else self._unknown

    def fold(self, token: str, position: Position) -> Change | None:
        """Fold an event; None for one that is reflected already. Raises UnreadableEvent."""
        view = self.get(token)
        if view is not None and view.sequence >= position.sequence:
            return None
        recorded = decode(self._codec, position).recorded
        state = self._evolve(self.state(token), recorded)
        self[token] = view = View(name=self._name_of(recorded.event), sequence=position.sequence, state=state)
        return Change(f"{self.kind}.{token}", _encode(view))

    def restore(self, token: str, value: bytes) -> None:
        """Take a view over from the registry bucket."""
        self[token] = self._decoder.decode(value)


def _about(position: Position) -> tuple[str, str, str]:
    """Return the key of what an event is about, and its parts: `server.gpu-1`, `server`, `gpu-1`."""
    kind, name, _ = position.subject.split(".", 2)
    return f"{kind}.{name}", kind, name


Watcher: TypeAlias = Callable[[Collection[str]], None]
"""Is told of servers, by token, that have changed, or for which something has: where a type changed, all; where a pool
or an owner changed, none.
"""


class Fleet:
    """Servers, types, pools and owners' limits as of `sequence` of the SERVERS log."""

    def __init__(self, service: Allowance = UNLIMITED) -> None:
        """`service`: what owners may have who have no limits of their own."""
        self.service = service
        self.sequence = 0
        self.unreadable: dict[str, UnreadableEvent] = {}
        """What is left out because an event of it does not decode: `server.<id>` or `type.<name>`, and which event.
        Tasks of such a pool or type wait.
        """
        self._servers: Views[ServerState, ServerEvent] = Views(
            "server", server_codec, server.ABSENT, server.evolve, ServerState
        )
        self._types = Views(
            "type", type_codec, task_type.UNDEFINED, task_type.evolve, TypeState, lambda event: event.name
        )
        self._pool_views = Views(
            "pool", pool_codec, pool.NEVER_PAUSED, pool.evolve, PoolState, lambda event: event.name
        )
        self._owners = Views("owner", owner_codec, owner.NEVER_LIMITED, owner.evolve, OwnerState)
        self._views: dict[str, Views[Any, Any]] = {
            views.kind: views for views in (self._servers, self._types, self._pool_views, self._owners)
        }
        self._pools = set(task_type.UNDEFINED.pools)
        self._types_of: dict[str, set[str]] = {}
        """By pool, the types (by token) whose tasks may wait in it; of the default pool, any type's may."""
        self._watchers: list[Watcher] = []
        self._limit_watchers: list[Callable[[], None]] = []
        self._moved = asyncio.Event()

    def servers(self) -> Iterable[Present]:
        """Return the registered servers."""
        return (view.state for view in self._servers.values() if isinstance(view.state, Present))

    def server(self, server_id: str) -> Present:
        """Return a registered server. Raises NotFound, or UnreadableEvent for one that is left out."""
        found = self.find(server_id)
        if found is None:
            self.must_be_readable(server_root(server_id))
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
        self.must_be_readable(type_root(name))
        return self._type_state(name)

    def _type_state(self, name: str) -> TypeState:
        return self._types.state(token(name))

    def pools_of(self, server_settings: Present) -> set[str]:
        """Return the pools in which tasks may wait that this server can run."""
        names = server_settings.settings.types
        if not names:
            return self.pools()
        return {pool for name in names for pool in self._type_state(name).pools}

    def pools(self) -> set[str]:
        """Return every pool in which tasks may wait."""
        return self._pools

    def pool_state(self, name: str) -> PoolState:
        """Return what is known of a pool. Raises UnreadableEvent."""
        self.must_be_readable(pool_root(name))
        return self._pool_views.state(token(name))

    def types_of(self, name: str) -> list[str]:
        """Return the names of the types whose tasks may wait in a pool, but for the default one's: there all may."""
        return sorted(view.name for kind in self._types_of.get(name, ()) if (view := self._types.get(kind)))

    def pool_waits(self, name: str) -> bool:
        """Tell whether no task of a pool is to be handed out: it is paused, or all its types are."""
        key = token(name)
        if f"pool.{key}" in self.unreadable:
            return True
        view = self._pool_views.get(key)
        if view is not None and view.state.pause is not None:
            return True
        types = self._types_of.get(name, set())
        return bool(types) and name != task_type.DEFAULT_POOL and all(map(self._type_waits, types))

    def type_waits(self, name: str) -> bool:
        """Tell whether no task of a type is to be handed out."""
        return self._type_waits(token(name))

    def _type_waits(self, key: str) -> bool:
        view = self._types.get(key)
        return view.state.pause is not None if view else f"type.{key}" in self.unreadable

    def allowance(self, name: str) -> Allowance:
        """Return what the owner of a token may have, the service's where they have nothing of their own."""
        view = self._owners.get(name)
        return allowance(view.state, self.service) if view else self.service

    def owner_limits(self, name: str) -> Limits:
        """Return the limits that the tasks of the owner of a token keep to."""
        return self.allowance(name).limits

    def limited_owners(self) -> Iterable[OwnerLimited]:
        """Return the limits of all owners who have some of their own."""
        return (view.state.own for view in self._owners.values() if view.state.own is not None)

    def type_limits(self, name: str) -> Limits:
        """Return the limits that all tasks of a type together keep to."""
        definition = self._type_state(name).definition
        return (definition.limits if definition else None) or NO_LIMITS

    def watch_limits(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after every change of an owner, a type or a pool; it must not raise."""
        self._limit_watchers.append(changed)

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
                views = self._views.get(kind)
                if views is not None and key not in self.unreadable and (change := views.fold(name, position)):
                    changes[change.key] = change
                    if kind == "type":
                        self._know_pools_of(name)
                    servers.update(self._concerned(kind, name))
                self.sequence = max(self.sequence, position.sequence)
        finally:
            if changes:
                self._tell(servers)
                if not all(key.startswith("server.") for key in changes):
                    self._tell_of_limits()
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
        self._views[kind].pop(name, None)
        self.sequence = max(self.sequence, position.sequence)
        self._tell(self._concerned(kind, name))
        if kind != "server":
            self._tell_of_limits()
        self._moved.set()

    def _concerned(self, kind: str, name: str) -> Collection[str]:
        """Return the servers, by token, for which an event of a kind changes something."""
        match kind:
            case "server":
                return [name]
            case "type":
                return self._servers
            case _:
                return []

    def _tell(self, servers: Collection[str]) -> None:
        for changed in self._watchers:
            changed(servers)

    def _tell_of_limits(self) -> None:
        for changed in self._limit_watchers:
            changed()

    def _know_pools_of(self, name: str) -> None:
        pools = self._types[name].state.pools
        self._pools.update(pools)
        for each in pools:
            self._types_of.setdefault(each, set()).add(name)

    async def restore(self, bucket: Bucket) -> None:
        """Start from the registry bucket instead of the first event of the log."""
        for entry in await bucket.scan():
            kind, _, name = entry.key.partition(".")
            if kind in self._views:
                self._views[kind].restore(name, entry.value)
                if kind == "type":
                    self._know_pools_of(name)
            elif kind == CHECKPOINT:
                self.sequence = int(entry.value)

    async def follow(self, connection: Connection, caught_up: asyncio.Event) -> None:
        """Keep up with the log, for ever; `caught_up` is set once all that was there is reflected."""
        async for positions in follow(connection, SERVERS, FLEET, self.sequence):
            self.reflect(positions)
            if not positions:
                caught_up.set()

    async def catch_up(self, connection: Connection) -> None:
        """Wait until the fleet reflects all that the log holds now."""
        info = await api(connection, f"STREAM.INFO.{SERVERS}")
        await self.reached(int(info["state"]["last_seq"]))
