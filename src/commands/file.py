"""Deciders of a file, over its creation and its last event.

            FileCreated             FileDeleted
FileAbsent ─────────────► FilePresent ─────────► FileGone
                           │      ▲
                           └──────┘ FileReferenced

Each event is appended after the last one of the file. So a reference and a deletion that race have one winner: the
other is decided again, and sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..errors import FileInUse, IdempotencyConflict, NotFound, RuleBroken
from ..events.envelope import Recorded
from ..events.file import FileCreated, FileDeleted, FileEnd, FileEvent, FileReferenced


class FileAbsent(Struct, frozen=True, tag="absent"):
    """Never stored, or forgotten some time after its deletion."""


class FilePresent(Struct, frozen=True, kw_only=True, tag="present"):
    """Stored."""

    created: FileCreated
    created_at: datetime
    last_reference: str = ""
    """Id of the last event that refers to the file; empty: none."""


class FileGone(Struct, frozen=True, kw_only=True, tag="gone"):
    """Deleted."""

    created: FileCreated
    reason: FileEnd
    deleted_at: datetime


FileState: TypeAlias = FileAbsent | FilePresent | FileGone

ABSENT = FileAbsent()


class CreateFile(Struct, frozen=True, kw_only=True):
    created: FileCreated
    repeatable: bool
    """True with an Idempotency-Key: the same file again is the same file."""


class ReferToFile(Struct, frozen=True, kw_only=True):
    """Keep the file for tasks that are about to be submitted, or for the runs of a schedule."""

    tasks: tuple[str, ...]
    schedule: str = ""


class DeleteFile(Struct, frozen=True, kw_only=True):
    reason: FileEnd
    last_reference: str
    """The last reference whose tasks were looked at; empty: there was none."""


FileCommand: TypeAlias = CreateFile | ReferToFile | DeleteFile


def decide(command: FileCommand, state: FileState, now: datetime) -> Sequence[FileEvent]:
    """Return the events of a command; none if it is done already.

    Raises NotFound, IdempotencyConflict, and FileInUse if the file was referred to since its references were read.
    """
    match command:
        case CreateFile():
            return create(command, state)
        case ReferToFile():
            if not isinstance(state, FilePresent) or _has_expired(state, now):
                raise NotFound("file", "")
            return [FileReferenced(tasks=command.tasks, schedule=command.schedule)]
        case DeleteFile():
            return delete(command, state)
        case _:
            assert_never(command)


def _has_expired(state: FilePresent, now: datetime) -> bool:
    return state.created.expires_at is not None and state.created.expires_at <= now


def create(command: CreateFile, state: FileState) -> Sequence[FileEvent]:
    """Store a file; nothing if it is stored already, by a request whose answer was lost."""
    match state:
        case FileAbsent():
            return [command.created]
        case FilePresent():
            if command.repeatable and not is_same(command.created, state.created):
                raise IdempotencyConflict
            return []
        case FileGone():
            raise RuleBroken("the file that this Idempotency-Key made was deleted; use a new key for a new file")
        case _:
            assert_never(state)


def is_same(one: FileCreated, other: FileCreated) -> bool:
    """Return True if two requests store the same file; where the bytes are does not count."""
    return replace(one, object_name="", expires_at=None) == replace(other, object_name="", expires_at=None)


def delete(command: DeleteFile, state: FileState) -> Sequence[FileEvent]:
    match state:
        case FileAbsent():
            raise NotFound("file", "")
        case FilePresent():
            if state.last_reference != command.last_reference:
                raise FileInUse("a task that refers to this file was submitted just now; try again")
            return [FileDeleted(reason=command.reason, size_bytes=state.created.size_bytes)]
        case FileGone():
            return []
        case _:
            assert_never(state)


def evolve(state: FileState, recorded: Recorded[FileEvent]) -> FileState:
    """Return the state after one more event. References between the first and the last event may be missing."""
    event = recorded.event
    if isinstance(event, FileCreated):
        return FilePresent(created=event, created_at=recorded.at)
    if not isinstance(state, FilePresent):
        return state
    match event:
        case FileReferenced():
            return replace(state, last_reference=recorded.id)
        case FileDeleted():
            return FileGone(created=state.created, reason=event.reason, deleted_at=recorded.at)
        case _:
            assert_never(event)
