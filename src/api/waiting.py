"""Answers that wait for a task's end: `?wait=n`, and `Prefer: wait=n` (RFC 7240)."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Annotated

from litestar.params import HeaderParameter, QueryParameter

from ..container import Container
from ..projections.task_reader import TaskDetail
from ..projections.task_view import ACTIVE
from ..push.feed import FeedPosition
from ..push.hub import Scope

LONGEST_SECONDS = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?(?=$|[,;\s])", re.IGNORECASE)

Wait = Annotated[
    int, QueryParameter(ge=0, le=LONGEST_SECONDS, description="Seconds the answer may wait for the task's end")
]
Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer", description=f"`wait=n`: the answer waits up to n seconds ({LONGEST_SECONDS} at most) for the end"
    ),
]


def preferred_wait(prefer: str | None) -> int:
    """Return the seconds that a `Prefer` header would wait, 0 if it does not ask for it."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), LONGEST_SECONDS) if found else 0


async def until_ended(container: Container, detail: TaskDetail, seconds: int) -> TaskDetail:
    """Return a task once it has ended, or as it is when the time is over."""
    if not seconds or detail.view.status not in ACTIVE:
        return detail
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            contextlib.aclosing(
                container.feeds.feed(Scope(ref=detail.ref), FeedPosition(detail.view.sequence), seconds)
            ) as feed,
        ):
            async for told in feed:
                if told is not None and told.is_end:
                    break
    return await container.tasks.detail(detail.ref)
