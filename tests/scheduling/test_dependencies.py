"""Tasks that depend on each other end as a reference model says: whatever fails, and whichever scheduler is active."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from taskstream.commands.task import decide
from taskstream.commands.task_commands import FailByParent, RetryTask
from taskstream.commands.task_state import UNKNOWN, Ended, TaskState, Unknown, evolve
from taskstream.events.envelope import Stored
from taskstream.events.ids import TaskRef, parse_task_id
from taskstream.events.kinds import kind_of
from taskstream.events.task import AttemptStarted, TaskQueued
from taskstream.projections.task_view import TaskView, fold
from taskstream.scheduling.held_tasks import AskParent, Due, DueCommand, HeldTasks, Reread
from taskstream.scheduling.limit import Bounds
from taskstream.workers.scheduler import OUTCOMES, entry_of
from testkit.dags import CHOICES, Node, predicted, retried, will_run

from .simulation import FixedRules, Simulation

LIMITS = {"owner": Bounds(concurrency=3)}
MOST_STEPS = 2_000


@st.composite
def dags(draw: st.DrawFn) -> list[Node]:
    nodes = []
    for place in range(draw(st.integers(1, 14))):
        earlier = st.integers(0, place - 1) if place else st.nothing()
        parents = draw(st.lists(earlier, max_size=4, unique=True)) if place else []
        nodes.append(Node(tuple(parents), draw(st.sampled_from(CHOICES)), draw(st.booleans())))
    return nodes


class Run:
    """Tasks that the scheduler and the workers act on."""

    def __init__(self, nodes: Sequence[Node], rules: FixedRules, *, retries: bool = False) -> None:
        """`retries`: now and then somebody retries a task that has not succeeded, whatever its children are at."""
        self.nodes = nodes
        self.retries = retries
        self.simulation = Simulation(rules)
        self.refs: list[TaskRef] = []
        self.queued: list[TaskRef] = []
        self.running: list[TaskRef] = []
        self.started: set[int] = set()

    def state(self, ref: TaskRef) -> TaskState:
        state: TaskState = UNKNOWN
        for of, _, recorded in self.simulation.log:
            if of == ref:
                state = evolve(state, recorded)
        return state

    def outcome(self, ref: TaskRef) -> str | None:
        state = self.state(ref)
        return state.outcome if isinstance(state, Ended) else None

    def view(self, ref: TaskRef) -> TaskView:
        view: TaskView | None = None
        for of, sequence, recorded in self.simulation.log:
            if of == ref:
                view = fold(view, Stored(sequence, recorded))
        assert view is not None
        return view

    def ended_at(self, task_id: str) -> int:
        """Return the sequence of a task's last end."""
        log = self.simulation.log
        return max(at for ref, at, recorded in log if ref.id == task_id and kind_of(recorded.event).ends)

    @property
    def retryable(self) -> list[TaskRef]:
        return [ref for ref in self.refs if self.outcome(ref) in ("failed", "cancelled")]

    @property
    def is_over(self) -> bool:
        return len(self.refs) == len(self.nodes) and all(map(self.outcome, self.refs))

    def step(self, data: st.DataObject) -> None:
        may = ["keep"]
        may += ["submit"] if len(self.refs) < len(self.nodes) else []
        may += ["start"] if self.queued else []
        may += ["end", "again"] if self.running else []
        may += ["retry"] if self.retries and self.retryable else []
        match data.draw(st.sampled_from([*may, *may, "another scheduler"])):
            case "submit":
                self.submit()
            case "start":
                self.start(_taken(data, self.queued))
            case "end":
                self.end(_taken(data, self.running))
            case "again":
                ref = _taken(data, self.running)
                self.simulation.fail_attempt(ref)
                self.queued.append(ref)
            case "retry":
                self.retry(data.draw(st.sampled_from(self.retryable)))
            case "another scheduler":
                self.replace_scheduler()
            case _:
                self.keep()

    def submit(self) -> None:
        node = self.nodes[len(self.refs)]
        plan: dict[str, Any] = {"on_parent_failure": node.choice}
        plan["depends_on"] = tuple(self.refs[parent].id for parent in node.parents)
        self.refs.append(self.simulation.submit(**plan))

    def start(self, ref: TaskRef) -> None:
        state = self.state(ref)
        assert not isinstance(state, Unknown)
        event = AttemptStarted(
            attempt=state.facts.attempt + 1, server_id="s", worker_id="w", deadline=self.simulation.at
        )
        self.simulation.say(ref, event)
        self.started.add(self.refs.index(ref))
        self.running.append(ref)

    def end(self, ref: TaskRef) -> None:
        if self.nodes[self.refs.index(ref)].succeeds:
            self.simulation.succeed(ref)
        else:
            self.simulation.fail(ref)

    def retry(self, ref: TaskRef) -> None:
        for decided in decide(RetryTask(reason="by hand"), self.state(ref), self.simulation.at):
            self.simulation.say(ref, decided)
            if isinstance(decided, TaskQueued):
                self.queued.append(ref)

    def finish(self) -> None:
        """Do whatever is left to do."""
        for _ in range(MOST_STEPS):
            if self.is_over:
                return
            if len(self.refs) < len(self.nodes):
                self.submit()
            self.keep()
            for ref in self.queued[:]:
                self.queued.remove(ref)
                self.start(ref)
            for ref in self.running[:]:
                self.running.remove(ref)
                self.end(ref)
        raise AssertionError(f"not ended: {[ref.id for ref in self.refs if not self.outcome(ref)]}")

    def keep(self) -> None:
        """Do once what the scheduler does."""
        released = self.simulation.release()
        for ref in released:
            for parent in self.nodes[self.refs.index(ref)].parents:
                assert self.outcome(self.refs[parent]), "it was queued before a parent had ended"
        self.queued += released
        due, self.simulation.due = self.simulation.due, []
        for each in due:
            self.do(each)

    def do(self, due: Due) -> None:
        held_tasks, now = self.simulation.held_tasks, self.simulation.now
        match due:
            case DueCommand(ref, FailByParent() as command):
                for decided in decide(command, self.state(ref), self.simulation.at):
                    self.simulation.say(ref, decided)
            case AskParent(parent_id):
                state = self.state(parse_task_id(parent_id))
                assert not isinstance(state, Unknown)
                if isinstance(state, Ended):
                    held_tasks.parent_ended(parent_id, OUTCOMES[state.outcome], self.ended_at(parent_id), now)
            case Reread(ref):
                view = self.view(ref)
                if held_tasks.find(ref) is not None:
                    self.simulation.deliver_again(ref)
                elif view.ended_at is None:
                    held_tasks.add(entry_of(ref, view), now)
            case _:
                raise AssertionError(f"nothing here calls for {due}")

    def replace_scheduler(self) -> None:
        """Go on with held tasks loaded from the views of active tasks; actions that were due are lost."""
        held_tasks = HeldTasks(self.simulation.rules, 0.0, began_at=self.simulation.now)
        for ref in self.refs:
            if (view := self.view(ref)).ended_at is None:
                held_tasks.add(entry_of(ref, view), self.simulation.now)
        held_tasks.limiter.begin(self.simulation.now)
        self.simulation.held_tasks, self.simulation.due = held_tasks, []


def _taken(data: st.DataObject, refs: list[TaskRef]) -> TaskRef:
    return refs.pop(data.draw(st.integers(0, len(refs) - 1)))


@given(dags(), st.sampled_from([{}, LIMITS]), st.data())
def test_random_dags_with_random_failures_end_as_the_model_says(
    nodes: list[Node], limits: dict[str, Bounds], data: st.DataObject
) -> None:
    run = Run(nodes, FixedRules(limits))
    for _ in range(3 * len(nodes)):
        run.step(data)
    run.finish()

    assert [run.outcome(ref) for ref in run.refs] == predicted(nodes)
    assert run.started == will_run(nodes)
    for outcome in set(predicted(nodes)):
        event(f"one has {outcome}")


@given(dags(), st.sampled_from([{}, LIMITS]), st.data())
def test_all_that_did_not_succeed_is_retried_and_ends_as_the_model_says(
    nodes: list[Node], limits: dict[str, Bounds], data: st.DataObject
) -> None:
    run = Run(nodes, FixedRules(limits))
    run.finish()
    run.nodes = again = retried(nodes, [data.draw(st.booleans()) for _ in nodes])
    run.started.clear()

    for ref in run.retryable:
        run.retry(ref)
        if data.draw(st.booleans()):
            run.step(data)
    run.finish()

    assert [run.outcome(ref) for ref in run.refs] == predicted(again)
    succeeded = {place for place, outcome in enumerate(predicted(nodes)) if outcome == "succeeded"}
    assert run.started == will_run(again) - succeeded


@given(dags(), st.data())
def test_whatever_is_retried_when_no_child_is_queued_beside_a_parent_and_all_end(
    nodes: list[Node], data: st.DataObject
) -> None:
    run = Run(nodes, FixedRules(), retries=True)
    for _ in range(5 * len(nodes)):
        run.step(data)
    run.finish()


def test_a_chain_a_thousand_deep_ends() -> None:
    nodes = [Node((place - 1,) if place else (), "fail", succeeds=True) for place in range(1_000)]
    run = Run(nodes, FixedRules())
    for _ in nodes:
        run.submit()

    for place in range(len(nodes)):
        run.keep()
        assert run.queued == [run.refs[place]]
        ref = run.queued.pop()
        run.simulation.run(ref)

    assert not len(run.simulation.held_tasks)


def test_one_failure_ends_all_that_depends_on_it_whatever_its_depth() -> None:
    nodes = [Node((place - 1,) if place else (), "fail", succeeds=place > 0) for place in range(100)]
    run = Run(nodes, FixedRules())
    for _ in nodes:
        run.submit()
    run.keep()
    [first] = run.queued
    run.simulation.start(first)
    run.simulation.fail(first)

    while not run.is_over:
        run.keep()

    assert {run.outcome(ref) for ref in run.refs} == {"failed"}


def test_a_child_of_a_thousand_waits_for_the_last() -> None:
    nodes = [Node((), "fail", succeeds=True)] * 1_000 + [Node(tuple(range(1_000)), "fail", succeeds=True)]
    run = Run(nodes, FixedRules())
    for _ in nodes:
        run.submit()
    run.keep()

    for ref in run.queued[:-1]:
        run.simulation.run(ref)
    assert run.simulation.release() == []
    run.simulation.run(run.queued[-1])

    assert run.simulation.release() == [run.refs[-1]]
