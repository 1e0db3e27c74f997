"""Deciders of a server.

A server has three independent conditions: online or offline (health checks), in maintenance or not (an admin), and its
circuit (results of attempts). It gets tasks while it is online, not in maintenance, and its circuit is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..errors import NotFound
from ..events import server as events
from ..events.envelope import Recorded
from ..events.server import ServerEvent, ServerRegistered

LONGEST_COOLDOWN = timedelta(minutes=5)


class CircuitIsClosed(Struct, frozen=True, tag="closed"):
    """Attempts are sent."""


class CircuitIsOpen(Struct, frozen=True, kw_only=True, tag="open"):
    """Nothing is sent before `until`, except a trial of another owner than the one whose tasks failed."""

    until: datetime
    failures: int
    reason: str = ""
    """Why it opened."""
    owner: str = ""
    """Token of the only owner whose tasks failed. Empty: there are several, or no task can be the cause."""


class CircuitIsHalfOpen(Struct, frozen=True, kw_only=True, tag="half-open"):
    """One attempt probes the server."""

    failures: int
    reason: str = ""
    """Why it opened."""


Circuit: TypeAlias = CircuitIsClosed | CircuitIsOpen | CircuitIsHalfOpen


class Absent(Struct, frozen=True, tag="absent"):
    """Never registered."""


class Removed(Struct, frozen=True, kw_only=True, tag="removed"):
    server_id: str
    removed_at: datetime
    reason: str


class Present(Struct, frozen=True, kw_only=True, tag="present"):
    """Registered."""

    settings: ServerRegistered
    registered_at: datetime
    online: bool = False
    changed_at: datetime
    """UTC. Since when it is online or offline."""
    status_reason: str = ""
    maintenance: bool = False
    maintenance_reason: str = ""
    maintenance_since: datetime | None = None
    """UTC. None: not in maintenance."""
    circuit: Circuit = CircuitIsClosed()

    @property
    def server_id(self) -> str:
        return self.settings.server_id


ServerState: TypeAlias = Absent | Removed | Present

ABSENT = Absent()


class RegisterServer(Struct, frozen=True, kw_only=True):
    settings: ServerRegistered


class MarkOnline(Struct, frozen=True, kw_only=True):
    reason: str


class MarkOffline(Struct, frozen=True, kw_only=True):
    reason: str


class SetMaintenance(Struct, frozen=True, kw_only=True):
    maintenance: bool
    reason: str = ""


class OpenCircuit(Struct, frozen=True, kw_only=True):
    reason: str
    cooldown: timedelta
    """For the first opening; it doubles while trials fail, up to LONGEST_COOLDOWN."""
    owner: str = ""
    """Token of the only owner whose tasks failed. Empty: there are several, or no task can be the cause."""


class TryCircuit(Struct, frozen=True):
    """Allow one attempt through an open circuit after its cool-down."""


class CloseCircuit(Struct, frozen=True, kw_only=True):
    reason: str


class RemoveServer(Struct, frozen=True, kw_only=True):
    reason: str


ServerCommand: TypeAlias = (
    RegisterServer | MarkOnline | MarkOffline | SetMaintenance | OpenCircuit | TryCircuit | CloseCircuit | RemoveServer
)


def decide(command: ServerCommand, state: ServerState, now: datetime) -> Sequence[ServerEvent]:
    """Return the events of a command; none if it is done already.

    Raises NotFound for a server that is not registered.
    """
    if isinstance(command, RegisterServer):
        return register(command, state)
    if not isinstance(state, Present):
        raise NotFound("server", state.server_id if isinstance(state, Removed) else "")
    server_id = state.server_id
    match command:
        case MarkOnline():
            return [] if state.online else [events.ServerWentOnline(server_id=server_id, reason=command.reason)]
        case MarkOffline():
            return [events.ServerWentOffline(server_id=server_id, reason=command.reason)] if state.online else []
        case SetMaintenance():
            return set_maintenance(command, state)
        case OpenCircuit():
            return open_circuit(command, state, now)
        case TryCircuit():
            if isinstance(state.circuit, CircuitIsOpen) and state.circuit.until <= now:
                return [events.CircuitHalfOpened(server_id=server_id)]
            return []
        case CloseCircuit():
            if isinstance(state.circuit, CircuitIsClosed):
                return []
            return [events.CircuitClosed(server_id=server_id, reason=command.reason)]
        case RemoveServer():
            return [events.ServerRemoved(server_id=server_id, reason=command.reason)]
        case _:
            assert_never(command)


def register(command: RegisterServer, state: ServerState) -> Sequence[ServerEvent]:
    if isinstance(state, Present) and state.settings == command.settings:
        return []
    return [command.settings]


def set_maintenance(command: SetMaintenance, state: Present) -> Sequence[ServerEvent]:
    if command.maintenance == state.maintenance:
        return []
    event = events.MaintenanceStarted if command.maintenance else events.MaintenanceEnded
    return [event(server_id=state.server_id, reason=command.reason)]


def open_circuit(command: OpenCircuit, state: Present, now: datetime) -> Sequence[ServerEvent]:
    """Open a circuit; one that is open on account of one owner's tasks stays open for all if another's fail too."""
    match state.circuit:
        case CircuitIsOpen(owner=owner) as circuit:
            if owner in ("", command.owner):
                return []
            return [
                events.CircuitOpened(
                    server_id=state.server_id, reason=command.reason, until=circuit.until, failures=circuit.failures
                )
            ]
        case CircuitIsHalfOpen(failures=failures):
            failures += 1
        case CircuitIsClosed():
            failures = 1
        case _:
            assert_never(state.circuit)
    factor: int = 2 ** min(failures - 1, 16)
    return [
        events.CircuitOpened(
            server_id=state.server_id,
            reason=command.reason,
            until=now + min(command.cooldown * factor, LONGEST_COOLDOWN),
            failures=failures,
            owner=command.owner,
        )
    ]


def evolve(state: ServerState, recorded: Recorded[ServerEvent]) -> ServerState:
    """Return the state after one more event."""
    event = recorded.event
    if isinstance(event, ServerRegistered):
        fresh = Present(
            settings=event, registered_at=recorded.at, changed_at=recorded.at, status_reason="not checked yet"
        )
        if not isinstance(state, Present):
            return fresh
        if _same_place(state.settings, event):
            return replace(state, settings=event, registered_at=recorded.at)
        return replace(
            fresh,
            maintenance=state.maintenance,
            maintenance_reason=state.maintenance_reason,
            maintenance_since=state.maintenance_since,
        )
    if not isinstance(state, Present):
        return state
    match event:
        case events.ServerWentOnline() | events.ServerWentOffline():
            online = isinstance(event, events.ServerWentOnline)
            return replace(state, online=online, changed_at=recorded.at, status_reason=event.reason)
        case events.MaintenanceStarted():
            return replace(state, maintenance=True, maintenance_reason=event.reason, maintenance_since=recorded.at)
        case events.MaintenanceEnded():
            return replace(state, maintenance=False, maintenance_reason="", maintenance_since=None)
        case events.CircuitOpened():
            circuit = CircuitIsOpen(until=event.until, failures=event.failures, reason=event.reason, owner=event.owner)
            return replace(state, circuit=circuit)
        case events.CircuitHalfOpened():
            if isinstance(state.circuit, CircuitIsClosed):
                return replace(state, circuit=CircuitIsHalfOpen(failures=0))
            known = state.circuit
            return replace(state, circuit=CircuitIsHalfOpen(failures=known.failures, reason=known.reason))
        case events.CircuitClosed():
            return replace(state, circuit=CircuitIsClosed())
        case events.ServerRemoved():
            return Removed(server_id=event.server_id, removed_at=recorded.at, reason=event.reason)
        case _:
            assert_never(event)


def _same_place(before: ServerRegistered, after: ServerRegistered) -> bool:
    """Return True if what is known of a server's health still applies: its URL is the same."""
    return (before.predict_url, before.health_url) == (after.predict_url, after.health_url)
