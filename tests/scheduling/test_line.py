"""Whichever lanes come, go and change: of those whose first task has waited too long, the oldest comes first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.events.task import PRIORITIES, Priority
from taskstream.scheduling.fair_queue import Line
from taskstream.scheduling.limit import Entry, Lane, Stage

AGEING_SECONDS = 10.0
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.tuples(st.sampled_from(PRIORITIES), st.integers(1, 4))),
        st.tuples(st.sampled_from(["pop", "lose first", "remove"]), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.integers(1, 6)),
    ),
    max_size=300,
)


def entry(number: int, priority: Priority, submitted_at: float) -> Entry:
    return Entry(
        ref=TaskRef("alice", f"{number:026d}"),
        sequence=number,
        created_sequence=number,
        pool="p",
        priority=priority,
        task_type="t",
        submitted_at=submitted_at,
        stage=Stage.HELD,
    )


@settings(max_examples=200, deadline=None)
@given(what=steps)
def test_the_oldest_that_has_aged_comes_first(what: list[tuple[str, object]]) -> None:
    line, lanes, now, number = Line(AGEING_SECONDS), list[Lane](), 0.0, 0
    for step, argument in what:
        match step, argument:
            case "put", (priority, count):
                lane = Lane("alice", priority, ())
                for place in range(count):
                    number += 1
                    lane.append(entry(number, priority, now - count + place))
                line.put(lane)
                lanes.append(lane)
            case "wait", int(seconds):
                now += seconds
            case "pop", _ if lanes:
                aged = [lane for lane in lanes if lane.priority != "high" and lane.since + AGEING_SECONDS <= now]
                popped = line.pop(now)
                assert popped in lanes
                assert not aged or (popped in aged and popped.since == min(lane.since for lane in aged))
                popped.remove(popped.first())
                if popped:
                    line.put(popped)
                else:
                    lanes.remove(popped)
            case "lose first", int(place) if lanes and len(lane := lanes[place % len(lanes)]) > 1:
                lane.remove(lane.first())
                line.note(lane)
            case "remove", int(place) if lanes:
                line.remove(lanes.pop(place % len(lanes)))
    assert len(line) == len(lanes)
