"""Occurrences around every change of the clock in every zone, against an oracle that goes minute by minute.

The oracle uses no library of cron expressions. It has the two rules of Debian's cron: what follows the clock runs
whenever the local time matches; a fixed time runs when the local clock first reaches or passes it.
"""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest

from taskstream.commands import recurrence
from taskstream.commands.recurrence import _zones, check, next_after, occurrences
from taskstream.errors import InvalidInput

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
YEARS = (datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

FOLLOWING = [
    "*/5 * * * *",
    "30 * * * *",
    "*/30 0 * * *",
    "*/20 * * * *",
    "0 */2 * * *",
    "7 * * * *",
    "*/15 1-3 * * *",
    "0,45 * * * *",
]
FIXED = ["30 2 * * *", "0 0 * * *", "15 2 * * *", "45 1 * * *", "0,30 0-4 * * *", "59 23 * * *", "5-10 1,2,3 * * *"]


class Change(NamedTuple):
    """A change of a zone's clock."""

    at: datetime
    before: timedelta
    after: timedelta


def offset(at: datetime, zone: ZoneInfo) -> timedelta:
    found = at.astimezone(zone).utcoffset()
    assert found is not None
    return found


def changes(zone: ZoneInfo, begin: datetime, end: datetime) -> Iterator[Change]:
    """Yield the changes of a zone's clock, looked for once a day and then to the minute."""
    at, known = begin, offset(begin, zone)
    while at < end:
        later = at + DAY
        if (new := offset(later, zone)) != known:
            while offset(at, zone) == known:
                at += MINUTE
            yield Change(at, known, new)
            known = new
        at = later


# The oracle


def matcher(field: str, values: range) -> frozenset[int]:
    """Return the values of a field of the few forms that the tables use."""
    found: set[int] = set()
    for term in field.split(","):
        term, _, step = term.partition("/")  # noqa: PLW2901
        first, _, last = term.partition("-")
        chosen = values if term == "*" else range(int(first), int(last or first) + 1)
        found.update(chosen[:: int(step or 1)])
    return frozenset(found)


def minutes_of(cron: str) -> Callable[[datetime], bool]:
    minute, hour, *_ = cron.split()
    minutes, hours = matcher(minute, range(60)), matcher(hour, range(24))
    return lambda local: local.minute in minutes and local.hour in hours


def following_the_clock(cron: str, clock: list[tuple[datetime, datetime]]) -> list[datetime]:
    matches = minutes_of(cron)
    return [at for at, local in clock if matches(local)]


def fixed(cron: str, clock: list[tuple[datetime, datetime]]) -> list[datetime]:
    matches = minutes_of(cron)
    found = []
    reached = clock[0][1] - MINUTE
    for at, local in clock:
        due = False
        while reached < local:
            reached += MINUTE
            due = due or matches(reached)
        if due:
            found.append(at)
    return found


def clock_around(change: Change, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """Return the minutes around a change, each with its local time."""
    reach = timedelta(hours=4) + 2 * abs(change.after - change.before)
    count = 2 * reach // MINUTE
    at = [change.at - reach + number * MINUTE for number in range(count)]
    return [(each, each.astimezone(zone).replace(tzinfo=None)) for each in at]


def found_in(cron: str, name: str, clock: list[tuple[datetime, datetime]]) -> list[datetime]:
    start, end = clock[0][0] - timedelta(seconds=1), clock[-1][0]
    return list(itertools.takewhile(lambda at: at <= end, occurrences(cron, name, start)))


def disagreements(name: str, change: Change) -> list[str]:
    clock = clock_around(change, ZoneInfo(name))
    expected = {cron: following_the_clock(cron, clock) for cron in FOLLOWING} | {
        cron: fixed(cron, clock) for cron in FIXED
    }
    return [
        f"{cron} in {name} at {change.at}: {found} instead of {wanted}"
        for cron, wanted in expected.items()
        if (found := found_in(cron, name, clock)) != wanted
    ]


# Every zone, and the changes of the past that no rule foresaw


def test_every_change_of_every_zone_in_two_years_is_as_an_oracle_says() -> None:
    first_with: dict[tuple[Change, ...], str] = {}
    for name in sorted(_zones()):
        first_with.setdefault(tuple(changes(ZoneInfo(name), *YEARS)), name)
    once: dict[Change, str] = {}
    for found, name in first_with.items():
        for change in found:
            once.setdefault(change, name)

    assert [line for change, name in once.items() for line in disagreements(name, change)] == []
    assert len(once) > 50
    assert {abs(change.after - change.before) for change in once} >= {timedelta(minutes=30), timedelta(hours=2)}


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("Pacific/Apia", "2011-12-30"),  # a whole day is skipped
        ("Pacific/Kwajalein", "1993-08-21"),
        ("Asia/Pyongyang", "2015-08-14"),  # back by half an hour
        ("Asia/Pyongyang", "2018-05-04"),
        ("America/Caracas", "2016-05-01"),
        ("Asia/Kathmandu", "1985-12-31"),  # forward by a quarter of an hour
        ("America/St_Johns", "2006-10-29"),  # at one minute past midnight
        ("America/Sao_Paulo", "2018-02-17"),  # at midnight, back into the day before
        ("America/Havana", "2026-11-01"),
        ("Antarctica/Troll", "2026-03-28"),  # by two hours
        ("Africa/Casablanca", "2026-02-14"),
        ("Australia/Lord_Howe", "2026-04-04"),
    ],
)
def test_unusual_changes_are_as_an_oracle_says(name: str, day: str) -> None:
    begin = datetime.fromisoformat(f"{day}T00:00:00+00:00") - timedelta(days=1)

    (change,) = changes(ZoneInfo(name), begin, begin + timedelta(days=3))

    assert disagreements(name, change) == []


@pytest.mark.parametrize("name", ["Australia/Lord_Howe", "Antarctica/Troll", "Europe/Berlin", "America/Havana"])
def test_a_rare_run_on_the_day_of_a_change_is_as_an_oracle_says(name: str) -> None:
    """However long before the search begins."""
    for change in changes(ZoneInfo(name), *YEARS):
        clock = clock_around(change, ZoneInfo(name))
        day = clock[len(clock) // 2][1]
        for cron in FOLLOWING:
            rare = " ".join([*cron.split()[:2], str(day.day), str(day.month), "*"])
            wanted = [
                at for at in following_the_clock(cron, clock) if at.astimezone(ZoneInfo(name)).date() == day.date()
            ]
            found = occurrences(rare, name, clock[0][0] - timedelta(days=70))
            begin = itertools.dropwhile(lambda at, first=clock[0][0]: at < first, found)
            assert list(itertools.takewhile(lambda at, last=clock[-1][0]: at <= last, begin)) == wanted, (rare, name)


# The instances


@pytest.mark.parametrize(
    ("cron", "start", "expected"),
    [
        ("30 * * * *", "2026-10-03T13:30", ["00:30+1030", "01:30+1030", "02:30+1100", "03:30+1100"]),
        ("30 * * * *", "2026-04-04T13:00", ["00:30+1100", "01:30+1100", "01:30+1030", "02:30+1030"]),
        ("*/30 0 * * *", "2026-10-03T13:00", ["00:00+1030", "00:30+1030", "00:00+1100", "00:30+1100"]),
        ("*/30 0 * * *", "2026-04-04T12:00", ["00:00+1100", "00:30+1100", "00:00+1030", "00:30+1030"]),
        ("15 2 * * *", "2026-10-03T12:00", ["02:30+1100", "02:15+1100"]),
        ("45 1 * * *", "2026-04-04T12:00", ["01:45+1100", "01:45+1030"]),
        ("0 45 1 * * *", "2026-04-04T12:00", ["01:45+1100", "01:45+1030", "01:45+1030"]),
    ],
)
def test_half_an_hour_on_lord_howe_loses_no_run(cron: str, start: str, expected: list[str]) -> None:
    zone = "Australia/Lord_Howe"
    found = itertools.islice(occurrences(cron, zone, datetime.fromisoformat(f"{start}+00:00")), len(expected))

    assert [f"{at.astimezone(ZoneInfo(zone)):%H:%M%z}" for at in found] == expected


# What takes long to find


@pytest.mark.parametrize(
    ("cron", "found"),
    [
        ("0 0 29 2 *", "2028-02-29T00:00:00+01:00"),
        ("*/5 * 29 2 *", "2028-02-29T00:00:00+01:00"),
        ("* * 29 2 */7", "2032-02-29T00:00:00+01:00"),
    ],
)
def test_a_rare_day_is_found_years_away(cron: str, found: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert next_after(cron, "Europe/Berlin", now) == datetime.fromisoformat(found)
    check(cron, "Europe/Berlin", now)


def test_runs_that_are_decades_apart_cost_few_looks_at_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of schedules shows the next runs of each."""
    looks = 0

    def counted(at: datetime, zone: tzinfo) -> timedelta:
        nonlocal looks
        looks += 1
        return offset_of(at, zone)

    offset_of = recurrence.offset_at
    monkeypatch.setattr(recurrence, "offset_at", counted)

    found = list(itertools.islice(occurrences("0 0 0 29 2 */7", "Europe/Berlin", YEARS[0]), 5))

    assert [at.astimezone(ZoneInfo("Europe/Berlin")).year for at in found] == [2032, 2060, 2088, 2128, 2156]
    assert looks < 100


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "* * 30 2 *", "0 0 31 4,6 *", "* * * 2 */7#5"])
def test_a_day_that_never_comes_is_refused(cron: str) -> None:
    with pytest.raises(InvalidInput):
        check(cron, "Australia/Lord_Howe", datetime(2026, 1, 1, tzinfo=UTC))


def test_the_zones_are_those_of_the_system() -> None:
    assert _zones() == zoneinfo.available_timezones() - {"localtime"}
