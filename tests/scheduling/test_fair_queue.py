"""However flows come, go and change: of those whose first task has waited too long, the oldest is served first."""

from __future__ import annotations

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
