"""A token bucket: so many starts in a second, and some at once after a quiet time."""

from __future__ import annotations


class TokenBucket:
    """Fills with `per_second` tokens a second up to `burst`; each start takes one.

    Times are seconds of one clock. Within any stretch of t seconds at most `burst + t * per_second` tokens are taken,
    as long as whoever takes one has seen `available` be at least 1 for it. Where the clock jumps, up to `burst` more.
    """

    def __init__(self, per_second: float, burst: int, level: float, now: float) -> None:
        """`level`: how many tokens are in it now."""
        self.per_second = per_second
        self.burst = burst
        self._level = min(level, float(burst))
        self._as_of = now

    def available(self, now: float) -> float:
        """Return how many tokens are in the bucket."""
        self._as_of = min(self._as_of, now)  # the clock was put back: it does not stand still until then
        return min(float(self.burst), self._level + (now - self._as_of) * self.per_second)

    def take(self, now: float) -> None:
        """Take a token out; what was started without asking leaves a debt."""
        self._level = self.available(now) - 1.0
        self._as_of = now

    def reaches_at(self, tokens: float, now: float) -> float:
        """Return when there will be so many tokens, at most `burst`."""
        return now + max(0.0, tokens - self.available(now)) / self.per_second
