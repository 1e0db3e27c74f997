"""How limits are used, as the scheduler and the index know it, and what another limit would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import structlog
from msgspec import MsgspecError

from ..clock import utc_now
from ..commands.owner import Allowance
from ..container import Container
from ..errors import StoreUnavailable
from ..events.subjects import SCHEDULER_EXPLAIN
from ..explain.limit_use import LimitAnswer, LimitQuestion, LimitUse, decode
from ..index.lists import SERVICE
from ..index.loads import Load, loads

log = structlog.get_logger(__name__)

SCHEDULER_SECONDS = 1.0
"""How long to wait for the scheduler's answer."""
UNUSED = LimitUse()


async def ask_limits(
    container: Container, *, owners: Sequence[str] = (), types: Sequence[str] = ()
) -> LimitAnswer | None:
    """Return how the limits of owner tokens and types are used; None if no scheduler answers in time."""
    question = msgspec.json.encode(LimitQuestion(owners=tuple(owners), types=tuple(types)))
    try:
        answer = await container.reading.request(SCHEDULER_EXPLAIN, question, timeout_seconds=SCHEDULER_SECONDS)
        return decode(answer.data)
    except (StoreUnavailable, MsgspecError) as error:
        log.info("limits.scheduler-silent", reason=str(error))
        return None


async def loads_of_owners(container: Container, owners: Sequence[str]) -> dict[str, Load]:
    """Return the tasks of owner tokens now. Raises IndexNotReady."""
    return await container.index.run(partial(loads, of="owner", values=owners, now=utc_now()), SERVICE)


class LimitEffect(NamedTuple):
    """The effect that other limits would have on an owner's tasks."""

    would_hold: int
    would_release: int
    over: int
    """Running tasks beyond the concurrency limit: they go on."""


def effect_of(limits: Allowance, present: Allowance, use: LimitUse, load: Load) -> LimitEffect:
    """Return what limits would do right after they are set in the place of the present ones.

    Those that could start but for the limit: tasks it holds, and queued ones that were not granted.
    """
    concurrency, burst = limits.limits.concurrency, limits.limits.most_at_once
    ready = use.held + max(0, load.waiting - load.held - use.pending)
    free = math.inf if concurrency is None else max(0, concurrency - use.counted)
    if burst is not None:
        was = present.limits
        is_new = use.tokens is None or (was.per_second, was.burst) != (limits.limits.per_second, limits.limits.burst)
        free = min(free, burst if is_new else int(use.tokens or 0))
    held = ready - min(ready, int(free)) if free < ready else 0
    return LimitEffect(
        would_hold=max(0, held - use.held),
        would_release=max(0, use.held - held),
        over=0 if concurrency is None else max(0, use.counted - concurrency),
    )
