"""What may be done with an owner's limits, and what they come to."""

from __future__ import annotations

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.commands import owner
from taskstream.commands.owner import (
    NEVER_LIMITED,
    UNLIMITED,
    Allowance,
    LimitOwner,
    OwnerState,
    RemoveOwnerLimits,
    allowance,
)
from taskstream.events.limits import NO_LIMITS, Limits
from taskstream.events.owner import OwnerLimited, OwnerLimitsRemoved

from .support import Given

given = Given(owner.decide, owner.evolve, NEVER_LIMITED)
FIVE = OwnerLimited(owner="alice", concurrency=5)
REMOVED = OwnerLimitsRemoved(owner="alice")
SERVICE = Allowance(limits=Limits(concurrency=10, per_second=2.0, burst=4), waiting=100, stored=1_000)


def test_limits_are_set_once() -> None:
    after = given.when(LimitOwner(limits=FIVE)).then(FIVE)

    after.is_quiet()
    assert after.given.state.own == FIVE


def test_limits_set_otherwise_replace_all_there_were() -> None:
    rate = OwnerLimited(owner="alice", per_second=2.0)

    assert given(FIVE).when(LimitOwner(limits=rate)).then(rate).given.state.own == rate


def test_limits_are_removed_once() -> None:
    after = given(FIVE).when(RemoveOwnerLimits(owner="alice")).then(REMOVED)

    after.is_quiet()
    assert after.given.state == NEVER_LIMITED


def test_there_is_nothing_to_remove_where_nothing_was_set() -> None:
    given.when(RemoveOwnerLimits(owner="alice")).is_quiet()


def test_removed_limits_can_be_set_again() -> None:
    given(FIVE, REMOVED).when(LimitOwner(limits=FIVE)).then(FIVE).is_quiet()


# What they come to


def effective(service: Allowance = SERVICE, **own: float) -> Allowance:
    return allowance(OwnerState(own=OwnerLimited(owner="alice", **own)), service)  # type: ignore[arg-type]


def test_an_owner_without_limits_of_their_own_has_the_services() -> None:
    assert allowance(NEVER_LIMITED, SERVICE) == SERVICE
    assert effective() == SERVICE


def test_what_is_an_owners_own_comes_before_the_services() -> None:
    assert effective(concurrency=1, waiting=5) == Allowance(
        limits=Limits(concurrency=1, per_second=2.0, burst=4), waiting=5, stored=1_000
    )
    assert effective(stored=7) == replace(SERVICE, stored=7)


def test_an_owner_with_a_rate_of_their_own_has_not_the_services_burst() -> None:
    assert effective(per_second=1.5).limits == Limits(concurrency=10, per_second=1.5)
    assert effective(per_second=1.5, burst=9).limits == Limits(concurrency=10, per_second=1.5, burst=9)


def test_nothing_is_no_limit_whatever_the_service_says() -> None:
    assert effective(concurrency=0, per_second=0.0, waiting=0, stored=0) == UNLIMITED


def test_an_owner_may_be_limited_where_the_service_is_not() -> None:
    assert effective(UNLIMITED, concurrency=1, per_second=0.1).limits == Limits(concurrency=1, per_second=0.1)


@given_any(
    st.none() | st.integers(0, 3),
    st.none() | st.sampled_from([0.0, 0.5, 2.0]),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
)
def test_an_owner_with_all_limits_has_none_of_the_services(
    concurrency: int | None, per_second: float | None, waiting: int | None, stored: int | None
) -> None:
    own = {
        "concurrency": concurrency or 0,
        "per_second": per_second or 0.0,
        "waiting": waiting or 0,
        "stored": stored or 0,
    }

    assert effective(SERVICE, **own) == effective(UNLIMITED, **own)


# Limits


def test_limits_are_any_where_there_is_something_to_keep_to() -> None:
    assert Limits(concurrency=1).is_any
    assert Limits(per_second=0.1).is_any
    assert not NO_LIMITS.is_any
    assert not Limits(burst=5).is_any


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (Limits(per_second=5.0), 5),
        (Limits(per_second=2.5), 3),
        (Limits(per_second=0.01), 1),
        (Limits(per_second=0.01, burst=7), 7),
        (Limits(per_second=50.0, burst=1), 1),
        (Limits(concurrency=3), None),
    ],
)
def test_a_burst_is_as_many_as_start_in_a_second_unless_it_is_named(limits: Limits, most: int | None) -> None:
    assert limits.most_at_once == most
