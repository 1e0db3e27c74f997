"""The events of a pool."""

from __future__ import annotations

from typing import TypeAlias

from .envelope import Event


class PoolPaused(Event, frozen=True, kw_only=True):
    """Its tasks wait. Running tasks continue."""

    name: str
    reason: str = ""


class PoolResumed(Event, frozen=True, kw_only=True):
    name: str
    reason: str = ""


PoolEvent: TypeAlias = PoolPaused | PoolResumed
