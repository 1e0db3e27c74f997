"""The present load of types, pools and owners: tasks that wait, are held and run, and how many start in a minute.

All of it is kept as events come (figures.py): a value costs a few rows, however many tasks there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw

from ..instants import EPOCH
from .figures import ALL, ATTEMPTS, MINUTE, unpack_flow, unpack_flows

Loaded: TypeAlias = Literal["type", "pool", "owner"]
_PLACE: Mapping[Loaded, int] = {"type": 0, "pool": 1}
_MINUTE = timedelta(minutes=1)
_unpack_dimensions = msgspec.msgpack.Decoder(tuple[Raw, Raw, Raw]).decode
_unpack_values = msgspec.msgpack.Decoder(dict[str, Raw]).decode


class Load(NamedTuple):
    """The tasks of a type, a pool or an owner (token) now."""

    waiting: int = 0
    held: int = 0
    """Those of `waiting` that are in no queue."""
    running: int = 0
    starts_per_minute: float = 0.0
    """Attempts that started, averaged over about the last minute."""


def loads(connection: sqlite3.Connection, of: Loaded, values: Iterable[str], now: datetime) -> dict[str, Load]:
    """Return the loads of some values, also of those that the index does not know."""
    wanted = list(values)
    starts = _owners_starts(connection, wanted, now) if of == "owner" else _starts(connection, of, wanted, now)
    found: dict[str, Load] = {}
    for value in wanted:
        row = connection.execute(
            "SELECT waiting, held, processing FROM sums WHERE dimension = ? AND value = ?", (of, value)
        ).fetchone()
        started = round(starts.get(value, 0.0), 1)
        waiting, held, processing = row or (0, 0, 0)
        found[value] = Load(waiting, held, processing, started)
    return found


def running(connection: sqlite3.Connection, of: Loaded, value: str) -> int:
    """Return how many tasks of a value run: one row."""
    row = connection.execute("SELECT processing FROM sums WHERE dimension = ? AND value = ?", (of, value)).fetchone()
    return int(row[0]) if row else 0


def _minutes(now: datetime) -> list[tuple[int, float]]:
    """Return the present minute and the one before, each with its weight in an average over a minute."""
    this, passed = divmod(now - EPOCH, _MINUTE)
    return [(this, 1.0), (this - 1, 1.0 - passed / _MINUTE)]


def _starts(connection: sqlite3.Connection, of: Loaded, values: Iterable[str], now: datetime) -> dict[str, float]:
    found = dict.fromkeys(values, 0.0)
    for minute, weight in _minutes(now):
        row = connection.execute(
            "SELECT parts FROM figures WHERE unit = ? AND start = ? AND owner = ? AND parts IS NOT NULL",
            (MINUTE, minute, ALL),
        ).fetchone()
        parts = _unpack_values(_unpack_dimensions(row[0])[_PLACE[of]]) if row else {}
        for value in found.keys() & parts.keys():
            found[value] += weight * unpack_flow(parts[value]).get(ATTEMPTS, 0)
    return found


def _owners_starts(connection: sqlite3.Connection, owners: Iterable[str], now: datetime) -> dict[str, float]:
    found = dict.fromkeys(owners, 0.0)
    for minute, weight in _minutes(now):
        for owner in found:
            row = connection.execute(
                "SELECT flows FROM figures WHERE unit = ? AND start = ? AND owner = ?", (MINUTE, minute, owner)
            ).fetchone()
            flows = unpack_flows(row[0]).values() if row else ()
            found[owner] += weight * sum(flow.get(ATTEMPTS, 0) for flow in flows)
    return found


def owners_after(connection: sqlite3.Connection, after: str, limit: int) -> list[str]:
    """Return the first owners (subjects) after one, by name, who have tasks or had some lately."""
    rows = connection.execute("SELECT subject FROM owners WHERE subject > ? ORDER BY subject LIMIT ?", (after, limit))
    return [subject for (subject,) in rows]
