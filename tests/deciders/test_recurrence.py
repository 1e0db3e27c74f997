"""When a cron expression comes, also where the clocks change."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskstream.commands import recurrence
from taskstream.commands.recurrence import check, first_from, latest, next_after, occurrences, upto
from taskstream.errors import InvalidInput

from .support import NOW, seconds

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def local_day(cron: str, zone: str, day: str) -> list[str]:
    """Return the wall-clock times, with their offset, at which something recurs on a day of a zone."""
    midnight = at(day).replace(tzinfo=ZoneInfo(zone))
    first = midnight.astimezone(UTC)
    end = (midnight + timedelta(days=1)).astimezone(UTC)
    found = upto(cron, zone, first, end, 10_000)
    return [f"{instant.astimezone(ZoneInfo(zone)):%H:%M%z}" for instant in found]


# A day of each kind


@pytest.mark.parametrize(
    ("zone", "day", "hours", "before", "after"),
    [
        (BERLIN, "2026-03-29", 23, "+0100", "+0200"),
        (BERLIN, "2026-10-25", 25, "+0200", "+0100"),
        (BERLIN, "2026-06-01", 24, "+0200", "+0200"),
        (NEW_YORK, "2026-03-08", 23, "-0500", "-0400"),
        (NEW_YORK, "2026-11-01", 25, "-0400", "-0500"),
    ],
)
def test_what_comes_each_hour_comes_in_each_hour_that_the_day_has(
    zone: str, day: str, hours: int, before: str, after: str
) -> None:
    found = local_day("0 * * * *", zone, day)

    assert len(found) == hours
    assert (found[0], found[-1]) == (f"00:00{before}", f"23:00{after}")
    assert len(local_day("*/15 * * * *", zone, day)) == hours * 4


@pytest.mark.parametrize(
    ("cron", "zone", "day", "found"),
    [
        # Spring: between two and three there is nothing.
        ("30 2 * * *", BERLIN, "2026-03-28", ["02:30+0100"]),
        ("30 2 * * *", BERLIN, "2026-03-29", ["03:00+0200"]),
        ("30 2 * * *", BERLIN, "2026-03-30", ["02:30+0200"]),
        ("0,30 2,3 * * *", BERLIN, "2026-03-29", ["03:00+0200", "03:30+0200"]),
        ("30 1,3 * * *", BERLIN, "2026-03-29", ["01:30+0100", "03:30+0200"]),
        ("30 2 * * *", NEW_YORK, "2026-03-08", ["03:00-0400"]),
        # Autumn: between two and three in Berlin, one and two in New York, there is everything twice.
        ("30 2 * * *", BERLIN, "2026-10-25", ["02:30+0200"]),
        ("0 2,3 * * *", BERLIN, "2026-10-25", ["02:00+0200", "03:00+0100"]),
        ("30 1-3/1 * * *", BERLIN, "2026-10-25", ["01:30+0200", "02:30+0200", "03:30+0100"]),
        ("*/30 2 * * *", BERLIN, "2026-10-25", ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"]),
        ("30 1 * * *", NEW_YORK, "2026-11-01", ["01:30-0400"]),
        ("15 0-3 * * *", NEW_YORK, "2026-11-01", ["00:15-0400", "01:15-0400", "02:15-0500", "03:15-0500"]),
        # Seconds follow real time.
        ("0 30 2 * * *", BERLIN, "2026-03-29", []),
        ("0 30 2 * * *", BERLIN, "2026-10-25", ["02:30+0200", "02:30+0100"]),
    ],
)  # fmt: skip
def test_the_change_of_clocks_means_what_debians_cron_makes_of_it(
    cron: str, zone: str, day: str, found: list[str]
) -> None:
    assert local_day(cron, zone, day) == found


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "UTC", "Asia/Kolkata", "Pacific/Apia"])
@pytest.mark.parametrize("year", [2025, 2026])
def test_once_a_day_is_once_on_each_day_of_a_year(zone: str, year: int) -> None:
    found = list(itertools.islice(occurrences("30 2 * * *", zone, datetime(year, 1, 1, tzinfo=UTC)), 364))

    days = [instant.astimezone(ZoneInfo(zone)).date() for instant in found]
    assert [later - earlier for earlier, later in itertools.pairwise(days)] == [timedelta(days=1)] * 363


@pytest.mark.parametrize(("name", "cron"), recurrence.NAMED.items())
def test_a_name_is_what_it_stands_for(name: str, cron: str) -> None:
    assert next_after(f" {name.upper()}", BERLIN, NOW) == next_after(cron, BERLIN, NOW)


# What holds of all

minutes = st.sampled_from(["*", "*/7", "0", "30", "0,30", "59", "5-10"])
hours = st.sampled_from(["*", "*/3", "0", "1", "2", "3", "1-3", "23"])
days = st.sampled_from(["*", "1", "29", "L", "*/10"])
weekdays = st.sampled_from(["*", "SUN", "1-5", "0#1", "7L"])
crons = st.builds("{} {} {} * {}".format, minutes, hours, days, weekdays)
zones = st.sampled_from([BERLIN, NEW_YORK, "UTC", "Asia/Kolkata", "America/Havana"])
CHANGES = [at(f"{day}T01:00:00+00:00") for day in ("2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01")]
around_changes = st.builds(
    lambda change, minutes: change + timedelta(minutes=minutes), st.sampled_from(CHANGES), st.integers(-300, 600)
)
some_day = st.integers(0, 365 * 86_400).map(lambda number: at("2026-01-01T00:00:00+00:00") + seconds(number))
instants = st.one_of(around_changes, some_day)


@settings(max_examples=200)
@example("30 2 * * *", BERLIN, at("2026-10-25T00:00:00+00:00"), at("2026-10-25T01:15:00+00:00"))
@example("30 1 * * *", NEW_YORK, at("2026-11-01T05:00:00+00:00"), at("2026-11-01T06:15:00+00:00"))
@example("0,30 2,3 * * *", BERLIN, at("2026-03-29T00:30:00+00:00"), at("2026-03-29T01:00:00+00:00"))
@given(crons, zones, instants, instants)
def test_wherever_one_begins_to_look_one_sees_the_same(cron: str, zone: str, one: datetime, other: datetime) -> None:
    early, late = sorted((one, other))
    late = min(late, early + timedelta(days=4))
    end = late + timedelta(days=3)

    seen = [found for found in itertools.takewhile(lambda at: at < end, occurrences(cron, zone, early)) if found > late]

    assert seen == list(itertools.takewhile(lambda at: at < end, occurrences(cron, zone, late)))
    assert all(earlier < later for earlier, later in itertools.pairwise(seen))


@settings(max_examples=100)
@given(crons, zones, instants, st.integers(1, 30), st.sampled_from([0, 1, 5, 60]))
def test_the_latest_are_the_end_of_all(cron: str, zone: str, start: datetime, span_days: int, most: int) -> None:
    first = first_from(cron, zone, start)
    assert first is not None
    assert first >= start
    end = start + timedelta(days=span_days)

    all_of_them = upto(cron, zone, first, end, 100_000)

    found, count = latest(cron, zone, first, end, most)
    assert found == (all_of_them[-most:] if most else [])
    assert count == min(len(all_of_them), recurrence.COUNTED)


def test_the_latest_of_very_many_are_found_without_looking_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    def counted(cron: str, zone: str, first: datetime, end: datetime, most: int) -> list[datetime]:
        nonlocal looked_at
        found = upto(cron, zone, first, end, most)
        looked_at += len(found)
        return found

    monkeypatch.setattr(recurrence, "upto", counted)
    first = at("2020-01-01T00:00:00+00:00")
    end = first + timedelta(days=2_000)

    found, count = latest("* * * * 1 *", "UTC", first, end, 100)

    assert (found[-1], len(found), count) == (at("2025-01-31T23:59:59+00:00"), 100, recurrence.COUNTED)
    assert looked_at < 40 * recurrence.COUNTED


# What is refused


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=30), st.text("0123456789*/-,LW# MONAUG@", max_size=30), crons))
def test_whatever_is_given_is_taken_or_refused_with_its_place(cron: str) -> None:
    refused = None
    try:
        check(cron, BERLIN, NOW)
    except InvalidInput as error:
        refused = error

    assert refused.path == "$.cron" if refused else next_after(cron, BERLIN, NOW) is not None


@pytest.mark.parametrize("cron", ["", "* * * *", "60 * * * *", "0 0 30 2 *", "* * */20 * 1L", "0 0 * * 8", "@reboot"])
def test_no_time_is_refused(cron: str) -> None:
    with pytest.raises(InvalidInput):
        check(cron, "UTC", NOW)


@pytest.mark.parametrize(
    "cron", ["*/90 * * * *", "0 */25 * * *", "1,5-9/61 * * * *", "*/61 * * * * *", "0 0 */32 * *", "0 0 1 */13 *"]
)
def test_a_step_beyond_its_field_is_refused(cron: str) -> None:
    with pytest.raises(InvalidInput, match="further than its field"):
        check(cron, "UTC", NOW)


def test_a_step_as_long_as_its_field_is_taken() -> None:
    assert next_after("*/60 * * * *", "UTC", NOW) == next_after("@hourly", "UTC", NOW)
    for cron in ("*/60 * * * *", "0 */24 * * *", "*/60 * * * * *", "0 0 */31 * *", "0 0 1 */12 *", "0 0 * * */7"):
        check(cron, "UTC", NOW)


@pytest.mark.parametrize(
    "zone", ["", "Berlin", "../etc/passwd", "/etc/localtime", "localtime", "America", "europe/berlin"]
)
def test_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidInput, match="no time zone") as refused:
        check("@daily", zone, NOW)
    assert refused.value.path == "$.timeZone"


def test_the_next_is_later_than_now_by_however_little() -> None:
    assert next_after("0 0 * * *", "UTC", at("2026-01-02T00:00:00+00:00")) == at("2026-01-03T00:00:00+00:00")
    assert first_from("0 0 * * *", "UTC", at("2026-01-02T00:00:00+00:00")) == at("2026-01-02T00:00:00+00:00")
    assert next_after("0 0 * * *", "UTC", at("2026-01-01T23:59:59.999+00:00")) == at("2026-01-02T00:00:00+00:00")
    assert first_from("* * * * * *", "UTC", NOW + seconds(0.5)) == NOW + seconds(1)


def test_an_expression_has_two_hundred_characters_at_most() -> None:
    longest = f"{','.join(['0'] * 96)} * * * *"
    assert len(longest) == 199

    check(f"{longest} ", "UTC", NOW)
    with pytest.raises(InvalidInput) as refused:
        check(f"{longest}  ", "UTC", NOW)
    assert (refused.value.path, refused.value.detail) == ("$.cron", "a cron expression has at most 200 characters")


@pytest.mark.parametrize(
    ("cron", "term", "name", "size"),
    [
        ("*/61 * * * * *", "*/61", "second", 60),
        ("*/61 * * * *", "*/61", "minute", 60),
        ("0 1,*/25 * * *", "*/25", "hour", 24),
        ("0 0 */32 * *", "*/32", "day of month", 31),
        ("0 0 1 */13 *", "*/13", "month", 12),
        ("0 0 * * */8", "*/8", "day of week", 7),
    ],
)
def test_a_step_beyond_its_field_is_named_with_the_size_of_the_field(
    cron: str, term: str, name: str, size: int
) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(cron, "UTC", NOW)
    expected = f"{term!r} steps further than its field goes: the {name} has {size} values, "
    assert refused.value.detail.startswith(expected)
    assert refused.value.path == "$.cron"


def test_no_more_than_a_thousand_past_occurrences_are_counted() -> None:
    first = at("2026-01-01T00:00:00+00:00")

    assert latest("* * * * * *", "UTC", first, first + seconds(999), 0) == ([], 999)
    assert latest("* * * * * *", "UTC", first, first + seconds(1_000), 0) == ([], 1_000)
    assert latest("* * * * * *", "UTC", first, first + seconds(5_000), 0) == ([], 1_000)
    found, count = latest("* * * * * *", "UTC", first, first + seconds(5_000), 2)
    assert (found, count) == ([first + seconds(4_998), first + seconds(4_999)], 1_000)
    assert upto("* * * * * *", "UTC", first, first + seconds(3), 2) == [first, first + seconds(1)]
    assert upto("* * * * * *", "UTC", first, first + seconds(2), 9) == [first, first + seconds(1)]
