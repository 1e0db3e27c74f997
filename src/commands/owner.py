"""Deciders of an owner's limits, and the limits in force."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias, assert_never

from msgspec import Struct

from ..events.envelope import Recorded
from ..events.limits import NO_LIMITS, Limits
from ..events.owner import OwnerEvent, OwnerLimited, OwnerLimitsRemoved


class OwnerState(Struct, frozen=True, kw_only=True):
    own: OwnerLimited | None = None
    """None: the service's defaults apply."""


NEVER_LIMITED = OwnerState()


class Allowance(Struct, frozen=True, kw_only=True):
    """The limits in force for an owner."""

    limits: Limits = NO_LIMITS
    waiting: int | None = None
    """Tasks that wait; None: any number."""
    stored: int | None = None
    """Bytes of events and results; None: any number."""


UNLIMITED = Allowance()


class LimitOwner(Struct, frozen=True, kw_only=True):
    limits: OwnerLimited


class RemoveOwnerLimits(Struct, frozen=True, kw_only=True):
    owner: str


OwnerCommand: TypeAlias = LimitOwner | RemoveOwnerLimits


def decide(
    command: OwnerCommand,
    state: OwnerState,
    now: datetime,  # noqa: ARG001 - as every decider
) -> Sequence[OwnerEvent]:
    """Return the events of a command; none if it is done already."""
    match command:
        case LimitOwner():
            return [command.limits] if state.own != command.limits else []
        case RemoveOwnerLimits():
            return [OwnerLimitsRemoved(owner=command.owner)] if state.own is not None else []
        case _:
            assert_never(command)


def evolve(state: OwnerState, recorded: Recorded[OwnerEvent]) -> OwnerState:  # noqa: ARG001 - as every fold
    """Return the state after one more event."""
    match recorded.event:
        case OwnerLimited():
            return OwnerState(own=recorded.event)
        case OwnerLimitsRemoved():
            return NEVER_LIMITED
        case _:
            assert_never(recorded.event)


def allowance(state: OwnerState, service: Allowance) -> Allowance:
    """Return the limits in force for an owner: their own, else the service's.

    A burst belongs to its rate: an owner with a rate of their own does not get the service's burst.
    """
    own = state.own
    if own is None:
        return service
    rate = service.limits if own.per_second is None else own
    return Allowance(
        limits=Limits(
            concurrency=_own_or(own.concurrency, service.limits.concurrency),
            per_second=rate.per_second or None,
            burst=(rate.burst or None) if rate.per_second else None,
        ),
        waiting=_own_or(own.waiting, service.waiting),
        stored=_own_or(own.stored, service.stored),
    )


def _own_or(own: int | None, service: int | None) -> int | None:
    """Return the owner's limit, else the service's. An owner's limit of 0 means no limit."""
    return service if own is None else own or None
