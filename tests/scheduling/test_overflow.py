"""When an overflow server helps out."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.server import Overflow
from taskstream.scheduling.overflow import allowance

MINUTE = timedelta(minutes=1)
NONE = timedelta(0)


@pytest.mark.parametrize(
    ("waiting", "oldest", "begins", "goes_on"),
    [
        (0, NONE, 0, 0),
        (10, NONE, 0, 5),
        (11, NONE, 6, 6),
        (5, NONE, 0, 0),
        (6, NONE, 0, 1),
        (1, MINUTE, 1, 1),
        (4, MINUTE, 2, 2),
        (1, MINUTE / 2, 0, 1),
        (1, MINUTE / 3, 0, 0),
        (0, MINUTE, 0, 0),
    ],
)
def test_it_begins_at_either_bound_and_goes_on_to_half_of_it(
    waiting: int, oldest: timedelta, begins: int, goes_on: int
) -> None:
    overflow = Overflow(waiting=10, oldest=MINUTE)

    assert allowance(overflow, waiting, oldest, 2, helping=False) == begins
    assert allowance(overflow, waiting, oldest, 2, helping=True) == goes_on


def test_a_bound_that_is_not_given_is_never_reached() -> None:
    assert not allowance(Overflow(waiting=10), 1, 100 * MINUTE, 2, helping=False)
    assert not allowance(Overflow(oldest=MINUTE), 10_000, NONE, 2, helping=False)


@given(st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_nothing_that_waits_is_nothing_to_help_with(bound: int, seconds: int, helping: bool) -> None:
    overflow = Overflow(waiting=bound, oldest=timedelta(seconds=1))

    assert not allowance(overflow, 0, timedelta(seconds=seconds), 2, helping=helping)
