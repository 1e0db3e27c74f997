"""Live progress reports: pushed before the log has them, as plain NATS messages that are stored nowhere.

    progress.<owner>.<unique>    one report: its index in a batch, and its event

The log gets one event per batch, which names the batch. A subscriber that has seen the whole batch live takes only the
sequence of that event; one that has seen none of it takes the whole event.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

import msgspec
from msgspec import Struct

from ..events.envelope import Actor
from ..events.json_text import compact
from ..events.stream_parts import without_first
from ..events.task import ProgressReported

BATCHES_REMEMBERED = 40
"""Batches that a subscriber remembers. If more tasks than this report at once, reports may repeat after a reconnect."""


class LiveReport(Struct, frozen=True, kw_only=True):
    """One report."""

    batch: str
    index: int
    """Place in the batch, from 0."""
    at: datetime
    by: Actor
    event: ProgressReported
    after: int = 0
    """Sequence of the last event of the task that its sender knew; this one is pushed after it."""


_decode = msgspec.json.Decoder(LiveReport).decode
_encode = msgspec.json.Encoder().encode


def encode(report: LiveReport) -> bytes:
    """Return the JSON of a report, without line breaks."""
    return compact(_encode(report))


def decode(data: bytes) -> LiveReport | None:
    """Return the report; None if it does not decode."""
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None


class _Count(Struct):
    reports: int = 0
    lines: int = 0
    output: int = 0
    """Characters."""
    parts: int = 0


class Seen:
    """How much of the latest batches a subscriber has received live.

    Its text is `;<batch>:<reports>:<lines>:<characters>` for each batch, and `:<parts>` if it had parts of a stream. A
    client that sends it back when it reconnects gets no report twice.
    """

    def __init__(self, text: str = "") -> None:
        """Parse the text of another `Seen`. Raises ValueError."""
        self._batches: dict[str, _Count] = {}
        self._closed: deque[str] = deque(maxlen=BATCHES_REMEMBERED)
        """Batches that came from the log: a late live report of one is dropped."""
        for part in filter(None, text.split(";")):
            batch, *counts = part.split(":")
            self._batches[batch] = _Count(*map(int, counts))

    def __str__(self) -> str:
        return "".join(
            f";{batch}:{count.reports}:{count.lines}:{count.output}" + (f":{count.parts}" if count.parts else "")
            for batch, count in self._batches.items()
        )

    def takes(self, live: LiveReport) -> bool:
        """Return True if a report is the next of its batch, and count it; False if an earlier one was missed."""
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
        count.parts += len(live.event.parts.middles) if live.event.parts is not None else 0
        return True

    def rest_of(self, event: ProgressReported) -> ProgressReported | None:
        """Return the part of a logged event that was not received live; None if there is none."""
        if event.batch:
            self._closed.append(event.batch)
        count = self._batches.pop(event.batch, None)
        if count is None:
            return event
        if event.reports <= count.reports:
            return None
        return msgspec.structs.replace(
            event,
            lines=event.lines[count.lines :],
            output=event.output[count.output :],
            parts=None if event.parts is None else without_first(event.parts, count.parts),
            merged=tuple(merged for merged in event.merged if merged.report >= count.reports),
        )
