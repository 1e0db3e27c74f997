"""Deciders of a pool.

A pool is not created: it exists while a type uses it, or has used it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias, assert_never

from msgspec import Struct

from ..events.envelope import Recorded
from ..events.pool import PoolEvent, PoolPaused, PoolResumed
from .pause import Pause, begun


class PoolState(Struct, frozen=True, kw_only=True):
    pause: Pause | None = None
    """None: not paused."""


NEVER_PAUSED = PoolState()


class PausePool(Struct, frozen=True, kw_only=True):
    name: str
    reason: str = ""


class ResumePool(Struct, frozen=True, kw_only=True):
    name: str
    reason: str = ""


PoolCommand: TypeAlias = PausePool | ResumePool


def decide(
    command: PoolCommand,
    state: PoolState,
    now: datetime,  # noqa: ARG001 - as every decider
) -> Sequence[PoolEvent]:
    """Return the events of a command; none if it is done already: the first pause and its reason stay."""
    match command:
        case PausePool():
            return [PoolPaused(name=command.name, reason=command.reason)] if state.pause is None else []
        case ResumePool():
            return [PoolResumed(name=command.name, reason=command.reason)] if state.pause is not None else []
        case _:
            assert_never(command)


def evolve(state: PoolState, recorded: Recorded[PoolEvent]) -> PoolState:  # noqa: ARG001 - as every fold
    """Return the state after one more event."""
    match recorded.event:
        case PoolPaused():
            return PoolState(pause=begun(recorded))
        case PoolResumed():
            return PoolState(pause=None)
        case _:
            assert_never(recorded.event)
