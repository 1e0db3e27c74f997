"""Occurrences of a cron expression in a time zone.

At clock changes the rules are those of Debian's cron, which cronsim follows. A run at a fixed hour that is skipped in
spring runs right after the change; one whose hour repeats in autumn runs once, the first time. An expression with a
star for the hour or the minute, or with seconds, follows real time: it runs in every hour of the day.
"""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

from cronsim import CronSim, CronSimError

from ..errors import InvalidInput

NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
LONGEST_CRON = 200
FIELDS = (("second", 60), ("minute", 60), ("hour", 24), ("day of month", 31), ("month", 12), ("day of week", 7))
"""Each with how many values it has."""
COUNTED = 1_000
"""Most past occurrences that are enumerated."""
RESOLUTION = timedelta(seconds=1)
"""Occurrences are whole seconds."""


def check(cron: str, time_zone: str, now: datetime) -> None:
    """Raise InvalidInput for an invalid expression or zone, and for an expression without any occurrence."""
    if time_zone not in _zones():
        raise InvalidInput(f"{time_zone[:64]!r} is no time zone; give a name such as `Europe/Berlin`", "$.timeZone")
    if len(cron) > LONGEST_CRON:
        raise InvalidInput(f"a cron expression has at most {LONGEST_CRON} characters", "$.cron")
    try:
        following = next_after(cron, time_zone, now)
    except (CronSimError, ValueError) as error:
        expected = "five fields (minute, hour, day of month, month, day of week), six with seconds first"
        names = ", ".join(NAMED)
        raise InvalidInput(f"{error}: a cron expression has {expected}, or is one of {names}", "$.cron") from None
    _check_steps(cron)
    if following is None:
        raise InvalidInput("there is no such time in the next fifty years", "$.cron")


def _check_steps(cron: str) -> None:
    """Raise InvalidInput for a step larger than its field; cronsim would take the first value only."""
    for field, (name, size) in zip(reversed(cron.split()), reversed(FIELDS), strict=False):
        for term in field.split(","):
            _, slash, step = term.partition("/")
            if slash and int(step) > size:
                raise InvalidInput(
                    f"{term!r} steps further than its field goes: the {name} has {size} values, "
                    "so this would name the first alone",
                    "$.cron",
                )


@cache
def _zones() -> frozenset[str]:
    # `localtime` is another zone on each machine.
    return frozenset(zoneinfo.available_timezones() - {"localtime"})


def occurrences(cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """Yield the instants after one, in UTC, each later than the one before."""
    zone = UTC if time_zone == "UTC" else zoneinfo.ZoneInfo(time_zone)
    last = after
    for found in CronSim(NAMED.get(cron.strip().lower(), cron), after.astimezone(zone)):
        # Where the clocks change, several local times are one instant, or one before `after`.
        if (instant := found.astimezone(UTC)) > last:
            yield instant
            last = instant


def next_after(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """Return the first instant after one, None if there is none in fifty years."""
    return next(occurrences(cron, time_zone, after), None)


def first_from(cron: str, time_zone: str, instant: datetime) -> datetime | None:
    """Return the first instant that is not before one."""
    whole = instant.replace(microsecond=0)
    return next_after(cron, time_zone, whole - RESOLUTION if whole == instant else whole)


def upto(cron: str, time_zone: str, first: datetime, end: datetime, most: int) -> list[datetime]:
    """Return the instants from `first`, which is one, until before `end`, the earliest `most` of them."""
    found = itertools.takewhile(lambda instant: instant < end, occurrences(cron, time_zone, first - RESOLUTION))
    return list(itertools.islice(found, most))


def latest(cron: str, time_zone: str, first: datetime, end: datetime, most: int) -> tuple[list[datetime], int]:
    """Return the latest `most` (fewer than COUNTED) instants from `first`, which is one, until before `end`.

    And how many there are in all, counted up to COUNTED. However many there are, few are looked at.
    """
    found = upto(cron, time_zone, first, end, COUNTED)
    count = len(found)
    if count < COUNTED or not most:
        return found[count - most if count > most else 0 :] if most else [], count
    too_early, too_late = first, end
    while not most <= len(found) < COUNTED:
        middle = too_early + (too_late - too_early) / 2
        start = first_from(cron, time_zone, middle)
        found = upto(cron, time_zone, start, end, COUNTED) if start is not None else []
        if len(found) < most:
            too_late = middle
        else:
            too_early = middle
    return found[-most:], count
