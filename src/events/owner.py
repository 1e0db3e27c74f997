"""What can happen to an owner: to the limits of their own, that is."""

from __future__ import annotations

from typing import TypeAlias

from .envelope import Event


class OwnerLimited(Event, frozen=True, kw_only=True):
    """An owner was given limits, replacing those they had. None: as the service's settings say. 0: no limit."""

    owner: str
    """The JWT subject, as it was."""
    concurrency: int | None = None
    """Tasks that run at once."""
    per_second: float | None = None
    """Starts in a second, in the long run."""
    burst: int | None = None
    """Starts at once after a quiet time, where `per_second` is given; None: as many as that, at least 1."""
    waiting: int | None = None
    """Tasks that wait; no more are accepted then."""


class OwnerLimitsRemoved(Event, frozen=True, kw_only=True):
    """The owner has no limits of their own any more; the service's hold."""

    owner: str


OwnerEvent: TypeAlias = OwnerLimited | OwnerLimitsRemoved
