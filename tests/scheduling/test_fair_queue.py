"""However flows come, go and change: of those whose first task has waited too long, the oldest is served first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.events.task import PRIORITIES, Priority
from taskstream.scheduling.fair_queue import FairQueue
from taskstream.scheduling.limit import Flow, Stage, TaskEntry

AGEING_SECONDS = 10.0
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.tuples(st.sampled_from(PRIORITIES), st.integers(1, 4))),
        st.tuples(st.sampled_from(["pop", "lose first", "remove"]), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.integers(1, 6)),
    ),
    max_size=300,
)


def entry(number: int, priority: Priority, submitted_at: float) -> TaskEntry:
    return TaskEntry(
        ref=TaskRef("alice", f"{number:026d}"),
        sequence=number,
        created_sequence=number,
        pool="p",
        priority=priority,
        task_type="t",
        submitted_at=submitted_at,
        stage=Stage.HELD,
    )


@settings(max_examples=200)
@given(what=steps)
def test_the_oldest_that_has_aged_comes_first(what: list[tuple[str, object]]) -> None:
    queue, flows, now, number = FairQueue(AGEING_SECONDS), list[Flow](), 0.0, 0
    for step, argument in what:
        match step, argument:
            case "put", (priority, count):
                flow = Flow("alice", priority, ())
                for place in range(count):
                    number += 1
                    flow.append(entry(number, priority, now - count + place))
                queue.put(flow)
                flows.append(flow)
            case "wait", int(seconds):
                now += seconds
            case "pop", _ if flows:
                aged = [flow for flow in flows if flow.priority != "high" and flow.since + AGEING_SECONDS <= now]
                popped = queue.pop(now)
                assert popped in flows
                assert not aged or (popped in aged and popped.since == min(flow.since for flow in aged))
                popped.remove(popped.first())
                if popped:
                    queue.put(popped)
                else:
                    flows.remove(popped)
            case "lose first", int(place) if flows and len(flow := flows[place % len(flows)]) > 1:
                flow.remove(flow.first())
                queue.update(flow)
            case "remove", int(place) if flows:
                queue.remove(flows.pop(place % len(flows)))
    assert len(queue) == len(flows)


def queue_of(queue: FairQueue[Flow], owner: str, priority: Priority, *submitted_at: float) -> Flow:
    flow = Flow(owner, priority, ())
    for number, at in enumerate(submitted_at):
        flow.append(entry(1_000 * len(queue) + number, priority, at))
    queue.put(flow)
    return flow


def test_owners_take_turns_whatever_each_of_them_has_waiting() -> None:
    queue: FairQueue[Flow] = FairQueue(0)
    for owner in ("alice", "alice", "alice", "bob", "carol", "bob"):
        queue_of(queue, owner, "normal", 0.0)
    served = []
    while (flow := queue.pop(100.0)) is not None:
        served.append(flow.owner)

    assert served == ["alice", "bob", "carol", "alice", "bob", "alice"]


def test_an_owner_that_comes_back_waits_for_its_turn() -> None:
    queue: FairQueue[Flow] = FairQueue(0)
    for owner in ("alice", "alice", "bob"):
        queue_of(queue, owner, "normal", 0.0)
    served = []
    for _ in range(4):
        flow = queue.pop(100.0)
        assert flow is not None
        served.append(flow.owner)
        queue.put(flow)

    assert served == ["alice", "bob", "alice", "bob"]


def test_without_ageing_no_flow_is_served_for_its_age_nor_remembered_for_it() -> None:
    queue: FairQueue[Flow] = FairQueue(0)
    queue_of(queue, "alice", "low", 0.0)
    high = queue_of(queue, "bob", "high", 9.0)

    assert queue._oldest == []
    assert queue.pop(1_000_000.0) is high


def test_flows_of_the_highest_priority_are_not_served_for_their_age() -> None:
    queue: FairQueue[Flow] = FairQueue(AGEING_SECONDS)
    first = queue_of(queue, "alice", "high", 5.0)
    queue_of(queue, "bob", "high", 0.0)

    assert queue.pop(100.0) is first


@pytest.mark.parametrize("priority", ["normal", "low"])
def test_a_flow_is_served_for_its_age_from_the_moment_on_that_it_has_waited(priority: Priority) -> None:
    for now, is_aged in ((10.9, False), (11.0, True)):
        queue: FairQueue[Flow] = FairQueue(AGEING_SECONDS)
        aged = queue_of(queue, "alice", priority, 1.0)
        high = queue_of(queue, "bob", "high", 9.0)
        assert queue.pop(now) is (aged if is_aged else high)


def test_an_empty_queue_serves_nothing_and_knows_it() -> None:
    queue: FairQueue[Flow] = FairQueue(AGEING_SECONDS)
    assert (len(queue), queue.pop(0.0)) == (0, None)

    flow = queue_of(queue, "alice", "low", 0.0)
    other = queue_of(queue, "alice", "normal", 0.0)
    assert (len(queue), list(queue), flow.queue) == (2, [other, flow], queue)

    queue.remove(flow)
    assert (len(queue), list(queue), flow.queue) == (1, [other], None)
    assert queue.pop(100.0) is other
    assert (len(queue), queue.pop(100.0)) == (0, None)
    assert [*queue._owners.values()] == [{}, {}, {}]


def test_stale_ages_are_removed_together_and_the_order_stays() -> None:
    queue: FairQueue[Flow] = FairQueue(AGEING_SECONDS)
    high = queue_of(queue, "high", "high", 0.0)
    flows = [queue_of(queue, "alice", "low", float(at)) for at in (7, 3, 5)]
    most = 0
    for _ in range(200):
        queue.update(flows[0])
        most = max(most, len(queue._oldest))

    assert most == 2 * 4 + 64 + 1  # two for each flow, 64 in all, and the one just added
    assert {flow for _, _, flow in queue._oldest} == set(flows)
    assert [queue.pop(20.0) for _ in range(4)] == [flows[1], flows[2], flows[0], high]


def test_after_stale_ages_were_removed_flows_of_every_lower_priority_still_age() -> None:
    queue: FairQueue[Flow] = FairQueue(AGEING_SECONDS)
    low, normal = queue_of(queue, "alice", "low", 2.0), queue_of(queue, "alice", "normal", 1.0)
    high = queue_of(queue, "bob", "high", 0.0)
    for _ in range(100):
        queue.update(low)

    assert [queue.pop(100.0) for _ in range(3)] == [normal, low, high]
