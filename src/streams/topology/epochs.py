"""The identity of the log of tasks: its epochs, and the positions that are in it (ADR 16).

A log begins an epoch, with a random id, when it is created and when it is restored from a backup. They are in the
metadata of the stream, as `<id>:<first sequence>`, oldest first. A position names the epoch of its sequence. So a
position of another log, or of this one before it was restored, is recognised.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ...clock import unique_id
from ...instants import milliseconds
from ..client.connection import Connection
from ..jetstream.messages import Position, position_at, stream_info
from .definitions import TASKS

EPOCHS = "taskstream.epochs"
"""Key of the metadata. If it changes, the ids that clients hold are no longer known."""
ID_LENGTH = 8
_EPOCH = re.compile(r"([0-9a-f]+):([0-9]+)", re.ASCII)


class Epoch(NamedTuple):
    id: str
    first: int
    """Sequence of its first event."""

    def __str__(self) -> str:
        return f"{self.id}:{self.first}"


class LogExtent(Struct, frozen=True, kw_only=True):
    """The epochs of a log, and the sequences that it holds."""

    epochs: tuple[Epoch, ...]
    """At least one, oldest first."""
    first: int
    """Sequence of the oldest event that is kept; `last + 1` if there is none."""
    last: int
    """Sequence of the newest event there ever was."""

    def name(self, sequence: int) -> str:
        """Return the position after a sequence, as text."""
        epoch = next((epoch for epoch in reversed(self.epochs) if epoch.first <= sequence), self.epochs[0])
        return f"{epoch.id}-{sequence}"

    def has(self, epoch_id: str, sequence: int) -> bool:
        """Return True if an epoch of this log reached a sequence. An empty id stands for any epoch."""
        if not epoch_id:
            return sequence <= self.last
        ends = [epoch.first - 1 for epoch in self.epochs[1:]] + [self.last]
        return any(epoch.id == epoch_id and sequence <= end for epoch, end in zip(self.epochs, ends, strict=True))


def new_epoch(first: int, before: Sequence[Epoch] = ()) -> dict[str, str]:
    """Return the metadata of a log that begins an epoch at a sequence, after other epochs."""
    return {EPOCHS: " ".join(map(str, (*before, Epoch(unique_id()[:ID_LENGTH], first))))}


def epochs_in(metadata: Mapping[str, str] | None) -> tuple[Epoch, ...]:
    """Return the epochs in a stream's metadata; none if an older version created the stream."""
    return tuple(Epoch(found[1], int(found[2])) for found in _EPOCH.finditer((metadata or {}).get(EPOCHS, "")))


def derived_epoch(info: Mapping[str, Any]) -> Epoch:
    """Return the epoch of a log that an older version created: the same in each process."""
    created = msgspec.convert(info["created"], datetime)
    return Epoch(hashlib.sha256(b"%d" % milliseconds(created)).hexdigest()[:ID_LENGTH], 1)


def extent_in(info: Mapping[str, Any]) -> LogExtent:
    """Return the extent in an answer of STREAM.INFO."""
    state = info["state"]
    return LogExtent(
        epochs=epochs_in(info["config"].get("metadata")) or (derived_epoch(info),),
        first=int(state["first_seq"]) or 1,
        last=int(state["last_seq"]),
    )


async def read_extent(connection: Connection, reaches: int = 0) -> LogExtent:
    """Return the extent of the log of tasks. Raises StoreUnavailable.

    `reaches`: a sequence that it should have reached (see `stream_info`).
    """
    return extent_in(await stream_info(connection, TASKS, reaches))


async def has_event(connection: Connection, event: Position) -> bool:
    """Return True if the log of tasks has an event, or had it and it aged out. Raises StoreUnavailable."""
    extent = await read_extent(connection, reaches=event.sequence)
    if extent.last < event.sequence:
        return False
    return extent.first > event.sequence or await position_at(connection, TASKS, event.sequence) == event
