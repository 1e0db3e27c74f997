"""A cron expression for people: in words, and what it does where clocks change."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from cronsim import CronSim

from .recurrence import RESOLUTION, expression_of, follows_the_clock, next_change, offset_at

LOOKED_AHEAD = timedelta(days=400)
"""How far changes of the clock are looked for: each zone that changes it every year does so twice within that time."""
HOURS_OF_A_DAY = 24
LONGEST_WORDS = 500
"""Characters; an expression may list every minute."""


class ClockChange(NamedTuple):
    """An instant at which a clock is set."""

    at: datetime
    """UTC."""
    start: datetime
    """The first local time that is skipped, or that comes again. Without a zone."""
    end: datetime
    """The first one after these."""
    skips: bool
    """True: local times are skipped. False: they repeat."""


def cron_words(cron: str) -> str:
    """Return a valid expression in words, as in `At 02:30 every day`."""
    text = CronSim(expression_of(cron), datetime(2000, 1, 1)).explain()  # noqa: DTZ001 - local times
    return text if len(text) <= LONGEST_WORDS else f"{text[:LONGEST_WORDS]}…"


def clock_warnings(cron: str, time_zone: str, now: datetime) -> list[str]:
    """Return a sentence for the next time that skipped hours concern an expression, and for repeated ones.

    None for an expression that runs in every hour: it just follows the clock.
    """
    expression = expression_of(cron)
    if follows_the_clock(expression) and len(CronSim(expression, _naive(now)).hours) == HOURS_OF_A_DAY:
        return []
    zone = UTC if time_zone == "UTC" else zoneinfo.ZoneInfo(time_zone)
    found: dict[bool, str] = {}
    for change in clock_changes(zone, now):
        if change.skips not in found and (local := _first_in(expression, change)) is not None:
            found[change.skips] = _warning(change, local, fixed=not follows_the_clock(expression))
    return [found[skips] for skips in sorted(found, reverse=True)]


def clock_changes(zone: tzinfo, now: datetime) -> Iterator[ClockChange]:
    """Yield the changes of a zone's clock within LOOKED_AHEAD, in order."""
    at, end = now.replace(microsecond=0), now + LOOKED_AHEAD
    while True:
        before = offset_at(at, zone)
        changed = next_change(at, end, before, zone)
        if changed is None:
            return
        after = offset_at(changed, zone)
        first, last = sorted((_naive(changed + before), _naive(changed + after)))
        yield ClockChange(changed, first, last, skips=after > before)
        at = changed


def _first_in(expression: str, change: ClockChange) -> datetime | None:
    """Return the first local time of an expression that a change skips or repeats; None if there is none."""
    local = next(CronSim(expression, change.start - RESOLUTION), None)
    return local if local is not None and local < change.end else None


def _warning(change: ClockChange, local: datetime, *, fixed: bool) -> str:
    day = f"{change.start:%Y-%m-%d}"
    span = f"{change.start:%H:%M} to {change.end:%H:%M}"
    if change.skips:
        then = f"runs at {change.end:%H:%M} instead" if fixed else "has no run for them"
        return f"On {day} clocks skip the times from {span}, {local:%H:%M} among them: the schedule {then}."
    then = "runs once, the first time" if fixed else "runs both times"
    return f"On {day} clocks show the times from {span} twice, {local:%H:%M} among them: the schedule {then}."


def _naive(at: datetime) -> datetime:
    return at.replace(tzinfo=None)
