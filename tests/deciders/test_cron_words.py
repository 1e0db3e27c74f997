"""Cron expressions for people: in words, and what happens where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.commands.cron_words import LONGEST_WORDS, clock_changes, clock_warnings, cron_words
from taskstream.commands.recurrence import check, occurrences
from taskstream.errors import InvalidInput

NOW = datetime(2026, 11, 30, tzinfo=UTC)
BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("30 2 * * *", "At 02:30 every day"),
        ("*/15 * * * *", "Every 15th minute of every hour"),
        ("0 9-17 * * MON-FRI", "At minute 0 past every hour from 9 through 17 on Monday through Friday"),
        ("0 0 L * *", "At 00:00 on the last day of every month"),
        ("0 0 * * 1#2", "At 00:00 on the second Monday of the month"),
        ("*/10 * * * * *", "Every 10th second of every minute"),
        ("@daily", "At 00:00 every day"),
        (" @Weekly ", "At 00:00 on Sunday"),
    ],
)
def test_an_expression_is_said_in_words(cron: str, words: str) -> None:
    assert cron_words(cron) == words


@pytest.mark.parametrize(
    ("cron", "zone", "says"),
    [
        ("30 2 * * *", BERLIN, ["2027-03-28 clocks skip the times from 02:00 to 03:00, 02:30", "at 03:00 instead"]),
        ("30 2 * * *", BERLIN, ["2027-10-31 clocks show the times from 02:00 to 03:00 twice", "once, the first time"]),
        ("*/30 2 * * *", BERLIN, ["2027-03-28", "has no run for them"]),
        ("*/30 2 * * *", BERLIN, ["2027-10-31", "runs both times"]),
        ("0 30 2 * * *", BERLIN, ["2027-03-28", "has no run for them"]),
        ("45 1 * * *", "Australia/Lord_Howe", ["2027-04-04 clocks show the times from 01:30 to 02:00 twice, 01:45"]),
        ("15 2 * * *", "Australia/Lord_Howe", ["2027-10-03 clocks skip the times from 02:00 to 02:30, 02:15"]),
    ],
)
def test_a_warning_names_the_day_and_what_happens_then(cron: str, zone: str, says: list[str]) -> None:
    warnings = clock_warnings(cron, zone, NOW)

    assert any(all(text in warning for text in says) for warning in warnings), warnings


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("30 2 * * *", "UTC"),
        ("30 2 * * *", "Asia/Tokyo"),
        ("30 4 * * *", BERLIN),
        ("*/15 * * * *", BERLIN),
        ("30 2 1 * *", BERLIN),
        ("30 2 * 5 *", BERLIN),
    ],
)
def test_an_expression_that_no_change_concerns_has_no_warning(cron: str, zone: str) -> None:
    assert clock_warnings(cron, zone, NOW) == []


def test_the_changes_of_a_year_are_those_of_the_zone() -> None:
    changes = list(clock_changes(ZoneInfo(BERLIN), NOW))

    assert [(change.at.isoformat(), change.skips) for change in changes] == [
        ("2027-03-28T01:00:00+00:00", True),
        ("2027-10-31T01:00:00+00:00", False),
    ]


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 1-3 * * *", "0 15,45 2 * * *"])
@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Australia/Lord_Howe", "Antarctica/Troll"])
def test_an_announced_run_is_among_the_runs_exactly_as_announced(cron: str, zone: str) -> None:
    clock = ZoneInfo(zone)
    for change in clock_changes(clock, NOW):
        day = change.at - timedelta(hours=3)
        runs = list(islice(occurrences(cron, zone, day), 40))
        local = [run.astimezone(clock).replace(tzinfo=None) for run in runs]
        inside = [at for at in local if change.start <= at < change.end]
        said = [each for each in clock_warnings(cron, zone, NOW) if f"{change.start:%Y-%m-%d}" in each]
        if change.skips:
            assert inside == []
            instead = any("instead" in each for each in said)
            assert not instead or change.end in local
        elif any("both times" in each for each in said):
            assert len(inside) == 2 * len(set(inside)) > 0
        elif said:
            assert len(inside) == len(set(inside)) > 0


FIELD = st.one_of(
    st.sampled_from(["*", "*/5", "1-5", "L", "LW", "5L", "1#2", "MON", "JAN,MAR", "1,2,3,5,8", "0-6/2", "7/3"]),
    st.integers(0, 60).map(str),
    st.lists(st.integers(0, 31), min_size=1, max_size=20).map(lambda numbers: ",".join(map(str, numbers))),
)


@given(st.lists(FIELD, min_size=5, max_size=6).map(" ".join))
def test_every_valid_expression_has_words_of_bounded_length(cron: str) -> None:
    try:
        check(cron, BERLIN, NOW)
    except InvalidInput:
        return

    assert 0 < len(cron_words(cron)) <= LONGEST_WORDS + 1
    assert len(clock_warnings(cron, BERLIN, NOW)) <= 2
