"""A schedule is a function of its seed."""

from __future__ import annotations

import pytest

from chaos.machine import Machine
from chaos.schedule import KINDS, LARGEST_JUMP_SECONDS, LONGEST_STOP_SECONDS, TAKES_DISKS, plan

ROOT = Machine(disks=True, networks=True)
ANYBODY = Machine()


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_seed_gives_the_same_faults_every_time(nodes: int) -> None:
    assert plan(7, 60, nodes, ROOT) == plan(7, 60, nodes, ROOT)
    assert plan(7, 60, nodes, ROOT) != plan(8, 60, nodes, ROOT)


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_all_faults_are_over_at_the_end_and_no_target_has_two_at_a_time(seed: int, nodes: int) -> None:
    faults = plan(seed, 30, nodes, ROOT)
    over: dict[str, float] = {}
    for fault in faults:
        assert 0 < fault.at <= fault.at + fault.duration <= 30.01
        assert fault.at >= over.get(fault.target, 0)
        assert abs(fault.ahead) <= (LARGEST_JUMP_SECONDS if fault.kind in ("clock", "drift") else 0)
        assert fault.kind != "stop" or fault.duration <= LONGEST_STOP_SECONDS
        over[fault.target] = fault.at + fault.duration


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_kind_comes_up(nodes: int) -> None:
    kinds = {fault.kind for seed in range(50) for fault in plan(seed, 30, nodes, ROOT)}
    cluster_only = {"isolate", "step_down"}
    assert kinds == set(KINDS) - (set() if nodes > 1 else cluster_only)


@pytest.mark.parametrize("nodes", [1, 3])
def test_what_a_machine_cannot_do_is_left_out_and_the_rest_is_the_same(nodes: int) -> None:
    assert plan(7, 60, nodes, ANYBODY) == [fault for fault in plan(7, 60, nodes, ROOT) if fault.kind not in TAKES_DISKS]


def test_only_the_kinds_asked_for_come_up() -> None:
    assert {fault.kind for fault in plan(7, 60, 1, ROOT, ["clock", "kill"])} == {"clock", "kill"}
