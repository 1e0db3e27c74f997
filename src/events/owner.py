"""The events of an owner: changes of their limits."""

from __future__ import annotations

from typing import TypeAlias

from .envelope import Event


class OwnerLimited(Event, frozen=True, kw_only=True):
    """An owner was given limits, in place of earlier ones. None: the service's default. 0: no limit."""

    owner: str
    """Subject of the JWT, unchanged."""
    concurrency: int | None = None
    """Tasks that run concurrently."""
    per_second: float | None = None
    """Starts per second, in the long run."""
    burst: int | None = None
    """Starts at once after a quiet time, with `per_second`; None: as many as `per_second`, at least 1."""
    waiting: int | None = None
    """Quota of waiting tasks; further submissions are refused."""
    stored: int | None = None
    """Quota of stored bytes; further submissions are refused."""


class OwnerLimitsRemoved(Event, frozen=True, kw_only=True):
    """The owner's limits were removed; the service's defaults apply."""

    owner: str


OwnerEvent: TypeAlias = OwnerLimited | OwnerLimitsRemoved
