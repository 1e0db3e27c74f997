"""Long polling: answers that wait for the end of a task, by `?wait=n` or `Prefer: wait=n` (RFC 7240)."""

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
    int, QueryParameter(ge=0, le=LONGEST_SECONDS, description="Longest wait in seconds for the end of the task")
]
Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer", description=f"`wait=n`: wait up to n seconds, {LONGEST_SECONDS} at most, for the end of the task"
    ),
]


def preferred_wait(prefer: str | None) -> int:
    """Return the seconds of `wait` in a `Prefer` header, 0 without one."""
    found = _WAIT.search(prefer or "")
    return min(int(found[1]), LONGEST_SECONDS) if found else 0


async def until_ended(container: Container, detail: TaskDetail, seconds: int) -> TaskDetail:
    """Return a task when it has ended, or as it is after `seconds`."""
    if not seconds or detail.view.status not in ACTIVE:
        return detail
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            contextlib.aclosing(
                container.feeds.feed(Scope(ref=detail.ref), FeedPosition(detail.view.sequence), seconds)
            ) as feed,
        ):
            async for item in feed:
                if item is not None and item.is_end:
                    break
    return await container.tasks.detail(detail.ref)
