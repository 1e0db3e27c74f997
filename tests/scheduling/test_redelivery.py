"""When tasks that were given back come again, and for which of them slots are kept meanwhile."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from taskstream.scheduling.redelivery import (
    FIRST_RETURN,
    KEPT_SECONDS,
    LONGEST_RETURN,
    RETURNS_PER_SECOND,
    RedeliveryDelays,
    TaskKind,
)

GPU = TaskKind.of("default", {"gpu": "1"})
SONG = TaskKind.of("song", {})


@given(st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 8)), max_size=300))
def test_no_more_of_a_kind_come_back_in_a_second_than_it_says(calls: list[tuple[float, float]]) -> None:
    returns, now, back = RedeliveryDelays(), 0.0, []
    for later, seconds in calls:
        now += later
        pause = returns.spread(GPU, "alice", timedelta(seconds=seconds), now)
        assert timedelta(seconds=seconds) <= pause + timedelta(microseconds=1)
        assert pause <= LONGEST_RETURN
        back.append(now + pause.total_seconds())

    for earlier, after in zip(back, back[RETURNS_PER_SECOND + 1 :], strict=False):
        assert after - earlier > 0.99


@given(st.lists(st.sampled_from(["mallory", "mallet"]), max_size=500), st.floats(0.05, 8))
def test_an_owner_s_many_tasks_make_no_other_owner_s_pause_longer(hostile: list[str], seconds: float) -> None:
    returns, pause = RedeliveryDelays(), timedelta(seconds=seconds)
    for owner in hostile:
        returns.spread(GPU, owner, pause, now=10.0)

    assert abs(returns.spread(GPU, "bob", pause, now=10.0) - pause) < timedelta(milliseconds=1)


def test_owners_whose_tasks_wait_for_the_same_servers_share_the_returns() -> None:
    returns, pause = RedeliveryDelays(), timedelta(seconds=1)
    back: dict[str, list[float]] = {"alice": [], "bob": []}
    for number in range(400):
        owner = ("alice", "bob")[number % 2]
        back[owner].append(returns.spread(GPU, owner, pause, now=10.0).total_seconds())

    first_second = [at for times in back.values() for at in times if at < 2]
    assert len(first_second) <= RETURNS_PER_SECOND + 2
    assert back["alice"][-1] - back["bob"][-1] < 0.1


def test_slots_are_kept_from_what_is_lower_in_the_same_pool_for_a_moment() -> None:
    returns = RedeliveryDelays()
    returns.keep("pool", "normal", GPU, now=10.0)

    assert set(returns.kept_from("pool", "low", now=10.0)) == {GPU}
    assert not returns.kept_from("pool", "normal", now=10.0)
    assert not returns.kept_from("pool", "high", now=10.0)
    assert not returns.kept_from("other", "low", now=10.0)
    assert FIRST_RETURN.total_seconds() < KEPT_SECONDS
    assert set(returns.kept_from("pool", "low", now=9.999 + KEPT_SECONDS)) == {GPU}
    assert not returns.kept_from("pool", "low", now=10.0 + KEPT_SECONDS)


def test_slots_are_kept_on_only_while_more_of_the_kind_are_away() -> None:
    returns = RedeliveryDelays()
    for kind in (GPU, SONG):
        returns.keep("pool", "high", kind, now=10.0)
    returns.spread(GPU, "alice", timedelta(seconds=5), now=10.0)
    for kind in (GPU, SONG):
        returns.keep_on("pool", "high", kind, now=10.05)

    assert set(returns.kept_from("pool", "low", now=10.0 + KEPT_SECONDS)) == {GPU}


def test_what_is_not_waited_for_has_nothing_kept_by_starting() -> None:
    returns = RedeliveryDelays()
    returns.spread(GPU, "alice", timedelta(seconds=5), now=10.0)
    returns.keep_on("pool", "high", GPU, now=10.0)

    assert not returns.kept_from("pool", "low", now=10.0)
