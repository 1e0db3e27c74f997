"""The runs of a schedule and what came of them, read backwards from its events.

A firing and the failure that follows it are two events, and how many runs an event skipped is the difference between
its counts and those of an earlier event. So a page ends only where neither is open.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import Struct

from ..events.codec import schedule_codec
from ..events.envelope import Stored
from ..events.ids import ScheduleRef
from ..events.schedule import (
    Counts,
    ScheduleChanged,
    ScheduleCreated,
    ScheduleEvent,
    ScheduleFailed,
    ScheduleFired,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleTriggered,
)
from ..events.subjects import history_filter, schedule_root
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import read_backwards, stream_info
from ..streams.log import decode
from ..streams.topology.definitions import SCHEDULES

LONGEST_WALK = 5_000
"""Events that one page looks at."""

MOVING = (ScheduleCreated, ScheduleChanged, SchedulePaused, ScheduleResumed, ScheduleFired, ScheduleSkipped)
"""Events that say when it runs next."""

RunOutcome = Literal["fired", "refused", "missed", "skipped", "triggered"]


class PastRun(Struct, frozen=True, kw_only=True):
    """A run, or several that were missed or skipped together."""

    outcome: RunOutcome
    """`missed`: no process could fire it in time. `skipped`: the schedule was paused. `triggered`: by a request."""
    at: datetime
    """When it was recorded."""
    due_at: datetime | None = None
    """When it was due, of several the first; None: it was triggered."""
    task_id: str = ""
    error: str = ""
    """Why its task was refused."""
    path: str = ""
    count: int = 1


class RunPage(NamedTuple):
    runs: list[PastRun]
    """The last one first."""
    cursor: int | None
    """Sequence before which the next page begins; None after the last page."""


class _Skipping(NamedTuple):
    """An event that may have skipped runs: how many, an earlier event says."""

    place: int
    """Where its entry belongs."""
    at: datetime
    total: int
    outcome: RunOutcome


class BackwardRuns:
    """The runs of a schedule, as its events are added from the last one on."""

    def __init__(self) -> None:
        self._found: list[PastRun | None] = []
        self._refused: dict[str, ScheduleFailed] = {}
        """By task, as long as its firing was not met."""
        self._skipping: _Skipping | None = None
        self._due_at: datetime | None = None
        self._earlier: int | None = None
        """Skipped runs before the event that is open."""

    @property
    def runs(self) -> list[PastRun]:
        return [run for run in self._found if run is not None]

    @property
    def is_open(self) -> bool:
        """True if an earlier event says more about what was added."""
        return self._skipping is not None or bool(self._refused)

    def look(self, event: ScheduleEvent) -> None:
        """Take from an event what it says of later ones."""
        if self._skipping is None:
            return
        if self._due_at is None and isinstance(event, MOVING):
            self._due_at = event.next_at
        if self._earlier is None and (counts := _counts_of(event)) is not None:
            self._earlier = counts.skipped
        if self._earlier is None or (self._due_at is None and not isinstance(event, ScheduleCreated)):
            return
        place, at, total, outcome = self._skipping
        if (count := total - self._earlier) > 0:
            self._found[place] = PastRun(outcome=outcome, at=at, due_at=self._due_at, count=count)
        self._skipping = None

    def add(self, stored: Stored[ScheduleEvent]) -> None:
        """Add an event that is earlier than all before, and was looked at."""
        at, event = stored.recorded.at, stored.recorded.event
        match event:
            case ScheduleFired():
                self._found += [self._fired(at, run.occurrence, run.task_id) for run in reversed(event.runs)]
                self._open(at, event.counts.skipped, "missed")
            case ScheduleSkipped():
                self._open(at, event.counts.skipped, "missed")
            case ScheduleResumed():
                self._open(at, event.counts.skipped, "skipped")
            case ScheduleFailed():
                self._refused |= dict.fromkeys((run.task_id for run in event.runs), event)
            case ScheduleTriggered():
                self._found.append(PastRun(outcome="triggered", at=at, task_id=event.task_id))
            case _:
                pass

    def _fired(self, at: datetime, due_at: datetime, task_id: str) -> PastRun:
        failed = self._refused.pop(task_id, None)
        if failed is None:
            return PastRun(outcome="fired", at=at, due_at=due_at, task_id=task_id)
        return PastRun(outcome="refused", at=at, due_at=due_at, task_id=task_id, error=failed.error, path=failed.path)

    def _open(self, at: datetime, total: int, outcome: RunOutcome) -> None:
        if total:
            self._skipping = _Skipping(len(self._found), at, total, outcome)
            self._found.append(None)
            self._due_at = self._earlier = None


def _counts_of(event: ScheduleEvent) -> Counts | None:
    match event:
        case ScheduleCreated():
            return Counts()
        case ScheduleFired() | ScheduleSkipped() | ScheduleResumed() | ScheduleFailed() | ScheduleTriggered():
            return event.counts
        case _:
            return None


async def read_runs(reading: Connection, ref: ScheduleRef, limit: int, before: int | None) -> RunPage:
    """Return about `limit` runs recorded before a sequence, the last one first: those fired together stay together.

    Raises UnreadableEvent, StoreUnavailable.
    """
    state = (await stream_info(reading, SCHEDULES))["state"]
    oldest, end = int(state["first_seq"]), int(state["last_seq"]) + 1
    found = BackwardRuns()
    walked, last = 0, min(end, before or end)
    steps = read_backwards(reading, SCHEDULES, history_filter(schedule_root(ref)), oldest, last, limit)
    async with contextlib.aclosing(steps):
        async for positions, _ in steps:
            for position in positions:
                stored = decode(schedule_codec, position)
                found.look(stored.recorded.event)
                if (len(found.runs) >= limit and not found.is_open) or walked >= LONGEST_WALK:
                    return RunPage(found.runs, last)
                found.add(stored)
                last = position.sequence
                walked += 1
                if isinstance(stored.recorded.event, ScheduleCreated):
                    return RunPage(found.runs, None)
    return RunPage(found.runs, None)
