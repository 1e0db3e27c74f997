"""The parts of sending that need no receiver: how long is waited, and what an answer means."""

from __future__ import annotations

import pytest

from taskstream.settings import Settings
from taskstream.webhooks.client import LONGEST_SHOWN, shown, verdict
from taskstream.webhooks.delivery_loop import backoff


def test_the_waits_grow_fourfold_over_hours_and_are_spread_by_half() -> None:
    settings = Settings()

    longest = [backoff(tries, settings, 1.0).total_seconds() for tries in range(1, 9)]
    shortest = [backoff(tries, settings, 0.0).total_seconds() for tries in range(1, 9)]

    assert longest == [5, 20, 80, 320, 1280, 5120, 20480, 21600]
    assert shortest == [seconds / 2 for seconds in longest]
    assert backoff(10_000, settings, 1.0).total_seconds() == 21600
    assert sum(longest[: settings.webhook_attempts - 1]) < settings.delivery_retention


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_taken(status: int) -> None:
    assert verdict(status) == ""


@pytest.mark.parametrize("status", [100, 301, 307, 400, 404, 410, 429, 500, 503])
def test_nothing_else_is(status: int) -> None:
    assert str(status) in verdict(status)


def test_what_a_receiver_says_is_shown_shortly_and_without_control_characters() -> None:
    assert shown(b"a\x1b[31mb\r\n\xff") == "a [31mb  \N{REPLACEMENT CHARACTER}"
    assert len(shown(b"x" * 10_000)) == LONGEST_SHOWN
