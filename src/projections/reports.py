"""The reports of a running attempt that its present state depends on, found without reading all of them.

The state shows the last report, the last percentage and the last data. Reports often have both, and each says what
earlier ones had. If the last one lacks something that they had, they are searched from the newest one back, and what
was searched is remembered, so a client that polls a task costs the new reports only.
"""

from __future__ import annotations

import contextlib

from msgspec import Struct

from ..events.codec import task_codec
from ..events.ids import TaskRef
from ..events.kinds import word_of
from ..events.subjects import task_root
from ..events.task import ProgressReported
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import Position, position_at, read_backwards
from ..streams.log import decode
from ..streams.topology.definitions import TASKS

REMEMBERED = 1_000
"""Attempts whose searches are remembered; of the others the next read starts again."""
AT_ONCE = 64
"""About how many reports one step of a search should have."""


class _Searched(Struct):
    """The reports of an attempt up to one of them."""

    started: int
    """Sequence of the attempt's start."""
    up_to: int
    progress: int = 0
    """Sequence of the last report with a percentage; 0: none has one."""
    data: int = 0
    """Sequence of the last report with data; 0: none has some."""


class ReportSearch:
    """Searches the reports of attempts, and remembers the last searches."""

    def __init__(self, reading: Connection) -> None:
        self._reading = reading
        self._known: dict[TaskRef, _Searched] = {}

    async def before(self, ref: TaskRef, started: int, last: int, report: ProgressReported) -> list[Position]:
        """Return the last reports of an attempt with what its last report lacks, a percentage or data; at most two.

        `started`, `last`: sequences of the attempt's start and of its last report. Raises StoreUnavailable.
        """
        missing = (3 if report.earlier is None else report.earlier) & 3 & ~report.has
        if not missing:
            return []
        known = self._known.pop(ref, None)
        if known is None or known.started != started or known.up_to > last:
            known = _Searched(started, started)
        found = _Searched(
            started, last, last if report.progress is not None else 0, last if report.data is not None else 0
        )
        subject = f"{task_root(ref)}.{word_of(ProgressReported)}"

        def look(position: Position) -> Position:
            event = decode(task_codec, position).recorded.event
            assert isinstance(event, ProgressReported)
            if event.progress is not None:
                found.progress = max(found.progress, position.sequence)
            if event.data is not None:
                found.data = max(found.data, position.sequence)
            return position._replace(data=b"")

        steps = read_backwards(self._reading, TASKS, subject, known.up_to + 1, last, AT_ONCE, look)
        async with contextlib.aclosing(steps):
            async for _ in steps:
                if (found.progress or not missing & 1) and (found.data or not missing & 2):
                    break
        found.progress = found.progress or known.progress
        found.data = found.data or known.data
        self._remember(ref, found)
        sequences = sorted({found.progress, found.data} - {0, last})
        positions = [await position_at(self._reading, TASKS, sequence) for sequence in sequences]
        return [position for position in positions if position is not None]

    def _remember(self, ref: TaskRef, found: _Searched) -> None:
        self._known[ref] = found
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
