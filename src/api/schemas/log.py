"""The log as clients see it. Instants are ISO 8601 in UTC."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...instants import iso
from ...projections.log_entries import EventEntry, LogName
from ...projections.log_pages import LogPage


class LogSubjectInfo(Struct, kw_only=True):
    """What an entry is about."""

    kind: str
    """`task`, `server`, `type`, `pool`, `owner`, `schedule`, `webhook`, `operation` or `key`."""
    id: str


class LogEntryInfo(Struct, kw_only=True):
    """An event of a log."""

    log: LogName
    sequence: int
    """Place in its log, from 1."""
    at: str
    event: str
    """What happened, such as `TaskFailed`."""
    subject: LogSubjectInfo
    by: dict[str, str]
    """Who did it: `kind` (user, server, worker, timer, system) and `id`."""
    cause: str
    """The request id, or the sequence of the event, that caused it; may be empty."""
    data: dict[str, Any]
    """The other fields of the event, without bodies."""
    sizes: dict[str, int]
    """The bodies that are left out, with their sizes in bytes: payloads, results, output, the task of a schedule, the
    ids of an operation."""


class LogAnswer(Struct, kw_only=True, rename="camel"):
    """Entries of all logs, newest first; with `after`, oldest first."""

    entries: list[LogEntryInfo]
    next_before: str | None
    """Pass as `before` to read on towards older entries; null: there are none."""
    next_after: str
    """Pass as `after` to read on towards newer entries, now or later."""
    more: bool
    """True: more may follow in the direction of this page. A page may be short, even empty, and still have more."""
    searched: int
    """Messages that were searched for this page, at most some thousands."""
    expired: dict[str, int]
    """Of each log whose beginning was reached and is past the retention: the first sequence that is kept."""


def log_answer(page: LogPage) -> LogAnswer:
    return LogAnswer(
        entries=list(map(log_entry_info, page.entries)),
        next_before=str(page.before) if page.before is not None else None,
        next_after=str(page.after),
        more=page.has_more,
        searched=page.searched,
        expired={str(name): first for name, first in page.expired.items()},
    )


def log_entry_info(entry: EventEntry) -> LogEntryInfo:
    return LogEntryInfo(
        log=entry.log,
        sequence=entry.sequence,
        at=iso(entry.at),
        event=entry.event,
        subject=LogSubjectInfo(kind=entry.kind, id=entry.id),
        by=entry.by.shown(),
        cause=entry.cause,
        data=dict(entry.data),
        sizes=dict(entry.sizes),
    )
