"""An owner's newest submissions: bounded, in order, and the same after any repetition."""

from __future__ import annotations

import pytest

from taskstream.projections.submissions import (
    RECENT_LENGTH,
    Recent,
    RecentSubmission,
    add_recent,
    decode_recent,
    encode_recent,
)


def submissions(count: int) -> Recent:
    return [RecentSubmission(3 * number + 1, f"{number:026d}") for number in range(count)]


def folded(given: Recent) -> Recent:
    found: Recent = []
    for submission in given:
        add_recent(found, submission)
    return found


def test_it_keeps_the_newest_in_order() -> None:
    assert folded(submissions(RECENT_LENGTH)) == submissions(RECENT_LENGTH)
    assert folded(submissions(RECENT_LENGTH + 7)) == submissions(RECENT_LENGTH + 7)[7:]


@pytest.mark.parametrize("again", [1, 50, RECENT_LENGTH + 30])
def test_the_end_of_the_log_once_more_changes_nothing(again: int) -> None:
    given = submissions(RECENT_LENGTH + 30)

    assert folded([*given, *given[-again:]]) == folded(given)


def test_it_is_read_back_as_it_was_written() -> None:
    assert decode_recent(encode_recent(submissions(3))) == submissions(3)
