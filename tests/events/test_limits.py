"""Limits of an owner or a type."""

from __future__ import annotations

import pytest

from taskstream.events.limits import NO_LIMITS, Limits


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (NO_LIMITS, None),
        (Limits(concurrency=3, burst=9), None),
        (Limits(per_second=0.1), 1),
        (Limits(per_second=1.0), 1),
        (Limits(per_second=2.5), 3),
        (Limits(per_second=40.0, burst=7), 7),
        (Limits(per_second=0.5, burst=1), 1),
    ],
    ids=str,
)
def test_as_many_start_at_once_as_the_burst_says_or_the_rate_and_at_least_one(limits: Limits, most: int | None) -> None:
    assert limits.most_at_once == most


def test_a_burst_alone_is_no_limit() -> None:
    assert not NO_LIMITS.is_any
    assert not Limits(burst=5).is_any
    assert Limits(concurrency=1).is_any
    assert Limits(per_second=1.0).is_any
    assert Limits(concurrency=1, per_second=1.0).is_any
