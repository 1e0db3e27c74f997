"""Limits: how many tasks of one owner, or of one type, run at once, and how many start in a second."""

from __future__ import annotations

import math

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None: no such limit."""

    concurrency: int | None = None
    """Tasks that run at once."""
    per_second: float | None = None
    """Starts in a second, in the long run."""
    burst: int | None = None
    """Starts at once after a quiet time; None: as many as `per_second`, at least 1."""

    @property
    def is_any(self) -> bool:
        """Tell whether there is anything to keep to; a burst alone is nothing."""
        return self.concurrency is not None or self.per_second is not None

    @property
    def most_at_once(self) -> int | None:
        """Return how many may start at once after a quiet time, None if starts are not limited."""
        if self.per_second is None:
            return None
        return self.burst or max(1, math.ceil(self.per_second))


NO_LIMITS = Limits()
