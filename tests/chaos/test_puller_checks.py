"""What pullers hold, by their own journals, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chaos.evidence import Evidence, Jump, Line, Server
from chaos.puller_checks import attempts_are_held_by_one, pullers_are_told_the_truth

from .test_checker import ONE, START, Story, instant

LEASE_SECONDS = 3.0


class PulledStory(Story):
    """Evidence of one pulled server."""

    def taken(self, at: float, attempt: int = 1, puller: str = "puller-1") -> None:
        self.event(ONE, at - 0.2, "AttemptStarted", attempt=attempt, server_id="one")
        self.event(ONE, at - 0.1, "AttemptAccepted", attempt=attempt, lease=f"PT{LEASE_SECONDS:g}S")
        self.backend(at, "call", ONE, attempt, puller=puller, lease=LEASE_SECONDS)

    def renewed(self, at: float, attempt: int = 1, puller: str = "puller-1", standing: str = "running") -> None:
        told = {"sent_at": START + at - 0.01, "answered": 200, "standing": standing}
        self.backend(at, "renewed", ONE, attempt, puller=puller, **told)

    def reported(self, at: float, attempt: int, status: str, standing: str, puller: str = "puller-1") -> None:
        facts = {"puller": puller, "status": status, "kind": "own"}
        self.backend(at - 0.01, "report", ONE, attempt, **facts)
        told = {"sent_at": START + at - 0.01, "answered": 200, "standing": standing}
        self.backend(at, "reported", ONE, attempt, **facts, **told)

    def lost(self, at: float, attempt: int = 1) -> None:
        over = {"server_id": "one", "error": "the puller did not renew its lease", "retry_at": instant(at)}
        self.event(ONE, at, "AttemptFailed", attempt=attempt, kind="worker_lost", **over)

    def succeeded_by_server(self, at: float, attempt: int) -> None:
        self.event(ONE, at, "TaskSucceeded", attempt=attempt, server_id="one", result={})
        self.log[-1].recorded["by"] = {"kind": "server", "id": "one"}

    def evidence(self) -> Evidence:
        lines: list[Line] = sorted(self.backends, key=lambda line: line["at"])
        servers = {"one": Server(limit=1, pulled=True, reports=True)}
        return Evidence(calls=[], log=self.log, backends=lines, servers=servers)


def found(check: Callable[[Evidence], Any], story: PulledStory, *jumps: Jump) -> list[str]:
    evidence = story.evidence()
    evidence.jumps = list(jumps)
    return [text for text, _ in check(evidence)]


def story_of_a_loss() -> PulledStory:
    """An attempt is renewed once, lost, and taken by the other puller, which ends the task."""
    story = PulledStory()
    story.taken(1.0)
    story.renewed(2.0)
    story.lost(5.1)
    story.taken(5.5, 2, "puller-2")
    story.reported(6.0, 1, "FINISHED", "gone")
    story.reported(7.0, 2, "FINISHED", "recorded", "puller-2")
    story.succeeded_by_server(6.99, 2)
    return story


def test_a_lease_that_ran_out_lets_another_puller_have_the_task() -> None:
    story = story_of_a_loss()

    assert found(attempts_are_held_by_one, story) == []
    assert found(pullers_are_told_the_truth, story) == []


def test_one_attempt_is_never_with_two_pullers() -> None:
    story = PulledStory()
    story.taken(1.0)
    story.backend(1.1, "call", ONE, 1, puller="puller-2", lease=LEASE_SECONDS)

    assert "attempt 1 was taken by puller-1 and puller-2" in found(attempts_are_held_by_one, story)


@pytest.mark.parametrize(("renewed_at", "is_found"), [(2.0, False), (3.0, True)])
def test_a_renewed_attempt_is_not_lost_before_the_lease_from_its_renewal(renewed_at: float, is_found: bool) -> None:
    story = PulledStory()
    story.taken(1.0)
    story.renewed(renewed_at)
    story.lost(5.1)

    assert bool(found(attempts_are_held_by_one, story)) == is_found


def test_a_task_is_not_given_to_another_puller_while_its_lease_runs() -> None:
    story = PulledStory()
    story.taken(1.0)
    story.renewed(3.0)
    story.taken(3.5, 2, "puller-2")

    assert any("puller-2 got attempt 2" in text for text in found(attempts_are_held_by_one, story))


def test_a_clock_that_is_wrong_may_shorten_a_lease() -> None:
    story = PulledStory()
    story.taken(1.0)
    story.lost(1.5)
    wrong = Jump("api-1", START + 1, START + 2, -30.0)

    assert found(attempts_are_held_by_one, story) != []
    assert found(attempts_are_held_by_one, story, wrong) == []


def test_a_report_or_a_cancellation_ends_a_hold_at_once() -> None:
    story = PulledStory()
    story.taken(1.0)
    story.reported(1.3, 1, "RETURNED", "recorded")
    story.event(ONE, 1.31, "AttemptReturned", attempt=1, server_id="one", kind="busy")
    story.log[-1].recorded["by"] = {"kind": "server", "id": "one"}
    story.taken(2.0, 2, "puller-2")
    story.event(ONE, 2.1, "TaskCancelled", attempt=2, server_id="one", reason="Cancelled by alice")
    story.taken(2.5, 3)

    assert found(attempts_are_held_by_one, story) == []
    assert found(pullers_are_told_the_truth, story) == []


@pytest.mark.parametrize("standing", ["recorded", "running"])
def test_the_result_of_a_lost_attempt_is_never_said_to_be_recorded(standing: str) -> None:
    story = PulledStory()
    story.taken(1.0)
    story.lost(4.1)
    story.reported(5.0, 1, "FINISHED", standing)

    assert found(pullers_are_told_the_truth, story) != []


def test_a_result_in_the_log_is_not_said_to_have_come_too_late() -> None:
    story = PulledStory()
    story.taken(1.0)
    story.reported(1.5, 1, "FINISHED", "gone")
    story.succeeded_by_server(1.49, 1)
    assert found(pullers_are_told_the_truth, story) != []

    repeated = PulledStory()
    repeated.taken(1.0)
    repeated.reported(1.5, 1, "FINISHED", "recorded")
    repeated.succeeded_by_server(1.49, 1)
    repeated.reported(1.6, 1, "FINISHED", "recorded")
    assert found(pullers_are_told_the_truth, repeated) == []
