"""Occurrences of a cron expression in a time zone.

cronsim reads an expression and yields the local times that it names, on a clock that never changes. This module maps
them to instants, because cronsim steps over a change in whole hours and loses runs where it is half an hour
(Australia/Lord_Howe). The rules are those of Debian's cron:

* A **fixed time**, with five fields and no star at the beginning of minute and hour, runs once for each local time. A
  local time that is skipped runs at the first instant after the gap. One that repeats runs the first time.
* Anything else **follows the clock**: it runs at each instant whose local time matches. So it does not run in a gap,
  and runs twice where local times repeat.
"""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
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
STEP = timedelta(hours=12)
"""No zone changes its clock twice within that time."""
NEAR = timedelta(days=2)
"""Longer than any change; the longest, in Pacific/Apia, skipped a day."""
CRON_FIELDS = 5
"""Fields of an expression without seconds."""
NO_OFFSET = timedelta(0)


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
    expression = expression_of(cron)
    zone = UTC if time_zone == "UTC" else zoneinfo.ZoneInfo(time_zone)
    return (
        _following_the_clock(expression, zone, after)
        if follows_the_clock(expression)
        else _fixed(expression, zone, after)
    )


def expression_of(cron: str) -> str:
    """Return the fields that a name such as `@daily` stands for; an expression unchanged."""
    return NAMED.get(cron.strip().lower(), cron)


def follows_the_clock(expression: str) -> bool:
    """Return False for a fixed time, as Debian's cron distinguishes it."""
    fields = expression.split()
    return len(fields) != CRON_FIELDS or fields[0].startswith("*") or fields[1].startswith("*")


def _fixed(expression: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    last = after
    for local in CronSim(expression, after.astimezone(zone).replace(tzinfo=None)):
        # Local times in a gap are all the same instant, and one that repeats may be before `after`.
        if (found := _first_instant(local, zone)) > last:
            yield found
            last = found


def _first_instant(local: datetime, zone: tzinfo) -> datetime:
    """Return the first instant with a local time; if the clock skips it, the first one after the gap."""
    before, after = (local.replace(tzinfo=zone, fold=fold).utcoffset() or NO_OFFSET for fold in (0, 1))
    if after <= before:
        return (local - before).replace(tzinfo=UTC)
    return _change((local - after).replace(tzinfo=UTC), (local - before).replace(tzinfo=UTC), before, zone)


def _following_the_clock(expression: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """Yield matching instants, from one change of the clock to the next: in between, the offset is the same."""
    at, resume_at = after.replace(microsecond=0), after
    while True:
        offset = offset_at(resume_at, zone)
        for local in CronSim(expression, (at + offset).replace(tzinfo=None)):
            found = (local - offset).replace(tzinfo=UTC)
            if (interrupted_at := _interrupted_at(at, found, offset, zone)) is not None:
                resume_at, at = interrupted_at, interrupted_at - RESOLUTION
                break
            yield found
            at = found
        else:
            return


def _interrupted_at(at: datetime, found: datetime, offset: timedelta, zone: tzinfo) -> datetime | None:
    """Return from when the search for the match after `at` must begin again with another offset; None: `found` is it.

    A change moves the clock by less than NEAR, so one that is further from both matches leaves no match in between.
    """
    if found - at <= 2 * NEAR:
        return next_change(at, found, offset, zone)
    return next_change(at, at + NEAR, offset, zone) or found - NEAR


def next_change(at: datetime, end: datetime, offset: timedelta, zone: tzinfo) -> datetime | None:
    """Return the first instant after `at`, up to `end`, at which the offset is another one; None if there is none."""
    while at < end:
        later = min(at + STEP, end)
        if offset_at(later, zone) != offset:
            return _change(at, later, offset, zone)
        at = later
    return None


def _change(early: datetime, late: datetime, offset: timedelta, zone: tzinfo) -> datetime:
    """Return the second after `early`, at most `late`, from which an offset no longer holds; at `late` it does not."""
    while late - early > RESOLUTION:
        middle = early + (late - early) // (2 * RESOLUTION) * RESOLUTION
        if offset_at(middle, zone) == offset:
            early = middle
        else:
            late = middle
    return late


def offset_at(at: datetime, zone: tzinfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or NO_OFFSET


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
