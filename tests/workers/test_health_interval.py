"""How long until a server is checked again."""

from __future__ import annotations

import pytest

from taskstream.settings import Settings
from taskstream.workers.fleet.health import next_interval

DEFAULTS = Settings()
SET = Settings(health_interval=7, health_interval_stable=70, health_interval_failing=1.5, health_stable_checks=2)


@pytest.mark.parametrize(
    ("settings", "good", "seconds"),
    [*((DEFAULTS, good, 20 if good < 5 else 60) for good in (1, 2, 4, 5, 6, 1_000_000)), (SET, 1, 7), (SET, 2, 70)],
)
def test_a_healthy_server_is_checked_less_often_once_it_is_stable(settings: Settings, good: int, seconds: int) -> None:
    assert next_interval(settings, good, well=True) == seconds


@pytest.mark.parametrize(("settings", "good", "seconds"), [(DEFAULTS, 0, 10), (DEFAULTS, 100, 10), (SET, 0, 1.5)])
def test_a_failed_check_is_repeated_soon_whatever_came_before(settings: Settings, good: int, seconds: float) -> None:
    assert next_interval(settings, good, well=False) == seconds


def test_the_times_of_health_checks_are_settings_with_the_contracts_defaults() -> None:
    assert (DEFAULTS.health_interval, DEFAULTS.stable_interval, DEFAULTS.failing_interval) == (20, 60, 10)
    assert (DEFAULTS.health_timeout, DEFAULTS.health_retries, DEFAULTS.health_retry_delay) == (5, 3, 2)
    assert DEFAULTS.server_remove_after == 180
