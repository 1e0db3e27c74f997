"""Limits of owners, as admins send and read them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict

from ...commands.owner import Allowance, OwnerState, allowance
from ...errors import InvalidInput
from ...events.owner import OwnerLimited
from .shared import Page

LEAST_PER_SECOND = 0.00001
Concurrency = Annotated[int, Meta(ge=0, le=1_000_000)]
PerSecond = Annotated[float, Meta(ge=0, le=1_000_000)]
Burst = Annotated[int, Meta(ge=1, le=1_000_000)]
Waiting = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Stored = Annotated[int, Meta(ge=0, le=2**60)]


class OwnerLimitsBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """An owner's own limits, replacing previous ones. Absent ones come from the service's settings; 0: no limit."""

    concurrency: Concurrency | None = None
    """Running tasks."""
    per_second: PerSecond | None = None
    """Average starts per second, at least 0.00001."""
    burst: Burst | None = None
    """Largest burst of starts, with `perSecond`; null: `perSecond`, at least 1."""
    waiting: Waiting | None = None
    """Waiting tasks; a submission beyond them is a 429."""
    stored: Stored | None = None
    """Bytes of events and results; a submission beyond them is a 429."""


class QuotaBody(Struct, kw_only=True, rename="camel"):
    """A quota of an owner."""

    policy: str
    """Name of the quota, as in `RateLimit-Policy` and `violated-policies` of a 429: `waiting`, `stored`, `streams`."""
    unit: str
    """What is counted: `tasks`, `bytes` or `streams`."""
    limit: int | None
    """Largest number allowed; null: no limit."""
    used: int
    """Present number, as this process knows it. It may be some seconds old."""
    frees_at: int | None = None
    """Of `stored`: when the oldest day is past the retention, in ms since the epoch; null: never."""


class OwnerUse(Struct, kw_only=True, rename="camel"):
    """What an owner uses of the service now."""

    running: int
    waiting: int
    held: int
    """Those of `waiting` that are in no queue."""
    starts_per_second: float
    """Of attempts, on average over about the last minute."""
    counted: int | None
    """Tasks that count towards `concurrency`: they run or were granted their start. Null: no scheduler answers."""
    held_by_limit: int | None
    """Tasks that wait for the owner's limits first. Null: no scheduler answers."""
    quotas: list[QuotaBody]


class OwnerLimitsAnswer(Struct, kw_only=True, rename="camel"):
    """The limits in force for an owner; null: no limit."""

    owner: str
    """The `sub` of the owner's token."""
    concurrency: int | None
    """Running tasks."""
    per_second: float | None
    """Average starts per second."""
    burst: int | None
    """Largest burst of starts."""
    waiting: int | None
    """Waiting tasks; a submission beyond them is a 429."""
    stored: int | None
    """Bytes of events and results; a submission beyond them is a 429."""
    own: OwnerLimitsBody | None
    """The owner's own limits, as set; null: all are the service's."""
    use: OwnerUse | UnsetType = UNSET
    """In the list with `all=true`; else missing."""


class QuotasAnswer(Struct, kw_only=True, rename="camel"):
    """The quotas of an owner."""

    owner: str
    """The `sub` of the owner's token."""
    quotas: list[QuotaBody]


class LimitsPreview(Struct, kw_only=True, rename="camel"):
    """What limits would do right after they are set. A rate limit holds tasks back for a while only."""

    owner: str
    would_hold: int
    """Queued tasks that they would hold back."""
    would_release: int
    """Tasks held by the present limits that could start."""
    over: int
    """Running tasks beyond `concurrency`: they go on."""
    refuses: list[str]
    """Quotas that would be used up, so that submissions are a 429: `waiting`, `stored`."""


class OwnerPage(Page, kw_only=True, rename="camel"):
    """Owners by name: those with limits of their own, or all."""

    owners: list[OwnerLimitsAnswer]


def owner_limits(owner: str, body: OwnerLimitsBody) -> OwnerLimited:
    """Return the limits in a body. Raises InvalidInput."""
    if body == OwnerLimitsBody():
        raise InvalidInput("set at least one limit; DELETE removes an owner's own limits")
    if body.per_second is not None and 0 < body.per_second < LEAST_PER_SECOND:
        raise InvalidInput(f"must be 0 (no limit) or at least {LEAST_PER_SECOND:f}", "$.perSecond")
    check_burst(body.per_second, body.burst)
    return OwnerLimited(owner=owner, **asdict(body))  # the fields have the same names


def check_burst(per_second: float | None, burst: int | None) -> None:
    """Raise InvalidInput for a burst without a rate."""
    if burst is not None and not per_second:
        raise InvalidInput("requires `perSecond`: a burst is how far that rate may be exceeded at once", "$.burst")


def owner_answer(owner: str, state: OwnerState, service: Allowance) -> OwnerLimitsAnswer:
    found = allowance(state, service)
    return OwnerLimitsAnswer(
        owner=owner,
        concurrency=found.limits.concurrency,
        per_second=found.limits.per_second,
        burst=found.limits.most_at_once,
        waiting=found.waiting,
        stored=found.stored,
        own=msgspec.convert(state.own, OwnerLimitsBody | None, from_attributes=True),
    )
