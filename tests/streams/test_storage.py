"""The space of the store: which limit counts, what is reserved, and when the log warns."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from taskstream.nats_server.keeping import Restart
from taskstream.nats_server.server import EmbeddedNats
from taskstream.streams.storage import (
    MOST_RESERVED,
    THRESHOLDS,
    Space,
    SpaceLimit,
    Threshold,
    space_of,
)

GB = 10**9
LIMITS = st.lists(
    st.builds(
        SpaceLimit,
        st.sampled_from(("disk", "server", "account", "stream")),
        st.integers(0, 10**13),
        st.integers(0, 10**13),
    ),
    max_size=5,
)


@given(LIMITS, st.integers(0, 10**13), st.none() | st.integers(0, 10**12))
def test_the_limit_that_is_reached_first_counts_and_an_unknown_one_is_none(
    limits: list[SpaceLimit], used: int, reserve: int | None
) -> None:
    space = space_of(limits, used, reserve)

    if not limits:
        assert space == Space(used_bytes=used)
        assert (space.limit_bytes, space.free_bytes, space.percent) == (None, None, None)
        return
    assert space.free_bytes == min(limit.free for limit in limits)
    assert space.limit_bytes is not None
    assert space.limit_bytes >= 0
    assert any((space.used_bytes, space.limit_bytes) == (limit.used, limit.limit) for limit in limits)


def test_a_reserve_is_what_is_set_or_a_twentieth_a_gibibyte_at_most() -> None:
    def reserved(limit: int, setting: int | None = None) -> int:
        return space_of([SpaceLimit("disk", 0, limit)], 0, setting).reserve_bytes

    assert [reserved(1 * GB), reserved(1_000 * GB)] == [GB // 20, MOST_RESERVED]
    assert [reserved(GB, 7), reserved(GB, 0)] == [7, 0]


def test_other_files_on_the_disk_take_nothing_from_the_reserve() -> None:
    filled_by_others = SpaceLimit("disk", 1_000, 1_000 + GB // 100, disk=10 * GB)

    assert space_of([filled_by_others], 1_000, None).reserve_bytes == GB // 2


def test_each_threshold_is_said_once_until_it_was_left_by_two_percent() -> None:
    threshold = Threshold()

    percents = [10, 79.9, 80, 81, 79, 80, 78.5, 80, 77, 80, 91, 89, 90, 87, 96, 100, 95, 93.5, 95, 92, 95, 50, 99]
    said = [(percent, passed) for percent in percents if (passed := threshold.passes(percent)) is not None]

    assert said == [(80, 80), (80, 80), (91, 90), (96, 95), (95, 95), (99, 95)]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_threshold_is_never_said_below_it_nor_missed_above_it(percents: list[float]) -> None:
    threshold = Threshold()
    highest = 0
    for percent in percents:
        passed = threshold.passes(percent)
        if passed is not None:
            assert percent >= passed > highest
        highest = threshold.reached
        assert all(percent < each or highest >= each for each in THRESHOLDS)


async def test_a_nats_that_met_a_full_disk_is_restarted_once_there_is_space() -> None:
    restarts = 0
    is_out_of_space = False

    async def restart() -> None:
        nonlocal restarts
        restarts += 1

    restarter = Restart(lambda: is_out_of_space, restart)
    with capture_logs() as logs:
        await restarter.attend(10 * GB, GB)
        assert restarts == 0  # nothing is wrong
        is_out_of_space = True
        await restarter.attend(GB - 1, GB)
        assert restarts == 0  # there is no space yet
        await restarter.attend(GB, GB)
        assert restarts == 1
        await restarter.attend(GB, GB)
        assert restarts == 1  # it was just restarted

    assert [entry["event"] for entry in logs] == ["nats.out-of-space"]


async def test_a_disk_that_was_full_for_a_moment_is_enough_for_a_restart() -> None:
    restarts: list[int] = []

    async def restart() -> None:
        restarts.append(1)

    restarter = Restart(lambda: False, restart)
    await restarter.attend(0, GB)
    await restarter.attend(2 * GB, GB)
    await restarter.attend(2 * GB, GB)

    assert restarts == [1]


def test_an_embedded_nats_is_out_of_space_once_its_log_says_so(tmp_path: Any) -> None:
    nats = EmbeddedNats(tmp_path)
    assert not nats.is_out_of_space()
    log = tmp_path / "nats-server.log"
    log.write_text("[ERR] JetStream failed to store a msg on stream '$G > A': write 1.blk: no space le")
    assert not nats.is_out_of_space()
    with log.open("a") as file:
        file.write("ft on device\n")

    assert nats.is_out_of_space()
    assert nats.is_out_of_space()
