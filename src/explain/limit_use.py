"""How the limits of owners and types are used: a request on plain NATS, answered by the scheduler that holds the lease.

A scheduler of an earlier version does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from ..scheduling.depth import Reason
from ..scheduling.limit import Limit, LimitKey
from ..scheduling.limiter import Limiter

MOST_ASKED = 1_000
"""Owners and types of one question, of each."""


class LimitQuestion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which limits."""

    owners: tuple[str, ...] = ()
    """Owner tokens."""
    types: tuple[str, ...] = ()


class LimitUse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The use of one limit."""

    counted: int = 0
    """Tasks that run or were granted their start."""
    pending: int = 0
    """Those of `counted` that have not started yet."""
    held: int = 0
    """Tasks that wait for this limit first."""
    tokens: float | None = None
    """Starts that the rate limit allows at once now; None: there is none."""


class LimitAnswer(Struct, frozen=True, kw_only=True):
    """The use of limits, without those that no active task needs."""

    as_of: int
    """Sequence of the TASKS log that this reflects."""
    owners: dict[str, LimitUse]
    types: dict[str, LimitUse]
    waiting_for: dict[str, dict[Reason, int]]
    """By type: what its waiting tasks wait for first, as counted less than a second ago."""


def use_of_limits(
    limiter: Limiter,
    question: LimitQuestion,
    waiting_for: Mapping[str, Mapping[Reason, int]],
    as_of: int,
    now: float,
) -> LimitAnswer:
    """Return how limits are used. `waiting_for`: of all types."""
    owners = {owner: limiter.known(LimitKey("owner", (owner,))) for owner in question.owners[:MOST_ASKED]}
    types = {name: limiter.known(LimitKey("type", (name,))) for name in question.types[:MOST_ASKED]}
    return LimitAnswer(
        as_of=as_of,
        owners={owner: _use(limit, now) for owner, limit in owners.items() if limit is not None},
        types={name: _use(limit, now) for name, limit in types.items() if limit is not None},
        waiting_for={name: dict(waiting_for[name]) for name in types if name in waiting_for},
    )


def _use(limit: Limit, now: float) -> LimitUse:
    return LimitUse(
        counted=limit.counted,
        pending=len(limit.pending),
        held=sum(map(len, limit.blocked)),
        tokens=limit.tokens(now),
    )


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(LimitAnswer).decode
decode_question = msgspec.json.Decoder(LimitQuestion).decode
