"""When an overflow server helps out."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.server import Overflow
from taskstream.scheduling.overflow import helps_out

MINUTE = timedelta(minutes=1)
NONE = timedelta(0)


@pytest.mark.parametrize(
    ("waiting", "oldest", "begins", "goes_on"),
    [
        (0, NONE, False, False),
        (10, NONE, False, True),
        (11, NONE, True, True),
        (5, NONE, False, False),
        (6, NONE, False, True),
        (1, MINUTE, True, True),
        (1, MINUTE / 2, False, True),
        (1, MINUTE / 3, False, False),
        (0, MINUTE, False, False),
    ],
)
def test_it_begins_at_either_bound_and_goes_on_to_half_of_it(
    waiting: int, oldest: timedelta, begins: bool, goes_on: bool
) -> None:
    overflow = Overflow(waiting=10, oldest=MINUTE)

    assert helps_out(overflow, waiting, oldest, helping=False) == begins
    assert helps_out(overflow, waiting, oldest, helping=True) == goes_on


def test_a_bound_that_is_not_given_is_never_reached() -> None:
    assert not helps_out(Overflow(waiting=10), 1, 100 * MINUTE, helping=False)
    assert not helps_out(Overflow(oldest=MINUTE), 10_000, NONE, helping=False)


@given(st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_nothing_that_waits_is_nothing_to_help_with(bound: int, seconds: int, helping: bool) -> None:
    overflow = Overflow(waiting=bound, oldest=timedelta(seconds=1))

    assert not helps_out(overflow, 0, timedelta(seconds=seconds), helping=helping)
