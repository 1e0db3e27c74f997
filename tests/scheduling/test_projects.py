"""Chapter tasks of one project run one after another, in order, whatever they are called and whatever fails."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskstream.events.ids import TaskRef
from taskstream.events.task import Plan
from taskstream.projections.fleet import Fleet
from taskstream.scheduling.limit import LimitKey
from taskstream.scheduling.rules import FleetRules, needs_grant

from .simulation import FixedRules, Simulation

PROJECT = "三体"


def simulation_of_chapters() -> Simulation:
    """Every rule but a project's is as a type may set it against it: many at once, the newest one replaces others."""
    fleet_rules = FleetRules(Fleet())
    rules = FixedRules(on_conflict="replace")
    rules.by_name["project"] = fleet_rules.bounds(LimitKey("project", ("alice", "chapter", PROJECT)))
    return Simulation(rules)


def chapter(simulation: Simulation, project: str = PROJECT, **more: str) -> TaskRef:
    return simulation.submit(task_type="chapter", project=project, **more)


def test_one_runs_at_a_time_in_order_of_submission_and_none_is_replaced() -> None:
    simulation = simulation_of_chapters()
    tasks = [chapter(simulation) for _ in range(3)]
    for task in tasks:
        assert simulation.release() == [task]
        simulation.run(task)

    assert simulation.due == []


def test_one_that_waits_for_its_next_attempt_is_not_overtaken() -> None:
    simulation = simulation_of_chapters()
    first, second, third = [chapter(simulation) for _ in range(3)]
    simulation.release()
    simulation.start(first)
    simulation.fail_attempt(first)
    assert simulation.release() == []

    simulation.hold(first)  # its attempt is due, and needs a grant

    assert simulation.release() == [first]
    simulation.run(first)
    assert [simulation.release(), simulation.run(second), simulation.release()] == [[second], None, [third]]


def test_other_projects_owners_types_and_users_keys_do_not_wait() -> None:
    simulation = simulation_of_chapters()
    tasks = [
        chapter(simulation),
        chapter(simulation, "三体 2"),
        simulation.submit("bob", task_type="chapter", project=PROJECT),
        simulation.submit(task_type="outline", project=PROJECT),
        simulation.submit(task_type="chapter", concurrency_key=PROJECT),
    ]

    assert sorted(simulation.release(), key=tasks.index) == tasks


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_names_share_a_limit_only_if_they_are_the_same(one: str, other: str) -> None:
    simulation = simulation_of_chapters()
    chapter(simulation, one)
    chapter(simulation, other)

    assert len(simulation.release()) == (1 if one == other else 2)


def test_only_the_scheduler_lets_a_chapter_start() -> None:
    assert needs_grant(Fleet(), TaskRef("alice", "1"), "chapter", Plan(project=PROJECT))
