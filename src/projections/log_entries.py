"""Entries of all logs in one form: which logs there are, what an entry says, and which entries a reader wants. Pure.

An entry leaves out what is as large as a user or a server makes it (payloads, results, output) and says its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import msgspec
from msgspec import Raw, Struct

from ..errors import UnreadableEvent
from ..events.envelope import Actor, ActorKind
from ..events.ids import is_task_id, owner_token, token
from ..events.kinds import EVENT_WORDS
from ..events.subjects import (
    BATCH_JOB_SUBJECTS,
    FILE_SUBJECTS,
    FLEET,
    KEY_SUBJECTS,
    OPERATION_SUBJECTS,
    SCHEDULE_SUBJECTS,
    TASK_SUBJECTS,
    WEBHOOK_SUBJECTS,
    server_token,
)
from ..streams.jetstream.messages import Position
from ..streams.topology.definitions import BATCH_JOBS, FILES, KEYS, OPERATIONS, SCHEDULES, SERVERS, TASKS, WEBHOOKS

LogName: TypeAlias = Literal["tasks", "fleet", "schedules", "webhooks", "operations", "batch-jobs", "files", "keys"]
SubjectKind: TypeAlias = Literal[
    "task", "server", "type", "pool", "owner", "schedule", "webhook", "operation", "batch_job", "file", "key"
]
ACTOR_KINDS: tuple[ActorKind, ...] = get_args(ActorKind)
SUBJECT_KINDS: tuple[SubjectKind, ...] = get_args(SubjectKind)


class LogSource(NamedTuple):
    """A log."""

    name: LogName
    stream: str
    filters: tuple[str, ...]
    """Of its events, each `<kind>.>`; a stream may have other messages, too."""
    is_owned: bool
    """True if its subjects are `<kind>.<owner>.<unique>.<event>…`; False: `<kind>.<name>.<event>`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of what its events are about."""
        return tuple(subjects.removesuffix(".>") for subjects in self.filters)

    def has(self, subject: str) -> bool:
        """Return True for an event; False for another message of the stream."""
        return subject.partition(".")[0] in self.kinds


LOGS: tuple[LogSource, ...] = (
    LogSource("tasks", TASKS, (TASK_SUBJECTS,), is_owned=True),
    LogSource("fleet", SERVERS, FLEET, is_owned=False),
    LogSource("schedules", SCHEDULES, (SCHEDULE_SUBJECTS,), is_owned=True),
    LogSource("webhooks", WEBHOOKS, (WEBHOOK_SUBJECTS,), is_owned=True),
    LogSource("operations", OPERATIONS, (OPERATION_SUBJECTS,), is_owned=True),
    LogSource("batch-jobs", BATCH_JOBS, (BATCH_JOB_SUBJECTS,), is_owned=True),
    LogSource("files", FILES, (FILE_SUBJECTS,), is_owned=True),
    LogSource("keys", KEYS, (KEY_SUBJECTS,), is_owned=True),
)
"""Append only: a cursor has a position for each, in this order."""
LOG_NAMES: tuple[LogName, ...] = tuple(log.name for log in LOGS)

_BODIES = {
    "payload",
    "result",
    "custom_data",
    "lines",
    "output",
    "merged",
    "data",
    "indexed",
    "ids",
    "digest",
    "metadata",
    "errors",
    "tasks",
}
_NESTED = {"settings": "task", "filter": "payload"}
"""Fields with a body in them."""


class EventEntry(Struct, frozen=True, kw_only=True):
    """An event of a log."""

    log: LogName
    sequence: int
    at: datetime
    event: str
    """Name of its class, such as `TaskFailed`."""
    kind: str
    """Of what it is about."""
    id: str
    by: Actor
    cause: str
    data: Mapping[str, Any]
    """Its fields, without bodies."""
    sizes: Mapping[str, int]
    """The bodies that are left out, with their sizes in bytes."""


class _Envelope(Struct):
    at: datetime
    by: Actor
    event: Raw
    cause: str = ""


class _Instant(Struct):
    at: datetime


class _Sized(Struct):
    size_bytes: int


_envelope = msgspec.json.Decoder(_Envelope)
_instant = msgspec.json.Decoder(_Instant)
_fields = msgspec.json.Decoder(dict[str, Raw])
_sized = msgspec.json.Decoder(_Sized)
_text = msgspec.json.Decoder(str)


def instant_of(position: Position) -> datetime | None:
    """Return when an event happened; None for a message that is none."""
    try:
        return _instant.decode(position.data).at
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class About(NamedTuple):
    """What a subject says of its event."""

    kind: str
    owner: str
    """Owner token; empty: it belongs to nobody."""
    name: str
    """Token of the name, or the unique part of the id."""
    word: str


def about(source: LogSource, subject: str) -> About | None:
    """Return what a subject says; None for one that is of no event of this log."""
    tokens = subject.split(".", 4)
    if tokens[0] not in source.kinds or len(tokens) < (4 if source.is_owned else 3):
        return None
    if source.is_owned:
        return About(tokens[0], tokens[1], tokens[2], tokens[3])
    return About(tokens[0], tokens[1] if tokens[0] == "owner" else "", tokens[1], tokens[2])


class EntryFilter(Struct, frozen=True, kw_only=True):
    """Which entries a reader wants. Every condition must hold; an empty one always does."""

    logs: frozenset[LogName] = frozenset()
    words: frozenset[str] = frozenset()
    """Kinds of events, as subjects have them."""
    actor_kind: str = ""
    actor_id: str = ""
    kind: str = ""
    """Of what the entries are about, with `name`."""
    name: str = ""
    """Token of its name; of what has an owner the unique part of its id."""
    name_owner: str = ""
    """Owner token in its id."""
    owner: str | None = None
    """Owner token: only what belongs to this owner; None: all."""
    since: datetime | None = None
    before: datetime | None = None

    @property
    def sources(self) -> list[LogSource]:
        """Return the logs that may have such entries."""
        owner = self.name_owner or (self.name if self.kind == "owner" else "")
        if self.owner is not None and owner not in ("", self.owner):
            return []
        return [
            source
            for source in LOGS
            if (not self.logs or source.name in self.logs)
            and (not self.kind or self.kind in source.kinds)
            and (self.owner is None or source.is_owned or ("owner" in source.kinds and self.kind in ("", "owner")))
        ]

    def root(self, source: LogSource) -> str | None:
        """Return what all subjects in a log start with that the filter selects; None: nothing but the log's own."""
        if self.name:
            return f"{self.kind}.{self.name_owner}.{self.name}" if source.is_owned else f"{self.kind}.{self.name}"
        if self.owner is None:
            return None
        return f"{source.kinds[0]}.{self.owner}" if source.is_owned else f"owner.{self.owner}"

    def may_select(self, found: About) -> bool:
        """Return False for an event that the filter does not select, as far as its subject shows."""
        return (
            (self.owner is None or found.owner == self.owner)
            and (not self.words or found.word in self.words)
            and (not self.kind or found.kind == self.kind)
            and (not self.name or found.name == self.name)
            and (not self.name_owner or found.owner == self.name_owner)
        )

    def select(self, source: LogSource, position: Position) -> EventEntry | None:
        """Return the entry of a message, None if it is not selected. Raises UnreadableEvent."""
        found = about(source, position.subject)
        if found is None or not self.may_select(found):
            return None
        try:
            envelope = _envelope.decode(position.data)
            return _entry(source, position.sequence, found, envelope) if self._selects(envelope) else None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnreadableEvent(position.subject, position.sequence, str(error)) from error

    def _selects(self, envelope: _Envelope) -> bool:
        return (
            self.actor_kind in ("", envelope.by.kind)
            and self.actor_id in ("", envelope.by.id)
            and (self.since is None or envelope.at >= self.since)
            and (self.before is None or envelope.at < self.before)
        )


def _entry(source: LogSource, sequence: int, found: About, envelope: _Envelope) -> EventEntry:
    fields: dict[str, Any] = _fields.decode(envelope.event)
    name = _text.decode(fields.pop("type", b'""'))
    sizes = {}
    for body in _BODIES & fields.keys():
        sizes[body] = _size(body, fields.pop(body))
    for outer, inner in _NESTED.items():
        if outer in fields:
            parts = _fields.decode(fields[outer])
            if inner in parts:
                sizes[f"{outer}.{inner}"] = len(bytes(parts.pop(inner)))
                fields[outer] = parts
    return EventEntry(
        log=source.name,
        sequence=sequence,
        at=envelope.at,
        event=name,
        kind=found.kind,
        id=f"{found.name}~{found.owner}" if source.is_owned else _name_of(found, fields),
        by=envelope.by,
        cause=envelope.cause,
        data=fields,
        sizes=sizes,
    )


def _size(body: str, value: Raw) -> int:
    """Return the size of a body, which may be stored elsewhere."""
    if body in ("result", "data"):
        try:
            return _sized.decode(value).size_bytes
        except msgspec.MsgspecError:
            pass
    return len(bytes(value))


def _name_of(found: About, fields: Mapping[str, Any]) -> str:
    """Return the name of a server, type, pool or owner, which its token may not show."""
    given = fields.get({"server": "server_id", "owner": "owner"}.get(found.kind, "name"))
    return _text.decode(given) if given is not None else found.name


def parse_actor(text: str) -> tuple[str, str]:
    """Return the kind and the id of an actor, each empty for any: `worker:w-2`, `timer:`, `alice`."""
    kind, colon, name = text.partition(":")
    return (kind, name) if colon and kind in ACTOR_KINDS else ("", text)


class EntrySubject(NamedTuple):
    """What entries are about, as the fields of an EntryFilter."""

    kind: str
    name: str = ""
    name_owner: str = ""


def parse_subject(text: str) -> EntrySubject:
    """Return what `server:gpu-3`, `task:<id>` or `type:` is about. Raises ValueError."""
    kind, colon, name = text.partition(":")
    if not colon or kind not in SUBJECT_KINDS:
        raise ValueError(f"must be one of {', '.join(SUBJECT_KINDS)}, a colon, and an id or nothing")
    if not name:
        return EntrySubject(kind)
    match kind:
        case "server":
            return EntrySubject(kind, server_token(name))
        case "type" | "pool":
            return EntrySubject(kind, token(name))
        case "owner":
            return EntrySubject(kind, owner_token(name))
        case _:
            if not is_task_id(name):
                raise ValueError(f"is not the id of a {kind}")
            unique, _, owner = name.partition("~")
            return EntrySubject(kind, unique, owner)


EVENT_NAMES = frozenset(EVENT_WORDS)
