"""Reports of progress that are pushed as they come, before the log has them: plain NATS messages, kept nowhere.

    progress.<owner>.<unique>    one report: its place in a batch, and the event it would be by itself

The log gets one event for a batch, which names it: a listener that has seen all of the batch live takes nothing from
that event but its sequence, one that has seen none takes it whole.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

import msgspec
from msgspec import Struct

from ..events.envelope import Actor
from ..events.task import ProgressReported

BATCHES_REMEMBERED = 40
"""By each listener: as many tasks may be in a flood of reports before one is told something twice after a break."""


class LiveReport(Struct, frozen=True, kw_only=True):
    """One report."""

    batch: str
    index: int
    """Place in the batch, from 0."""
    at: datetime
    by: Actor
    event: ProgressReported
    after: int = 0
    """Sequence of the report before the batch: what is told in order is told after it."""


_decode = msgspec.json.Decoder(LiveReport).decode
encode = msgspec.json.Encoder().encode


def decode(data: bytes) -> LiveReport | None:
    """Return the report, None for what is none."""
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None


class _Count(Struct):
    reports: int = 0
    lines: int = 0
    output: int = 0
    """Characters."""


class Seen:
    """How much of the latest batches a listener has had live.

    As text it is `;<batch>:<reports>:<lines>:<characters>` for each: a listener that breaks off brings it back, and is
    told no report twice.
    """

    def __init__(self, text: str = "") -> None:
        """Raises ValueError for text that is none of ours."""
        self._batches: dict[str, _Count] = {}
        self._closed: deque[str] = deque(maxlen=BATCHES_REMEMBERED)
        """Those that the log has told whole: a report of one that was late is not told again."""
        for part in filter(None, text.split(";")):
            batch, reports, lines, output = part.split(":")
            self._batches[batch] = _Count(int(reports), int(lines), int(output))

    def __str__(self) -> str:
        return "".join(
            f";{batch}:{count.reports}:{count.lines}:{count.output}" for batch, count in self._batches.items()
        )

    def takes(self, live: LiveReport) -> bool:
        """Tell whether a report is the next of its batch, and count it; one whose beginning was missed is not."""
        if live.batch in self._closed:
            return False
        if live.index == 0:
            while len(self._batches) >= BATCHES_REMEMBERED:
                del self._batches[next(iter(self._batches))]
            self._batches.setdefault(live.batch, _Count())
        count = self._batches.get(live.batch)
        if count is None or live.index != count.reports:
            return False
        count.reports += 1
        count.lines += len(live.event.lines)
        count.output += len(live.event.output)
        return True

    def rest_of(self, event: ProgressReported) -> ProgressReported | None:
        """Return what an event of the log has beyond what was seen live; None: nothing."""
        if event.batch:
            self._closed.append(event.batch)
        count = self._batches.pop(event.batch, None)
        if count is None:
            return event
        if event.reports <= count.reports:
            return None
        return msgspec.structs.replace(event, lines=event.lines[count.lines :], output=event.output[count.output :])
