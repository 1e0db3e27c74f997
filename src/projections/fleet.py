"""Servers, task types, pools and owners' limits: in the memory of each process, and in the `registry` bucket."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec
import structlog
from msgspec import Struct

from ..commands import owner, pool, server, task_type
from ..commands.owner import UNLIMITED, Allowance, OwnerState, allowance
from ..commands.pool import PoolState
from ..commands.server import Present, Removed, ServerState
from ..commands.task_type import TypeState
from ..errors import NotFound, UnreadableEvent
from ..events.codec import Codec, owner_codec, pool_codec, server_codec, type_codec
from ..events.envelope import Event, Recorded
from ..events.ids import token
from ..events.limits import NO_LIMITS, Limits
from ..events.owner import OwnerLimited
from ..events.server import ServerEvent
from ..events.subjects import FLEET, pool_root, server_root, server_token, type_root
from ..events.task_type import TypeDefined
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.consumers import follow
from ..streams.jetstream.messages import Position
from ..streams.log import decode
from ..streams.topology.definitions import SERVERS
from .checkpoint import CHECKPOINT, CheckpointedBucket

S = TypeVar("S")
E = TypeVar("E", bound=Event)

_encode = msgspec.json.Encoder().encode
log = structlog.get_logger(__name__)


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


class Views(dict[str, View[S]], Generic[S, E]):
    """All views of one kind, by token."""

    def __init__(
        self,
        kind: str,
        codec: Codec[E],
        unknown: S,
        evolve: Callable[[S, Recorded[E]], S],
        state_type: Any,
    ) -> None:
        """`unknown`: the state before the first event. `state_type`: the type that states decode as."""
        super().__init__()
        self.kind = kind
        self._codec = codec
        self._unknown = unknown
        self._evolve = evolve
        self._decoder = msgspec.json.Decoder(View[state_type])

    def state(self, token: str) -> S:
        """Return the state of a thing; the unknown state for one that does not exist."""
        view = self.get(token)
        return view.state if view is not None else self._unknown

    def fold(self, token: str, position: Position) -> Change | None:
        """Fold an event; return None if it is reflected already. Raises UnreadableEvent."""
        view = self.get(token)
        if view is not None and view.sequence >= position.sequence:
            return None
        recorded = decode(self._codec, position).recorded
        state = self._evolve(self.state(token), recorded)
        name = getattr(recorded.event, "name", "") if self.kind in ("type", "pool") else ""
        self[token] = view = View(name=name, sequence=position.sequence, state=state)
        return Change(f"{self.kind}.{token}", _encode(view))

    def restore(self, token: str, value: bytes) -> None:
        """Set a view to its value in the registry bucket."""
        self[token] = self._decoder.decode(value)


def _about(position: Position) -> tuple[str, str, str]:
    """Return the key of the thing that an event changes, and its parts: `server.gpu-1`, `server`, `gpu-1`."""
    kind, name, _ = position.subject.split(".", 2)
    return f"{kind}.{name}", kind, name


Watcher: TypeAlias = Callable[[Collection[str]], None]
"""Called with the tokens of the servers that a change concerns: all for a type, none for a pool or an owner."""


class Fleet:
    """Servers, types, pools and owners' limits as of `sequence` of the SERVERS log."""

    def __init__(self, service: Allowance = UNLIMITED) -> None:
        """`service`: limits of owners who have none of their own."""
        self.service = service
        self.sequence = 0
        self.unreadable: dict[str, UnreadableEvent] = {}
        """Servers, types and pools that are left out because an event does not decode, by key: `server.<id>`,
        `type.<name>`. Tasks of such a pool or type wait."""
        self._servers: Views[ServerState, ServerEvent] = Views(
            "server", server_codec, server.ABSENT, server.evolve, ServerState
        )
        self._types = Views("type", type_codec, task_type.UNDEFINED, task_type.evolve, TypeState)
        self._pool_views = Views("pool", pool_codec, pool.NEVER_PAUSED, pool.evolve, PoolState)
        self._owners = Views("owner", owner_codec, owner.NEVER_LIMITED, owner.evolve, OwnerState)
        self._views: dict[str, Views[Any, Any]] = {
            views.kind: views for views in (self._servers, self._types, self._pool_views, self._owners)
        }
        self._pools = set(task_type.UNDEFINED.pools)
        self._by_model: Counter[str] = Counter()
        """By type, how many of its servers are chosen by model; empty: of those that serve all types."""
        self._types_of: dict[str, set[str]] = {}
        """By pool, the types (by token) whose tasks may wait in it; of the default pool, any type's may."""
        self._offered: dict[str, str] | None = None
        """Names of types, by the model that façades offer each as; None: to be gathered again."""
        self._watchers: list[Watcher] = []
        self._limit_watchers: list[Callable[[], None]] = []
        self._moved = asyncio.Event()

    def servers(self) -> Iterable[Present]:
        """Return the registered servers."""
        return (view.state for view in self._servers.values() if isinstance(view.state, Present))

    def removed(self) -> Iterable[Removed]:
        """Return the removed servers."""
        return (view.state for view in self._servers.values() if isinstance(view.state, Removed))

    def removed_by_token(self, name: str) -> Removed | None:
        """Return the removed server whose token this is, None if there is none."""
        view = self._servers.get(name)
        return view.state if view and isinstance(view.state, Removed) else None

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
        """Return True if a server is registered, or once was."""
        name = server_token(server_id)
        return bool(server_id) and (name in self._servers or f"server.{name}" in self.unreadable)

    def must_be_readable(self, key: str) -> None:
        """Raise the UnreadableEvent of a server or type that is left out; return for any other."""
        if error := self.unreadable.get(key):
            raise error.with_traceback(None)  # the same error each time: tracebacks would pile up in it

    def types(self) -> Iterable[TypeState]:
        """Return the types that are defined now."""
        return (view.state for view in self._types.values() if view.state.definition is not None)

    def type_state(self, name: str) -> TypeState:
        """Return the state of a type; an undefined one has no definition. Raises UnreadableEvent."""
        self.must_be_readable(type_root(name))
        return self._type_state(name)

    def _type_state(self, name: str) -> TypeState:
        return self._types.state(token(name))

    def definition(self, name: str) -> TypeDefined | None:
        """Return the settings of a type; None for an undefined one, and for one that is left out.

        Never raises: an attempt that has begun must end, whatever a newer version has written since.
        """
        return self._type_state(name).definition

    def type_of_model(self, model: str) -> str | None:
        """Return the name of the type that façades offer as a model, None if there is none.

        If two types have the model, because both were set at the same moment, it is the first by name.
        """
        if self._offered is None:
            named = sorted(
                ((found.model, found.name) for state in self.types() if (found := state.definition) and found.model),
                reverse=True,
            )
            self._offered = dict(named)
        return self._offered.get(model)

    def chooses_by_model(self, task_type: str) -> bool:
        """Return True if any server for tasks of a type is chosen by model."""
        counts = self._by_model
        return bool(counts and (counts.get(task_type) or counts.get("")))

    def _know_choice_of(self, name: str, before: ServerState | None) -> None:
        """Count a server that is chosen by model, or is not any more. `before`: its state so far."""
        for state, count in ((before, -1), (self._servers.state(name) if name in self._servers else None, 1)):
            if isinstance(state, Present) and state.settings.is_chosen_by_model:
                for task_type in state.settings.types or ("",):
                    self._by_model[task_type] += count

    def pools_of(self, server_settings: Present) -> set[str]:
        """Return the pools that may hold tasks for this server."""
        names = server_settings.settings.types
        return self.pools_of_types(names) if names else self.pools()

    def pools_of_types(self, names: Iterable[str]) -> set[str]:
        """Return the pools that may hold tasks of some types."""
        return {pool for name in names for pool in self._type_state(name).pools}

    def pools(self) -> set[str]:
        """Return every pool in which tasks may wait."""
        return self._pools

    def pool_state(self, name: str) -> PoolState:
        """Return the state of a pool. Raises UnreadableEvent."""
        self.must_be_readable(pool_root(name))
        return self._pool_views.state(token(name))

    def is_paused(self, name: str) -> bool:
        """Return True if a pool is paused, or this process cannot read whether it is."""
        key = token(name)
        view = self._pool_views.get(key)
        return f"pool.{key}" in self.unreadable or (view is not None and view.state.pause is not None)

    def types_of(self, name: str) -> list[str]:
        """Return the names of the types whose tasks may wait in a pool, without undefined ones."""
        return sorted(view.name for kind in self._types_of.get(name, ()) if (view := self._types.get(kind)))

    def pool_waits(self, name: str) -> bool:
        """Return True if no task of a pool may start: it is paused, or all its types are."""
        if self.is_paused(name):
            return True
        types = self._types_of.get(name, set())
        return bool(types) and name != task_type.DEFAULT_POOL and all(map(self._type_waits, types))

    def type_waits(self, name: str) -> bool:
        """Return True if no task of a type may start."""
        return self._type_waits(token(name))

    def _type_waits(self, key: str) -> bool:
        view = self._types.get(key)
        return view.state.pause is not None if view else f"type.{key}" in self.unreadable

    def allowance(self, name: str) -> Allowance:
        """Return the allowance of an owner token: its own, else the service's."""
        view = self._owners.get(name)
        return allowance(view.state, self.service) if view else self.service

    def owner_limits(self, name: str) -> Limits:
        """Return the limits of the tasks of an owner token."""
        return self.allowance(name).limits

    def limited_owners(self) -> Iterable[OwnerLimited]:
        """Return the limits of every owner who has their own."""
        return (view.state.own for view in self._owners.values() if view.state.own is not None)

    def type_limits(self, name: str) -> Limits:
        """Return the limits of all tasks of a type together."""
        definition = self.definition(name)
        return (definition.limits if definition else None) or NO_LIMITS

    def watch_limits(self, changed: Callable[[], None]) -> None:
        """Call `changed` after every change of an owner, a type or a pool. It must not raise."""
        self._limit_watchers.append(changed)

    def watch(self, changed: Watcher) -> None:
        """Call `changed` after every change. It must not raise."""
        self._watchers.append(changed)

    async def reached(self, sequence: int, timeout_seconds: float = 2.0) -> None:
        """Wait until the fleet reflects `sequence`. After the timeout log a warning and return."""
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
                before = self._servers.state(name) if kind == "server" else None
                if views is not None and key not in self.unreadable and (change := views.fold(name, position)):
                    changes[change.key] = change
                    if kind == "server":
                        self._know_choice_of(name, before)
                    if kind == "type":
                        self._know_pools_of(name)
                        self._offered = None
                    servers.update(self._concerned(kind, name))
                self.sequence = max(self.sequence, position.sequence)
        finally:
            if changes:
                self._publish(servers)
                if not all(key.startswith("server.") for key in changes):
                    self._publish_limits()
            self._moved.set()
        return list(changes.values())

    def reflect(self, positions: Sequence[Position]) -> None:
        """Fold events as `apply` does, but leave out a server or type with an event that does not decode.

        Its present state is unknown. An outdated state must not be shown, and the server must not get tasks.
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
        log.error("fleet.unreadable", left_out=key, reason=str(error), action="run the version that wrote the event")
        self.unreadable[key] = error
        before = self._servers.state(name) if kind == "server" else None
        self._views[kind].pop(name, None)
        self._offered = None
        if kind == "server":
            self._know_choice_of(name, before)
        self.sequence = max(self.sequence, position.sequence)
        self._publish(self._concerned(kind, name))
        if kind != "server":
            self._publish_limits()
        self._moved.set()

    def _concerned(self, kind: str, name: str) -> Collection[str]:
        """Return the tokens of the servers that an event of a kind concerns."""
        match kind:
            case "server":
                return [name]
            case "type":
                return self._servers
            case _:
                return []

    def _publish(self, servers: Collection[str]) -> None:
        for changed in self._watchers:
            changed(servers)

    def _publish_limits(self) -> None:
        for changed in self._limit_watchers:
            changed()

    def _know_pools_of(self, name: str) -> None:
        pools = self._types[name].state.pools
        self._pools.update(pools)
        for each in pools:
            self._types_of.setdefault(each, set()).add(name)

    async def restore(self, bucket: Bucket, end: int | None = None) -> None:
        """Load the registry bucket, to start from it instead of the first event of the log.

        `end`: of the log. A bucket that is ahead of it reflects events that NATS has lost, so it is not loaded.
        """
        entries = await bucket.scan()
        if end is not None and any(entry.key == CHECKPOINT and int(entry.value) > end for entry in entries):
            return
        for entry in entries:
            kind, _, name = entry.key.partition(".")
            if kind in self._views:
                self._views[kind].restore(name, entry.value)
                if kind == "server":
                    self._know_choice_of(name, None)
                if kind == "type":
                    self._know_pools_of(name)
                    self._offered = None
            elif kind == CHECKPOINT:
                self.sequence = int(entry.value)

    async def follow(self, connection: Connection, caught_up: asyncio.Event) -> None:
        """Follow the log without end. `caught_up` is set once everything stored so far is reflected."""
        async for positions in follow(connection, SERVERS, FLEET, self.sequence):
            self.reflect(positions)
            if not positions:
                caught_up.set()

    async def catch_up(self, connection: Connection) -> None:
        """Wait until the fleet reflects the present end of the log."""
        info = await api(connection, f"STREAM.INFO.{SERVERS}")
        await self.reached(int(info["state"]["last_seq"]))


class RegistryProjection(CheckpointedBucket):
    """Folds the SERVERS log into the `registry` bucket: every server, type, pool and owner as the log has it."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket)
        self._fleet = Fleet()

    async def resume(self) -> int:
        """Restart from the content of the bucket; return the sequence it reflects."""
        self._fleet = Fleet()
        await self._load_checkpoint()
        await self._fleet.restore(self._bucket)
        return self._fleet.sequence

    async def apply(self, positions: Sequence[Position]) -> int:
        """Fold a batch of events, in order, and write what changed; return how many keys were written.

        Raises UnreadableEvent. Raises Conflict if another process wrote or NATS has lost writes: call `resume` then.
        """
        changes = self._fleet.apply(positions)
        for change in changes:
            await self._bucket.put(change.key, change.value)
        await self._store_checkpoint(self._fleet.sequence)
        return len(changes) + 1
