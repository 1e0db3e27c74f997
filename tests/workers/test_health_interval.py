"""How long until a server is checked again."""

from __future__ import annotations

import pytest

from taskstream.settings import Settings
from taskstream.workers.fleet.health import next_interval


@pytest.mark.parametrize(("good", "seconds"), [(1, 20), (2, 20), (4, 20), (5, 60), (6, 60), (1_000_000, 60)])
def test_a_healthy_server_is_checked_less_often_from_its_fifth_good_check_on(good: int, seconds: int) -> None:
    assert next_interval(Settings(), good, well=True) == seconds


def test_a_server_that_failed_its_check_is_looked_at_again_soon() -> None:
    assert next_interval(Settings(), 0, well=False) == 10


def test_a_failure_counts_whatever_came_before() -> None:
    assert next_interval(Settings(), 100, well=False) == 10


def test_every_interval_is_a_setting() -> None:
    settings = Settings(
        health_interval=7, health_interval_stable=70, health_interval_failing=1.5, health_stable_checks=2
    )

    assert next_interval(settings, 1, well=True) == 7
    assert next_interval(settings, 2, well=True) == 70
    assert next_interval(settings, 0, well=False) == 1.5
