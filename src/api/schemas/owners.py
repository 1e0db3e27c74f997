"""Limits of owners as admins send and see them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...commands.owner import Allowance, OwnerState, allowance
from ...errors import InvalidInput
from ...events.owner import OwnerLimited
from .page import Page

LEAST_PER_SECOND = 0.00001
Concurrency = Annotated[int, Meta(ge=0, le=1_000_000)]
PerSecond = Annotated[float, Meta(ge=0, le=1_000_000)]
Burst = Annotated[int, Meta(ge=1, le=1_000_000)]
Waiting = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class OwnerLimitsBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Limits of an owner's own, in place of those they had. What is left out is as the service's settings say; 0 is no
    limit, whatever they say.
    """

    concurrency: Concurrency | None = None
    """Tasks that run at once."""
    per_second: PerSecond | None = None
    """Starts in a second, in the long run; 0.00001 is the least."""
    burst: Burst | None = None
    """Starts at once after a quiet time, with `perSecond`; null: as many as that, at least 1."""
    waiting: Waiting | None = None
    """Tasks that wait, beyond which a submission is a 429."""


class OwnLimits(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """Limits that an admin has set for one owner; 0: no limit."""

    concurrency: int | None = None
    per_second: float | None = None
    burst: int | None = None
    waiting: int | None = None


class OwnerLimitsAnswer(Struct, kw_only=True, rename="camel"):
    """The limits that hold for an owner; null: none."""

    owner: str
    """The `sub` of their token."""
    concurrency: int | None
    """Tasks that run at once."""
    per_second: float | None
    """Starts in a second, in the long run."""
    burst: int | None
    """Starts at once after a quiet time."""
    waiting: int | None
    """Tasks that wait, beyond which a submission is a 429."""
    own: OwnLimits | None
    """Those of them that are the owner's own, as they were set; null: all are the service's."""


class OwnerPage(Page, kw_only=True, rename="camel"):
    """Owners with limits of their own, by name."""

    owners: list[OwnerLimitsAnswer]


def owner_limits(owner: str, body: OwnerLimitsBody) -> OwnerLimited:
    """Return the limits that a body asks for. Raises InvalidInput."""
    named = (body.concurrency, body.per_second, body.burst, body.waiting)
    if all(value is None for value in named):
        raise InvalidInput("name at least one limit; DELETE takes an owner's own limits away")
    if body.per_second is not None and 0 < body.per_second < LEAST_PER_SECOND:
        raise InvalidInput(f"0, which is no limit, or at least {LEAST_PER_SECOND:f}", "$.perSecond")
    check_burst(body.per_second, body.burst)
    return OwnerLimited(
        owner=owner,
        concurrency=body.concurrency,
        per_second=body.per_second,
        burst=body.burst,
        waiting=body.waiting,
    )


def check_burst(per_second: float | None, burst: int | None) -> None:
    """Raise InvalidInput for a burst without the rate that it belongs to."""
    if burst is not None and not per_second:
        raise InvalidInput("a burst is how far `perSecond` may be exceeded for once; name that, too", "$.burst")


def owner_answer(owner: str, state: OwnerState, service: Allowance) -> OwnerLimitsAnswer:
    found = allowance(state, service)
    own = state.own
    return OwnerLimitsAnswer(
        owner=owner,
        concurrency=found.limits.concurrency,
        per_second=found.limits.per_second,
        burst=found.limits.most_at_once,
        waiting=found.waiting,
        own=OwnLimits(concurrency=own.concurrency, per_second=own.per_second, burst=own.burst, waiting=own.waiting)
        if own is not None
        else None,
    )
