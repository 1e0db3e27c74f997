"""Whatever happened, and however events are delivered: the held tasks count what they should, and nothing else."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from taskstream.commands.task_holds import last_start
from taskstream.events.ids import TaskRef
from taskstream.events.task import AttemptStarted
from taskstream.scheduling.depth import LIMIT_REASONS
from taskstream.scheduling.held_tasks import HeldTasks
from taskstream.scheduling.limit import Bounds, Stage, TaskEntry

from .simulation import FixedRules, Simulation

OWNERS = ("alice", "bob")
BOUNDS = {
    "window": Bounds(concurrency=4),
    "owner": Bounds(concurrency=3),
    "type": Bounds(per_second=5, burst=4),
    "key": Bounds(concurrency=2),
    "project": Bounds(concurrency=1),
}
ACTS = ("start", "take", "fail attempt", "give back", "hold", "succeed", "fail", "cancel")

steps = st.binary(min_size=40, max_size=120)
"""Two bytes a step: quicker to draw than lists."""


def read(drawn: bytes) -> list[tuple[str, int]]:
    """Return the steps, and an argument of each."""
    names = ("submit", "submit", "release", "release", "choose and put back", "wait", "start", "start", *ACTS)
    return [(names[name % 16], argument) for name, argument in zip(drawn[::2], drawn[1::2], strict=False)]


def submit(simulation: Simulation, bits: int, refs: list[TaskRef]) -> TaskRef:
    """Submit a task whose plan the bits choose."""
    plan: dict[str, Any] = {}
    if bits & 2:
        plan["concurrency_key"] = "k"
    if bits & 4:
        plan["not_before"] = simulation.at + timedelta(seconds=5)
    if bits & 8:
        plan["expires_at"] = simulation.at + timedelta(seconds=12)
    if bits & 16 and refs:
        plan["depends_on"] = tuple({refs[bits % len(refs)].id, refs[0].id})
        plan["on_parent_failure"] = "run" if bits & 32 else "fail"
    if bits & 32:
        plan["project"] = "novel"
    if bits & 64:
        plan["require"] = {"gpu": "a100"}
    return simulation.submit(
        OWNERS[bits & 1], held=bool(bits & 128 or plan), priority="low" if bits & 256 else "high", **plan
    )


def act(simulation: Simulation, what: str, task: TaskEntry) -> None:
    """Do to a task what its stage allows."""
    ref, stage = task.ref, task.stage
    at_work = stage in (Stage.RUNNING, Stage.REPORTED)
    if what == "start" and stage is Stage.QUEUED:
        simulation.start(ref)
    elif what == "take" and stage in (Stage.QUEUED, Stage.HELD):
        simulation.say(ref, AttemptStarted(attempt=1, server_id="s", worker_id="", deadline=simulation.at))
    elif what == "fail attempt" and at_work:
        simulation.fail_attempt(ref)
    elif what == "give back" and at_work:
        simulation.give_back(ref)
    elif what == "hold" and stage in (Stage.QUEUED, Stage.RETRYING):
        simulation.hold(ref)
    elif what == "succeed" and at_work:
        simulation.succeed(ref)
    elif what == "fail" and at_work:
        simulation.fail(ref)
    elif what == "cancel":
        simulation.cancel(ref)


def ran(what: list[tuple[str, int]]) -> Simulation:
    simulation = Simulation(FixedRules(BOUNDS))
    refs: list[TaskRef] = []
    for step, argument in what:
        active = [entry for ref in refs if (entry := simulation.held_tasks.find(ref)) is not None]
        if step == "submit":
            refs.append(submit(simulation, argument, refs))
        elif step == "release":
            simulation.release(1 + argument % 5)
        elif step == "choose and put back":
            held_tasks = simulation.held_tasks
            held_tasks.put_back(held_tasks.release(simulation.now, 1 + argument % 5), simulation.now)
        elif step == "wait":
            simulation.wait((0, 1, 10)[argument % 3])
        elif active:
            act(simulation, step, active[argument % len(active)])
    return simulation


def entries(held_tasks: HeldTasks) -> list[TaskEntry]:
    return list(held_tasks._entries.values())


def state(held_tasks: HeldTasks, now: datetime | None = None) -> dict[str, Any]:
    """Return everything that later decisions depend on, but for the tokens left and the order of flows.

    `now`: leave out the flow of tasks whose latest start has passed, which are about to end.
    """

    def is_in_flow(entry: TaskEntry) -> bool:
        last = last_start(entry.plan)
        return entry.flow is not None and not (now is not None and last is not None and last <= now)

    return {
        "tasks": {
            entry.ref: (
                entry.sequence, entry.created_sequence, entry.stage, entry.granted, entry.granted_at, entry.attempt,
                frozenset(entry.parents), entry.plan, entry.priority, entry.pool, entry.task_type, entry.submitted_at,
                [limit.key for limit in entry.limits], is_in_flow(entry),
            )
            for entry in entries(held_tasks)
        },
        "limits": {
            limit.key: (limit.counted, limit.active, set(limit.pending), set(limit.members))
            for limit in held_tasks.limiter.limits()
            if limit.active
        },
        "waiting": {owner: backlog.waiting for owner, backlog in held_tasks.backlogs(0).items()},
        "held": held_tasks.held,
        "children": {parent: set(children) for parent, children in held_tasks._children.items()},
    }  # fmt: skip


def counts(key_kind: str, task: TaskEntry) -> bool:
    """Return True if a task counts towards a limit, in words: running or granted; of a window: queued.

    In its project, a task counts between two attempts, too.
    """
    if key_kind == "window":
        return task.stage is Stage.QUEUED
    if task.stage is Stage.RETRYING:
        return key_kind == "project"
    if task.stage is Stage.REPORTED:
        return key_kind in ("owner", "key", "project")
    return task.stage is Stage.RUNNING or (task.stage is Stage.QUEUED and task.granted)


@settings(max_examples=40)
@given(steps)
def test_whatever_happened_every_count_is_that_of_the_tasks(what: bytes) -> None:
    held_tasks = ran(read(what)).held_tasks
    tasks = entries(held_tasks)

    waiting = Counter(task.ref.owner for task in tasks if task.stage is not Stage.RUNNING)
    assert {owner: backlog.waiting for owner, backlog in held_tasks.backlogs(1).items()} == dict(waiting)
    assert held_tasks.owners_waiting == len(waiting)
    assert held_tasks.held == sum(task.stage is Stage.HELD for task in tasks)
    assert len(held_tasks) == len(tasks)
    for limit in held_tasks.limiter.limits():
        using = [task for task in tasks if limit in task.limits]
        counted = [task for task in using if counts(limit.key.kind, task)]
        pending = [task.ref for task in counted if task.stage is Stage.QUEUED and limit.key.kind != "window"]
        assert limit.active == len(using)
        assert limit.counted == len(counted)
        assert set(limit.pending) == set(pending)
        assert set(limit.members) == ({task.ref for task in using} if limit.key.kind == "key" else set())
    for task in tasks:
        held_by = {parent for parent, children in held_tasks._children.items() if task.ref in children}
        assert held_by == (set(task.plan.depends_on) if task.stage is Stage.HELD else set())
        assert set(task.parents) <= held_by
    assert all(held_tasks._children.values())


def waits_for(held_tasks: HeldTasks, task: TaskEntry) -> str | None:
    """Return what a task waits for first, found for this task alone; None: it does not wait."""
    match task.stage:
        case Stage.RUNNING | Stage.REPORTED:
            return None
        case Stage.RETRYING:
            return "retry"
        case Stage.QUEUED:
            return "no-server" if task.limits[1].is_closed else "queued"
    if task.parents:
        return "parents"
    if task.flow is None:
        return "time"
    blocking = [limit.key.kind for limit in held_tasks.limiter.limits() if task.flow in list(limit.blocked)]
    return LIMIT_REASONS[blocking[0]] if blocking else "turn"


@settings(max_examples=60)
@given(steps)
def test_whatever_happened_each_waiting_task_is_in_one_depth_and_no_other_is(what: bytes) -> None:
    simulation = ran(read(what))
    held_tasks = simulation.held_tasks
    simulation.rules.by_name["servers"] = Bounds(concurrency=0)  # a server goes away
    held_tasks.limiter.refresh(simulation.now, "servers")

    expected = Counter(
        (task.pool, task.priority, reason)
        for task in entries(held_tasks)
        if (reason := waits_for(held_tasks, task)) is not None
    )
    found, by_type = held_tasks.depths(simulation.now)
    assert {(depth.pool, depth.priority, depth.reason): depth.count for depth in found} == dict(expected)
    assert len(found) == len(expected)
    of_types = Counter((task.task_type, waits_for(held_tasks, task)) for task in entries(held_tasks))
    assert {(name, reason): count for name, reasons in by_type.items() for reason, count in reasons.items()} == {
        each: count for each, count in of_types.items() if each[1] is not None
    }
    ready = [
        task for task in entries(held_tasks) if waits_for(held_tasks, task) not in (None, "retry", "time", "parents")
    ]
    assert held_tasks.oldest().keys() == {task.pool for task in ready}
    for since in held_tasks.oldest().values():
        assert min(task.submitted_at for task in ready) <= since <= simulation.now


@settings(max_examples=40)
@given(steps, st.randoms(use_true_random=False))
def test_events_of_active_tasks_that_come_again_in_any_order_change_nothing(what: bytes, random: Any) -> None:
    simulation = ran(read(what))
    before, due = state(simulation.held_tasks), list(simulation.held_tasks._due)
    again = [each for each in simulation.log if simulation.held_tasks.find(each[0]) is not None]
    random.shuffle(again)

    for ref, sequence, recorded in again:
        simulation.held_tasks.apply(ref, sequence, recorded, simulation.now)

    assert state(simulation.held_tasks) == before
    assert simulation.held_tasks._due == due


@settings(max_examples=40)
@given(steps, st.integers(0, 100))
def test_tasks_rebuilt_from_the_log_are_the_same_also_if_its_end_comes_twice(what: bytes, repeated: int) -> None:
    simulation = ran([each for each in read(what) if each[0] != "choose and put back"])
    rebuilt = HeldTasks(simulation.rules, 0.0, simulation.now)
    for ref, sequence, recorded in simulation.log:
        rebuilt.apply(ref, sequence, recorded, recorded.at.timestamp())
    rebuilt.take_due(simulation.now)
    simulation.held_tasks.take_due(simulation.now)
    assert state(rebuilt, simulation.at) == state(simulation.held_tasks, simulation.at)

    for ref, sequence, recorded in simulation.log[-repeated:]:
        if rebuilt.find(ref) is not None:
            rebuilt.apply(ref, sequence, recorded, simulation.now)
    assert state(rebuilt, simulation.at) == state(simulation.held_tasks, simulation.at)


@settings(max_examples=40)
@given(steps)
def test_in_the_end_no_task_leaves_anything_behind(what: bytes) -> None:
    simulation = ran(read(what))
    for task in entries(simulation.held_tasks):
        simulation.cancel(task.ref)

    assert state(simulation.held_tasks) == {"tasks": {}, "limits": {}, "waiting": {}, "held": 0, "children": {}}
    assert simulation.release() == []
    simulation.wait(100)
    simulation.held_tasks.limiter.tidy(simulation.now)
    assert len(simulation.held_tasks.limiter) == 0
    assert simulation.held_tasks.limiter._flows == {}
