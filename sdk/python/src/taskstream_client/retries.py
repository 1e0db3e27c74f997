"""When a request is sent again: pure."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and after which pauses, a request is sent again."""

    most: int | None = None
    """Retries of one request; None: as many as fit in its `timeout`. 0: none."""
    first_pause: float = 0.25
    """Seconds before the first retry at most; each further pause may be twice as long."""
    longest_pause: float = 8.0
    chance: Callable[[], float] = random.random
    """Returns a number from 0 to 1: each pause is shortened by up to a half, so that clients do not retry together."""

    def pause(self, tries: int, retry_after: float | None) -> float:
        """Return the seconds before the next try after `tries` retries. At least what the service asked for."""
        backoff = min(self.longest_pause, self.first_pause * 2.0 ** min(tries, 30)) * (1 - self.chance() / 2)
        if retry_after is None:
            return backoff
        return retry_after + min(backoff, 1.0) * self.chance()
