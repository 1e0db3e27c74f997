"""A schedule is a function of its seed."""

from __future__ import annotations

import pytest

from chaos.schedule import LONGEST_STOP_SECONDS, plan


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_seed_gives_the_same_faults_every_time(nodes: int) -> None:
    assert plan(7, 60, nodes) == plan(7, 60, nodes)
    assert plan(7, 60, nodes) != plan(8, 60, nodes)


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_all_faults_are_over_at_the_end_and_no_target_has_two_at_a_time(seed: int, nodes: int) -> None:
    faults = plan(seed, 30, nodes)
    over: dict[str, float] = {}
    for fault in faults:
        assert 0 < fault.at <= fault.at + fault.duration <= 30.01
        assert fault.at >= over.get(fault.target, 0)
        assert fault.kind != "stop" or fault.duration <= LONGEST_STOP_SECONDS
        over[fault.target] = fault.at + fault.duration


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_kind_comes_up(nodes: int) -> None:
    kinds = {fault.kind for seed in range(50) for fault in plan(seed, 30, nodes)}
    everywhere = {"kill", "restart", "stop", "cut", "delay", "half_open", "delete_consumer", "burst"}
    assert kinds == everywhere | ({"isolate", "step_down"} if nodes > 1 else set())
