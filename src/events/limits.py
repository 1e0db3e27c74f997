"""Limits of an owner or a type: how many tasks run concurrently, and how many start per second."""

from __future__ import annotations

import math

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None: no such limit."""

    concurrency: int | None = None
    """Tasks that run concurrently."""
    per_second: float | None = None
    """Starts per second, in the long run."""
    burst: int | None = None
    """Starts at once after a quiet time; None: as many as `per_second`, at least 1."""

    @property
    def is_any(self) -> bool:
        """Return True if any limit is set; a burst alone is none."""
        return self.concurrency is not None or self.per_second is not None

    @property
    def most_at_once(self) -> int | None:
        """Return how many tasks may start at once after a quiet time; None: any number."""
        if self.per_second is None:
            return None
        return self.burst or max(1, math.ceil(self.per_second))


NO_LIMITS = Limits()
