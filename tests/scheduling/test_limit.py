"""Free capacity, tokens and flows, in numbers."""

from __future__ import annotations

import math

import pytest

from taskstream.events.ids import TaskRef
from taskstream.scheduling.limit import Bounds, Flow, Limit, LimitKey, LimitKind, Stage, TaskEntry, TokenBucket
from taskstream.scheduling.limiter import limit_keys

NAMES: dict[LimitKind, tuple[str, ...]] = {
    "window": ("alice", "w", "p"),
    "servers": ("p", "t"),
    "owner": ("alice",),
    "type": ("t",),
    "key": ("alice", "t", "k"),
}


def entry(number: int = 1, stage: Stage = Stage.HELD, *, granted: bool = False, submitted_at: float = 0.0) -> TaskEntry:
    return TaskEntry(
        ref=TaskRef("alice", str(number)),
        sequence=number,
        created_sequence=number,
        pool="p",
        priority="normal",
        task_type="t",
        submitted_at=submitted_at,
        stage=stage,
        granted=granted,
    )


def limit(kind: LimitKind, known_for: float = 1_000.0, **bounds: float) -> Limit:
    return Limit(LimitKey(kind, NAMES[kind]), Bounds(**bounds), 0.0, 100.0, known_for)  # type: ignore[arg-type]


def test_a_new_entry_was_neither_granted_nor_tried_nor_retried() -> None:
    new = entry()

    assert (new.granted, new.granted_at, new.attempt, new.renewed_after) == (False, 0.0, 0, 0)
    assert (new.parents, new.limits, new.flow) == (frozenset(), (), None)


@pytest.mark.parametrize(
    ("stage", "granted", "kinds", "is_pending"),
    [
        (Stage.HELD, False, set(), False),
        (Stage.QUEUED, False, {"window"}, False),
        (Stage.QUEUED, True, {"window", "owner", "type", "key", "servers"}, True),
        (Stage.RUNNING, False, {"owner", "type", "key", "servers"}, False),
        (Stage.RUNNING, True, {"owner", "type", "key", "servers"}, False),
        (Stage.REPORTED, True, {"owner", "key"}, False),
        (Stage.RETRYING, True, set(), False),
    ],
)
def test_a_task_counts_towards_these_limits(
    stage: Stage, granted: bool, kinds: set[LimitKind], is_pending: bool
) -> None:
    task, limits = entry(stage=stage, granted=granted), [limit(kind) for kind in NAMES]
    for each in limits:
        each.enter(task)

    assert {each.key.kind for each in limits if each.counted == 1} == kinds
    assert {each.counted for each in limits} <= {0, 1}
    assert {each.key.kind for each in limits if each.pending} == (kinds - {"window"} if is_pending else set())
    assert {each.key.kind for each in limits if each.leave(task)} == kinds
    assert {(each.counted, len(each.pending)) for each in limits} == {(0, 0)}


# Capacity


def test_concurrency_is_what_is_left_of_it() -> None:
    three = limit("owner", concurrency=3)
    assert (three.available(100.0), three.is_closed) == (3, False)

    for number in range(4):
        three.enter(entry(number, Stage.RUNNING))

    assert three.available(100.0) == -1
    assert limit("owner").available(100.0) == math.inf
    assert [limit("servers", concurrency=size).is_closed for size in (0, 1)] == [True, False]
    assert not limit("servers").is_closed


def test_a_full_window_has_no_capacity_until_half_of_it_is_free() -> None:
    window = limit("window", concurrency=5)
    tasks = [entry(number, Stage.QUEUED) for number in range(5)]
    found = [window.available(100.0)]
    for task in tasks:
        window.enter(task)
        found.append(window.available(100.0))
    for task in tasks:
        window.leave(task)
        found.append(window.available(100.0))

    assert found == [5, 4, 3, 2, 1, 0, 0, 0, 3, 4, 5]
    assert limit("window").available(100.0) == math.inf


def test_the_smallest_window_has_capacity_once_it_is_empty() -> None:
    window, task = limit("window", concurrency=1), entry(1, Stage.QUEUED)
    window.enter(task)
    assert window.available(100.0) == 0

    window.leave(task)
    assert window.available(100.0) == 1


def test_granted_tasks_keep_a_token_each_until_they_start() -> None:
    rate, task = limit("type", per_second=2, burst=3), entry(1, Stage.QUEUED, granted=True)
    assert rate.available(100.0) == 3.0
    rate.enter(task)
    assert rate.available(100.0) == 2.0

    rate.leave(task)
    task.stage = Stage.RUNNING
    rate.enter(task)
    rate.started(task, 100.0)

    assert (rate.available(100.0), rate.available(100.25), rate.available(200.0)) == (2.0, 2.5, 3.0)


def test_a_task_taken_by_a_report_takes_no_token_of_its_type() -> None:
    rate = limit("type", per_second=1, burst=3)

    rate.started(entry(1, Stage.REPORTED), 100.0)

    assert rate.available(100.0) == 3.0
    limit("type").started(entry(1, Stage.RUNNING), 100.0)  # without a rate there is no token to take


@pytest.mark.parametrize(
    ("per_second", "burst", "tokens"), [(0.1, None, 1), (1.5, None, 2), (5, None, 5), (5, 2, 2), (0.5, 9, 9)]
)
def test_a_burst_is_a_second_of_starts_and_at_least_one(per_second: float, burst: int | None, tokens: int) -> None:
    rate = Limit(LimitKey("type", ("t",)), Bounds(None, per_second, burst), 0.0, 100.0, 1_000.0)

    assert rate.available(100.0) == tokens
    assert rate.available(1_000_000.0) == tokens


def test_a_limit_that_is_known_for_half_a_second_has_the_tokens_of_half_a_second() -> None:
    assert limit("type", 0.5, per_second=4, burst=10).available(100.0) == 2.0
    assert limit("type", 0.0, per_second=4, burst=10).available(100.0) == 0.0


def test_a_limit_opens_when_the_next_token_comes() -> None:
    rate = limit("type", 0.0, per_second=4, burst=2)
    assert rate.opens_at(100.0) == 100.25

    rate.enter(entry(1, Stage.QUEUED, granted=True))
    assert rate.opens_at(100.0) == 100.5
    assert rate.opens_at(200.0) == 200.0

    rate.enter(entry(2, Stage.QUEUED, granted=True))
    assert rate.opens_at(100.0) is None  # three tokens: more than it holds
    assert limit("type", concurrency=3).opens_at(100.0) is None


def test_a_limit_that_is_full_does_not_open_with_time() -> None:
    both = limit("owner", 0.0, concurrency=1, per_second=4)
    assert both.opens_at(100.0) == 100.25

    both.enter(entry(1, Stage.RUNNING))

    assert both.opens_at(100.0) is None


# Changes


def test_a_changed_rate_holds_from_now_on_and_keeps_the_tokens() -> None:
    rate = limit("type", 0.5, per_second=4, burst=10)

    rate.set_bounds(Bounds(None, 1.0, 10), 100.0)
    assert (rate.bounds, rate.available(100.0), rate.available(101.0)) == (Bounds(None, 1.0, 10), 2.0, 3.0)

    rate.set_bounds(Bounds(None, 1.0, 1), 101.0)
    assert (rate.available(101.0), rate.available(200.0)) == (1.0, 1.0)
    rate.set_bounds(Bounds(None, 1.0, 1), 102.0)  # nothing changed
    assert rate.available(102.0) == 1.0


def test_bounds_that_did_not_change_do_not_touch_the_tokens() -> None:
    rate = limit("type", 0.0, per_second=1, burst=2)
    before = rate._tokens

    rate.set_bounds(Bounds(5, 1, 2), 100.0)

    assert rate._tokens is before
    assert rate.bounds.concurrency == 5


def test_a_new_rate_begins_with_a_burst_and_a_rate_that_ends_limits_nothing() -> None:
    rate = limit("type")
    rate.set_bounds(Bounds(None, 2.0, None), 100.0)
    assert (rate.available(100.0), rate.opens_at(100.0)) == (2.0, 100.0)

    rate.set_bounds(Bounds(None, None, None), 100.0)
    assert (rate.available(100.0), rate.opens_at(100.0)) == (math.inf, None)


def test_a_scheduler_that_takes_over_has_a_token_for_each_granted_task_and_no_more() -> None:
    rate = limit("type", per_second=1, burst=5)
    for number in range(2):
        rate.enter(entry(number, Stage.QUEUED, granted=True))

    rate.resume(100.0)

    assert rate.available(100.0) == 0.0
    assert rate.available(101.0) == 1.0
    limit("type").resume(100.0)


def test_a_limit_is_unused_when_nothing_needs_it_and_its_bucket_is_full() -> None:
    plain, rate = limit("owner"), limit("type", 0.0, per_second=1, burst=2)
    assert (plain.is_unused(100.0), rate.is_unused(101.9), rate.is_unused(102.0)) == (True, False, True)

    plain.active = rate.active = 1
    assert (plain.is_unused(100.0), rate.is_unused(102.0)) == (False, False)


def test_a_bucket_fills_at_its_rate_and_a_debt_is_paid_first() -> None:
    bucket = TokenBucket(0.5, 4, 9.0, 100.0)
    assert bucket.available(100.0) == 4.0
    for _ in range(6):
        bucket.take(100.0)

    assert (bucket.available(100.0), bucket.available(104.0)) == (-2.0, 0.0)
    assert bucket.reaches_at(1.0, 100.0) == 106.0
    assert bucket.reaches_at(1.0, 108.0) == 108.0
    assert bucket.available(90.0) == -2.0  # the clock was set back
    assert bucket.available(92.0) == -1.0


# Flows and keys


def test_a_task_that_was_put_back_is_the_first_of_its_flow() -> None:
    flow = Flow("alice", "normal", ())
    tasks = [entry(number, submitted_at=10.0 + number) for number in range(3)]
    for task in tasks:
        flow.append(task)
    assert [flow.place_of(task) for task in tasks] == [0, 1, 2]
    flow.remove(tasks[0])
    assert (len(flow), flow.first(), flow.since) == (2, tasks[1], 11.0)

    flow.put_back(tasks[0])

    assert [flow.place_of(task) for task in tasks] == [0, 1, 2]
    assert (len(flow), flow.first(), flow.since) == (3, tasks[0], 10.0)
    for task in tasks:
        flow.remove(task)
        flow.remove(task)
    assert not flow


def test_a_task_needs_these_limits_in_this_order() -> None:
    task = entry()
    assert limit_keys(task) == [
        LimitKey("window", ("alice", "normal p t ", "p")),
        LimitKey("servers", ("p", "t")),
        LimitKey("owner", ("alice",)),
        LimitKey("type", ("t",)),
    ]
