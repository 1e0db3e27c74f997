"""The verification of restored logs: every event decodes, no sequence is missing, and where the queue must start."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from datetime import datetime

from msgspec import Struct, field

from ..errors import StoreUnavailable, UnreadableEvent
from ..events.codec import file_codec, key_codec, schedule_codec, task_codec
from ..events.file import FileCreated, FileDeleted
from ..events.ids import ScheduleRef, TaskRef
from ..events.key import KeyCreated, KeyRevoked
from ..events.kinds import kind_of
from ..events.schedule import ScheduleCreated, ScheduleDeleted
from ..events.subjects import SCHEDULER_FENCE, schedule_ref, task_ref
from ..events.task import TaskSubmitted, object_names
from ..projections.fleet import Fleet
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api, find_stream
from ..streams.jetstream.messages import Position, list_subjects, read_some
from ..streams.log import decode
from ..streams.topology.definitions import FILES, KEYS, SCHEDULES, SERVERS, TASKS
from ..vault.sealing import DoesNotOpen, SealingUnavailable
from ..vault.secrets import SecretStore
from .folder import RESULTS

FAULTS_SHOWN = 10
REPLICA_TRIES = 600
REPLICA_PAUSE_SECONDS = 0.05
"""An answering replica may still lag behind the restored stream."""


class VerifyReport(Struct, kw_only=True):
    """The content of the logs."""

    events: int = 0
    """Events of tasks."""
    tasks: int = 0
    servers: int = 0
    types: int = 0
    schedules: int = 0
    """Recurring ones that are not deleted."""
    files: int = 0
    """Those that are not deleted."""
    keys: int = 0
    """API keys that are not revoked."""
    last_sequence: int = 0
    """Of the TASKS log."""
    last_at: datetime | None = None
    """When the last event of a task was recorded, UTC; None: there is none."""
    unfinished: dict[TaskRef, int] = field(default_factory=dict)
    """Tasks that have not ended, with the sequence from which their queue messages start."""
    lost_results: int = 0
    """Results that an event names and the object store does not have, perhaps because they are past retention."""
    sealed: list[str] = field(default_factory=list)
    """Servers whose API key does not open with the present seal keys."""
    missing_key: str = ""
    """Fingerprint of the key that secrets were sealed with last, if it is not among the present ones."""
    faults: list[str] = field(default_factory=list)
    """Events that do not decode and sequences that are missing; the first few."""

    @property
    def floor(self) -> int:
        """The sequence of TASKS before which nothing is still to be queued."""
        return min(self.unfinished.values(), default=self.last_sequence + 1)


async def verify_logs(connection: Connection, secrets: SecretStore) -> VerifyReport:
    """Read the logs and report, also on events that do not decode. Raises StoreUnavailable."""
    found = VerifyReport()
    results: set[str] = set()
    fleet = Fleet()
    schedules: set[ScheduleRef] = set()
    await _fold(connection, TASKS, found, lambda position: _task_event(found, results, position))
    await _fold(connection, SERVERS, found, lambda position: fleet.apply([position]))
    await _fold(connection, SCHEDULES, found, lambda position: _schedule_event(schedules, position))
    if await find_stream(connection, FILES) is not None:  # a backup of an earlier version has none
        await _fold(connection, FILES, found, lambda position: _file_event(found, position))
    if await find_stream(connection, KEYS) is not None:  # likewise
        await _fold(connection, KEYS, found, lambda position: _key_event(found, position))
    found.schedules = len(schedules)
    found.servers, found.types = len(list(fleet.servers())), len(list(fleet.types()))
    found.missing_key = await secrets.missing_key()
    found.sealed = await _sealed(fleet, secrets)
    found.lost_results = len(results - await _objects(connection)) if results else 0
    return found


async def _fold(connection: Connection, stream: str, found: VerifyReport, apply: Callable[[Position], object]) -> None:
    """Apply all messages of a stream, in order; report each event that does not decode."""
    async for positions in _pages(connection, stream):
        for position in positions:
            try:
                apply(position)
            except UnreadableEvent as error:
                _add_fault(found, str(error))


def _task_event(found: VerifyReport, results: set[str], position: Position) -> None:
    if found.events and position.sequence != found.last_sequence + 1:
        _add_fault(found, f"after sequence {found.last_sequence} of {TASKS} comes {position.sequence}")
    found.events += 1
    found.last_sequence = position.sequence
    if position.subject == SCHEDULER_FENCE:
        return
    recorded = decode(task_codec, position).recorded
    found.last_at = recorded.at
    ref = task_ref(position.subject)
    event = recorded.event
    kind = kind_of(event)
    found.tasks += isinstance(event, TaskSubmitted)
    if kind.ends:
        found.unfinished.pop(ref, None)
    elif kind.activates:
        found.unfinished.setdefault(ref, position.sequence)
    results |= object_names(event)


def _schedule_event(schedules: set[ScheduleRef], position: Position) -> None:
    match decode(schedule_codec, position).recorded.event:
        case ScheduleCreated():
            schedules.add(schedule_ref(position.subject))
        case ScheduleDeleted():
            schedules.discard(schedule_ref(position.subject))
        case _:
            pass


def _key_event(found: VerifyReport, position: Position) -> None:
    event = decode(key_codec, position).recorded.event
    found.keys += isinstance(event, KeyCreated) - isinstance(event, KeyRevoked)


def _file_event(found: VerifyReport, position: Position) -> None:
    event = decode(file_codec, position).recorded.event
    found.files += isinstance(event, FileCreated) - isinstance(event, FileDeleted)


def _add_fault(found: VerifyReport, fault: str) -> None:
    if len(found.faults) < FAULTS_SHOWN:
        found.faults.append(fault)


async def _pages(connection: Connection, stream: str) -> AsyncIterator[list[Position]]:
    """Yield all messages of a stream that is not written to, in order.

    A consumer cannot do it: while a stream is restored, its subjects differ from those of its messages.
    """
    state = (await api(connection, f"STREAM.INFO.{stream}"))["state"]
    sequence, last = state["first_seq"], state["last_seq"] if state["messages"] else 0
    tries = 0
    while sequence <= last:
        positions = await read_some(connection, stream, ">", sequence)
        if not positions:
            tries += 1
            if tries > REPLICA_TRIES:
                raise StoreUnavailable(f"no replica of {stream} has caught up")
            await asyncio.sleep(REPLICA_PAUSE_SECONDS)
            continue
        yield positions
        sequence, tries = positions[-1].sequence + 1, 0


async def _sealed(fleet: Fleet, secrets: SecretStore) -> list[str]:
    """Return the ids of servers whose API keys do not open, with those that were removed and are kept."""
    closed = []
    kept = [removed.before for removed in fleet.removed() if removed.is_kept and removed.before is not None]
    for server in (*fleet.servers(), *kept):
        try:
            if server.settings.api_key_id:
                await secrets.get(server.server_id, server.settings.api_key_id)
        except (DoesNotOpen, SealingUnavailable):
            closed.append(server.server_id)
    return sorted(closed)


async def _objects(connection: Connection) -> set[str]:
    """Return the names of all stored objects."""
    prefix = "$O.results.M."
    subjects = await list_subjects(connection, RESULTS, f"{prefix}>")
    return {base64.urlsafe_b64decode(subject.removeprefix(prefix)).decode() for subject in subjects}
