"""When tasks that were given back come again, and for which of them slots are kept meanwhile."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.scheduling.redelivery import (
    FIRST_RETURN,
    KEPT_SECONDS,
    LONGEST_RETURN,
    RETURNS_PER_SECOND,
    RedeliveryDelays,
    TaskKind,
    growing,
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


def spread(delays: RedeliveryDelays, kind: TaskKind, group: str, seconds: float, now: float) -> float:
    return delays.spread(kind, group, timedelta(seconds=seconds), now).total_seconds()


def test_the_pauses_of_a_message_double_from_50_ms_up_to_8_s() -> None:
    pauses = [growing(delivered).total_seconds() for delivered in range(1, 11)]

    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8.0, 8.0]
    assert growing(10**9) == timedelta(seconds=8)


def test_two_hundred_tasks_of_a_kind_return_each_second_and_none_later_than_a_minute() -> None:
    delays = RedeliveryDelays()

    pauses = [spread(delays, GPU, "alice", 1.0, now=10.0) for _ in range(20_000)]

    assert pauses[:3] == pytest.approx([1.0, 1.005, 1.01])
    assert pauses[200] == pytest.approx(2.0)
    assert pauses[-1] == pytest.approx(60.0)


def test_each_of_three_owners_gets_a_third_of_the_returns() -> None:
    delays = RedeliveryDelays()
    for owner in ("alice", "bob", "carol"):
        spread(delays, GPU, owner, 1.0, now=10.0)

    assert spread(delays, GPU, "alice", 1.0, now=10.0) == pytest.approx(1.015)


def test_an_owner_whose_tasks_have_returned_shares_nothing_any_more() -> None:
    delays = RedeliveryDelays()
    spread(delays, GPU, "alice", 1.0, now=10.0)
    spread(delays, GPU, "bob", 5.0, now=10.0)

    assert spread(delays, GPU, "bob", 1.0, now=11.0) == pytest.approx(4.005)
    assert spread(delays, GPU, "bob", 1.0, now=20.0) == pytest.approx(1.0)


def test_kinds_whose_tasks_have_returned_are_forgotten_once_there_are_a_thousand() -> None:
    delays = RedeliveryDelays()
    kinds = [TaskKind.of("default", {"number": str(number)}) for number in range(1_003)]
    for kind in kinds[:1_000]:
        spread(delays, kind, "alice", 1.0, now=10.0)
    spread(delays, kinds[1_000], "alice", 9.0, now=10.0)

    spread(delays, kinds[1_001], "alice", 1.0, now=11.0)

    assert list(delays._back_at) == kinds[1_000:1_002]
    assert spread(delays, kinds[1_000], "alice", 1.0, now=11.0) == pytest.approx(8.005)


def test_a_thousand_kinds_are_remembered_before_any_is_forgotten() -> None:
    delays = RedeliveryDelays()
    kinds = [TaskKind.of("default", {"number": str(number)}) for number in range(1_001)]
    for kind in kinds[:1_000]:
        spread(delays, kind, "alice", 1.0, now=10.0)
        delays.keep("pool", "high", kind, now=10.0)
    spread(delays, kinds[1_000], "alice", 1.0, now=20.0)

    assert len(delays._back_at) == 1_001
    assert len(delays._kept_until["pool", "high"]) == 1_000
    delays.keep("pool", "high", kinds[1_000], now=20.0)
    assert list(delays._kept_until["pool", "high"]) == kinds[1_000:]


def test_slots_are_kept_for_a_tenth_of_a_second() -> None:
    delays = RedeliveryDelays()

    delays.keep("pool", "high", GPU, now=10.0)

    assert delays.kept_from("pool", "low", now=10.0) == {GPU: pytest.approx(10.1)}
    delays.spread(GPU, "alice", timedelta(seconds=5), now=10.05)
    delays.keep_on("pool", "high", GPU, now=10.05)
    assert delays.kept_from("pool", "low", now=10.05) == {GPU: pytest.approx(10.15)}
    assert delays.keeps_any("pool", "high")
    assert not delays.keeps_any("pool", "normal")


def test_slots_are_kept_from_the_lowest_for_every_higher_priority() -> None:
    delays = RedeliveryDelays()
    delays.keep("pool", "high", GPU, now=10.0)
    delays.keep("pool", "normal", SONG, now=10.02)

    assert delays.kept_from("pool", "low", now=10.05) == {GPU: pytest.approx(10.1), SONG: pytest.approx(10.12)}
    assert delays.kept_from("pool", "normal", now=10.05) == {GPU: pytest.approx(10.1)}


def test_slots_are_not_kept_on_for_the_task_that_returns_at_this_moment() -> None:
    delays = RedeliveryDelays()
    delays.keep("pool", "high", GPU, now=10.0)
    delays.spread(GPU, "alice", timedelta(seconds=0.05), now=10.0)

    delays.keep_on("pool", "high", GPU, now=10.05)

    assert delays.kept_from("pool", "low", now=10.05) == {GPU: pytest.approx(10.1)}


def test_a_thousand_kinds_may_have_slots_kept_and_the_past_ones_go_with_the_next() -> None:
    delays = RedeliveryDelays()
    kinds = [TaskKind.of("default", {"number": str(number)}) for number in range(1_001)]
    for kind in kinds[:999]:
        delays.keep("pool", "high", kind, now=10.0)

    delays.keep("pool", "high", kinds[999], now=20.0)
    assert len(delays._kept_until["pool", "high"]) == 1_000
    delays.keep("pool", "high", kinds[1_000], now=20.0)
    assert list(delays._kept_until["pool", "high"]) == kinds[999:]


def test_slots_are_not_kept_for_a_kind_that_never_returned_on_a_young_clock() -> None:
    delays = RedeliveryDelays()
    delays.keep("pool", "high", GPU, now=0.1)

    delays.keep_on("pool", "high", GPU, now=0.15)

    assert delays.kept_from("pool", "low", now=0.15) == {GPU: pytest.approx(0.2)}
