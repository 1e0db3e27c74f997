"""Deciders of a server.

A server has three independent conditions: online or offline (health checks), in maintenance or not (an admin), and its
circuit (results of attempts). It gets tasks while it is online, not in maintenance, and its circuit is closed.

    ServerRegistered ──► Present ──ServerRemoved──► Removed, kept ──ServerForgotten──► Removed
                            ▲  ╲________________________│__ServerRemoved by an admin______▲
                            │                           │                                 │
                            ╰──ServerRestored: it answers, or an admin────────an admin────╯

A server that is removed for being offline is kept: its registration, its API key, and what an admin decided about it
come back with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, TypeAlias, assert_never

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict, replace

from ..errors import ApiKeyDestroyed, ApiKeyReplaced, NotFound
from ..events import server as events
from ..events.envelope import Actor, Recorded
from ..events.exchange import BareExchange
from ..events.server import DialectDetected, ServerEvent, ServerRegistered

LONGEST_COOLDOWN = timedelta(minutes=5)
PULLERS_ALIVE = "its pullers ask or renew"
"""The reason of the status of a pulled server that is online."""
NOT_CHECKED = "not checked yet"
"""The reason of a server's status until its first check."""
AUTO = "auto"
"""The dialect of a registration that leaves it to detection."""
NOT_DETECTED = "dialect not detected yet"
"""Beginning of the status reason of a server that is reached and whose dialect is not known yet."""
MISCONFIGURED = "misconfigured: "
"""Beginning of the status reason of a server that only an admin can put right. It is not removed for being offline."""
REASONS_AT_ONCE = 3
"""Changes of a status' reason that are recorded at once. Each further one is recorded only if the reason before it has
lasted for a minute, then two, four … up to an hour: a server whose reasons alternate cannot fill the log."""
REASON_PAUSE = timedelta(minutes=1)
LONGEST_REASON_PAUSE = timedelta(hours=1)
_DURATION = re.compile(r"\d[\d.,]*(?= ?(?:ms|s|min)\b)")


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


class DetectedDialect(Struct, frozen=True, kw_only=True):
    """What a server was found to speak, and when."""

    event: DialectDetected
    at: datetime
    """UTC."""


class Absent(Struct, frozen=True, tag="absent"):
    """Never registered."""


class Present(Struct, frozen=True, kw_only=True, tag="present"):
    """Registered."""

    settings: ServerRegistered
    """With the dialect that applies."""
    registered_at: datetime
    online: bool = False
    changed_at: datetime
    """UTC. Since when it is online or offline."""
    status_reason: str = ""
    reason_changed_at: datetime | None = None
    """UTC. Since when it is online or offline for this reason; None: since `changed_at`."""
    reason_changes: int = 0
    """Changes of the reason since `changed_at`."""
    maintenance: bool = False
    maintenance_reason: str = ""
    maintenance_since: datetime | None = None
    """UTC. None: not in maintenance."""
    circuit: Circuit = CircuitIsClosed()
    detected: DetectedDialect | None = None
    """None: its dialect is registered, or not detected yet."""
    found: tuple[str, ...] | None = None
    """Models that it said it serves, sorted; None: it has not said so."""
    found_at: datetime | None = None
    """UTC. When these were found."""
    found_changes: int = 0
    """Recent changes of them."""

    @property
    def registered(self) -> ServerRegistered:
        """Its settings as they were registered."""
        return self.settings if self.detected is None else replace(self.settings, dialect=AUTO, exchange=None)

    @property
    def is_undetected(self) -> bool:
        """True while it is not known what it speaks: it gets no tasks."""
        return self.settings.dialect == AUTO

    @property
    def models(self) -> tuple[str, ...] | None:
        """Return the models it serves, none until it has said any; None: it is not chosen by model."""
        return (self.found or ()) if self.settings.finds_models else self.settings.models

    @property
    def server_id(self) -> str:
        return self.settings.server_id

    @property
    def is_misconfigured(self) -> bool:
        """True if only a check that can read its API key brings it back online, whatever else it sends."""
        return not self.online and self.status_reason.startswith(MISCONFIGURED)

    @property
    def status_since(self) -> datetime:
        """Since when it is online or offline for the present reason. UTC."""
        return self.reason_changed_at or self.changed_at


class Removed(Struct, frozen=True, kw_only=True, tag="removed"):
    server_id: str
    removed_at: datetime
    reason: str
    before: Present | None = None
    """What comes back. None: it was removed before this was kept; its history has it."""
    by: Actor | None = None
    """Who removed it; None: see `before`."""
    is_kept: bool = False
    """Its API key is kept, and it is restored when it answers."""


ServerState: TypeAlias = Absent | Removed | Present

ABSENT = Absent()


class RegisterServer(Struct, frozen=True, kw_only=True):
    settings: ServerRegistered
    keeps_key: bool = False
    """True: the API key named is the present one. Raises ApiKeyReplaced if it is not any more: it may be destroyed."""


class ServerChange(Struct, frozen=True, kw_only=True):
    """The settings of a server to change; the others stay. Names and meanings are those of ServerRegistered."""

    name: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    predict_url: str | UnsetType = UNSET
    health_url: str | UnsetType | None = UNSET
    is_async: bool | UnsetType = UNSET
    callback: bool | UnsetType = UNSET
    types: tuple[str, ...] | UnsetType = UNSET
    max_concurrent: int | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    api_key_id: str | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    overflow: events.Overflow | UnsetType | None = UNSET
    busy_status: tuple[int, ...] | UnsetType | None = UNSET
    auth_header: str | UnsetType = UNSET
    health_auth: bool | UnsetType = UNSET
    health_expect: events.HealthExpectation | UnsetType | None = UNSET
    remove_after: timedelta | UnsetType | None = UNSET
    is_permanent: bool | UnsetType = UNSET
    dialect: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    mode: events.Mode | UnsetType = UNSET
    exchange: BareExchange | UnsetType | None = UNSET
    preset: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType | None = UNSET
    finds_models: bool | UnsetType = UNSET

    def of(self, settings: ServerRegistered) -> ServerRegistered:
        """Return settings with these changes."""
        changed: dict[str, Any] = {name: value for name, value in asdict(self).items() if value is not UNSET}
        return replace(settings, **changed)


class ChangeServer(Struct, frozen=True, kw_only=True):
    change: ServerChange
    keeps_key: bool = False
    """As of RegisterServer."""


class MarkOnline(Struct, frozen=True, kw_only=True):
    reason: str


class MarkOffline(Struct, frozen=True, kw_only=True):
    reason: str


class RecordModels(Struct, frozen=True, kw_only=True):
    """Record the models that a server said it serves."""

    models: tuple[str, ...]


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
    """Remove a server for good. One that was removed for being offline is not kept any more."""

    reason: str


class RemoveOffline(Struct, frozen=True, kw_only=True):
    """Remove a server, and keep what brings it back, if it has been offline since an instant."""

    reason: str
    since: datetime
    """UTC."""


class RestoreServer(Struct, frozen=True, kw_only=True):
    """Restore a removed server."""

    reason: str
    is_kept: bool = False
    """True: only if it is kept, for it has shown a sign of life. False: an admin asks for it."""
    api_key_id: str | None = None
    """Its API key from now on; empty: none. None: the one it had, which must be kept."""
    keeps_key: bool = False
    """As of RegisterServer."""


class RecordDialect(Struct, frozen=True, kw_only=True):
    """Record what a server was found to speak. Nothing changes if its registration names a dialect by now, or another
    address."""

    detected: DialectDetected


class ForgetServer(Struct, frozen=True, kw_only=True):
    """Stop checking a removed server; then its API key may be destroyed."""

    reason: str


ServerCommand: TypeAlias = (
    RegisterServer
    | ChangeServer
    | MarkOnline
    | MarkOffline
    | RecordModels
    | SetMaintenance
    | OpenCircuit
    | TryCircuit
    | CloseCircuit
    | RemoveServer
    | RemoveOffline
    | RestoreServer
    | ForgetServer
    | RecordDialect
)


def decide(command: ServerCommand, state: ServerState, now: datetime) -> Sequence[ServerEvent]:
    """Return the events of a command; none if it is done already.

    Raises NotFound for a server that is not registered, ApiKeyDestroyed if a restored server needs a key again,
    ApiKeyReplaced if the command keeps an API key that is another one by now.
    """
    check_key(command, state)
    if isinstance(command, RegisterServer):
        return register(command, state)
    match state:
        case Absent():
            raise NotFound("server", "")
        case Removed():
            return decide_removed(command, state)
        case Present():
            return decide_present(command, state, now)
        case _:
            assert_never(state)


def check_key(command: ServerCommand, state: ServerState) -> None:
    """Raise ApiKeyReplaced if a command keeps an API key that the server does not have any more."""
    match command:
        case RegisterServer(keeps_key=True, settings=settings):
            kept: str | UnsetType | None = settings.api_key_id
        case ChangeServer(keeps_key=True, change=change):
            kept = change.api_key_id
        case RestoreServer(keeps_key=True, api_key_id=kept):
            pass
        case _:
            return
    settings_now = settings_of(state)
    if settings_now is None or settings_now.api_key_id != kept:
        raise ApiKeyReplaced


def settings_of(state: ServerState) -> ServerRegistered | None:
    """Return the settings of a server that is registered, or was removed and can come back with its API key."""
    match state:
        case Present():
            return state.settings
        case Removed(before=Present() as before, is_kept=True):
            return before.settings
        case _:
            return None


def decide_present(command: ServerCommand, state: Present, now: datetime) -> Sequence[ServerEvent]:
    """Return the events of a command to a registered server."""
    match command:
        case RegisterServer():
            return register(command, state)
        case ChangeServer():
            return register(RegisterServer(settings=command.change.of(state.registered)), state)
        case RecordDialect():
            return record_dialect(command, state)
        case MarkOnline() | MarkOffline():
            return set_status(command, state, now)
        case RecordModels():
            return record_models(command.models, state, now)
        case SetMaintenance():
            return set_maintenance(command, state)
        case OpenCircuit():
            return open_circuit(command, state, now)
        case TryCircuit() | CloseCircuit():
            return recover(command, state, now)
        case RemoveServer():
            return [events.ServerRemoved(server_id=state.server_id, reason=command.reason)]
        case RemoveOffline():
            if state.online or state.changed_at > command.since:
                return []
            return [events.ServerRemoved(server_id=state.server_id, reason=command.reason, is_kept=True)]
        case RestoreServer() | ForgetServer():
            return []
        case _:
            assert_never(command)


def decide_removed(command: ServerCommand, state: Removed) -> Sequence[ServerEvent]:
    """Return the events of a command to a removed server."""
    server_id = state.server_id
    match command:
        case RemoveServer() if state.is_kept:
            return [events.ServerRemoved(server_id=server_id, reason=command.reason)]
        case RestoreServer() if state.before is not None and (state.is_kept or not command.is_kept):
            before = state.before.settings.api_key_id
            if command.api_key_id is None and before and not state.is_kept:
                raise ApiKeyDestroyed(server_id)
            key_id = before if command.api_key_id is None else command.api_key_id
            return [events.ServerRestored(server_id=server_id, reason=command.reason, api_key_id=key_id)]
        case ForgetServer() if state.is_kept:
            return [events.ServerForgotten(server_id=server_id, reason=command.reason)]
        case ForgetServer():
            return []
        case _:
            raise NotFound("server", server_id)


def set_status(command: MarkOnline | MarkOffline, state: Present, now: datetime) -> Sequence[ServerEvent]:
    """Return the event of another status, or of another reason for the same one."""
    if isinstance(command, MarkOnline) and state.is_undetected:
        command = MarkOffline(reason=NOT_DETECTED)
    online = isinstance(command, MarkOnline)
    if online == state.online:
        return change_reason(command.reason, state, now)
    event = events.ServerWentOnline if online else events.ServerWentOffline
    return [event(server_id=state.server_id, reason=command.reason)]


def change_reason(reason: str, state: Present, now: datetime) -> Sequence[ServerEvent]:
    """Return the event of another reason for the same status; none if it is the same, or changed too recently."""
    if _without_durations(reason) == _without_durations(state.status_reason):
        return []
    if state.status_reason != NOT_CHECKED and now - state.status_since < _pause_after(state.reason_changes):
        return []
    return [events.ServerStatusReasonChanged(server_id=state.server_id, reason=reason)]


def record_models(names: Iterable[str], state: Present, now: datetime) -> Sequence[ServerEvent]:
    """Return the event of other models than before; none if they are the same, or changed too recently.

    A change is recorded late rather than never: the next check brings it again.
    """
    models = _kept(names)
    if not state.settings.finds_models or models == state.found:
        return []
    if state.found_at is not None and now - state.found_at < _pause_after(_recent_changes(state, now)):
        return []
    return [events.ModelsFound(server_id=state.server_id, models=models)]


def _kept(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of models that are kept, sorted: the first ones, as far as they are not too long together."""
    fitting = {name for name in names if 0 < len(name) <= events.LONGEST_MODEL and name.isprintable()}
    models = sorted(fitting)[: events.MOST_MODELS]
    sizes = accumulate(len(name.encode()) for name in models)
    return tuple(name for name, size in zip(models, sizes, strict=True) if size <= events.MODELS_BYTES)


def _recent_changes(state: Present, now: datetime) -> int:
    """Return how often the models of a server changed lately; 0 once they have been the same for long."""
    is_settled = state.found_at is None or now - state.found_at >= 2 * LONGEST_REASON_PAUSE
    return 0 if is_settled else state.found_changes


def _pause_after(changes: int) -> timedelta:
    """Return how long a state must have lasted before another is recorded, after so many changes."""
    if (beyond := changes - REASONS_AT_ONCE) < 0:
        return timedelta()
    pause: timedelta = REASON_PAUSE * 2 ** min(beyond, 16)
    return min(pause, LONGEST_REASON_PAUSE)


def _without_durations(reason: str) -> str:
    """Return a reason without its durations: "no sign of life for 61 s" is the same reason a second later."""
    return _DURATION.sub("…", reason)


def register(command: RegisterServer, state: ServerState) -> Sequence[ServerEvent]:
    if isinstance(state, Present) and state.registered == command.settings:
        return []
    return [command.settings]


def record_dialect(command: RecordDialect, state: Present) -> Sequence[ServerEvent]:
    """Return the event of a detection; none if nothing is new, or it is not about the present registration."""
    found, registered = command.detected, state.registered
    if registered.dialect != AUTO or registered.predict_url != found.predict_url:
        return []
    if state.detected is not None and _same_finding(state.detected.event, found):
        return []
    return [found]


def _same_finding(before: DialectDetected, after: DialectDetected) -> bool:
    return (before.dialect, before.preset, before.program, before.exchange) == (
        after.dialect,
        after.preset,
        after.program,
        after.exchange,
    )


def set_maintenance(command: SetMaintenance, state: Present) -> Sequence[ServerEvent]:
    if command.maintenance == state.maintenance:
        return []
    event = events.MaintenanceStarted if command.maintenance else events.MaintenanceEnded
    return [event(server_id=state.server_id, reason=command.reason)]


def recover(command: TryCircuit | CloseCircuit, state: Present, now: datetime) -> Sequence[ServerEvent]:
    """Half-open an open circuit after its cool-down, or close it."""
    match command:
        case TryCircuit():
            if isinstance(state.circuit, CircuitIsOpen) and state.circuit.until <= now:
                return [events.CircuitHalfOpened(server_id=state.server_id)]
            return []
        case CloseCircuit():
            if isinstance(state.circuit, CircuitIsClosed):
                return []
            return [events.CircuitClosed(server_id=state.server_id, reason=command.reason)]
        case _:
            assert_never(command)


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
        return _registered(state, event, recorded.at)
    match state:
        case Absent():
            return state
        case Removed():
            return _evolve_removed(state, recorded)
        case Present():
            return _evolve_present(state, recorded)
        case _:
            assert_never(state)


def _registered(state: ServerState, event: ServerRegistered, at: datetime) -> Present:
    fresh = Present(settings=event, registered_at=at, changed_at=at, status_reason=NOT_CHECKED)
    if not isinstance(state, Present):
        return fresh
    if _same_place(state.registered, event):
        settings = event if state.detected is None else with_dialect(event, state.detected.event)
        return replace(state, settings=settings, registered_at=at)
    return replace(
        fresh,
        maintenance=state.maintenance,
        maintenance_reason=state.maintenance_reason,
        maintenance_since=state.maintenance_since,
    )


def _evolve_removed(state: Removed, recorded: Recorded[ServerEvent]) -> ServerState:
    match recorded.event:
        case events.ServerRemoved() as event:
            return _removed(state.before, recorded, event)
        case events.ServerRestored() as event if state.before is not None:
            return replace(
                state.before,
                settings=replace(state.before.settings, api_key_id=event.api_key_id),
                online=False,
                changed_at=recorded.at,
                status_reason=NOT_CHECKED,
                reason_changed_at=None,
                reason_changes=0,
            )
        case events.ServerForgotten():
            return replace(state, is_kept=False)
        case _:
            return state


def _evolve_present(state: Present, recorded: Recorded[ServerEvent]) -> ServerState:
    event = recorded.event
    match event:
        case events.ServerWentOnline() | events.ServerWentOffline():
            return replace(
                state,
                online=isinstance(event, events.ServerWentOnline),
                changed_at=recorded.at,
                status_reason=event.reason,
                reason_changed_at=None,
                reason_changes=0,
            )
        case events.ServerStatusReasonChanged():
            return replace(
                state,
                status_reason=event.reason,
                reason_changed_at=recorded.at,
                reason_changes=state.reason_changes + 1,
            )
        case events.ModelsFound():
            changes = _recent_changes(state, recorded.at) + 1
            return replace(state, found=event.models, found_at=recorded.at, found_changes=changes)
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
        case DialectDetected():
            detected = DetectedDialect(event=event, at=recorded.at)
            return replace(state, settings=with_dialect(state.registered, event), detected=detected)
        case events.ServerRemoved():
            return _removed(state, recorded, event)
        case ServerRegistered() | events.ServerRestored() | events.ServerForgotten():
            return state
        case _:
            assert_never(event)


def _removed(before: Present | None, recorded: Recorded[ServerEvent], event: events.ServerRemoved) -> Removed:
    return Removed(
        server_id=event.server_id,
        removed_at=recorded.at,
        reason=event.reason,
        before=before,
        by=recorded.by,
        is_kept=event.is_kept,
    )


def with_dialect(registered: ServerRegistered, event: DialectDetected) -> ServerRegistered:
    """Return settings with what was detected."""
    return replace(registered, dialect=event.dialect, exchange=event.exchange)


def _same_place(before: ServerRegistered, after: ServerRegistered) -> bool:
    """Return True if what is known of a server's health still applies: mode, URLs and dialect are the same."""
    return (before.mode, before.predict_url, before.health_url, before.dialect) == (
        after.mode,
        after.predict_url,
        after.health_url,
        after.dialect,
    )
