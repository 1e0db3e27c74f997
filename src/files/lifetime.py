"""The end of a file: whether it is to be deleted, and why. Pure.

    its own `expiresAt` has passed           expired    no task that has not ended refers to it
    the last task that refers to it is gone  tasks      and it has no `expiresAt`
    older than the retention of files        age        likewise, and no task that has not ended refers to it
    its attempt's task is gone               tasks      and no other task refers to it

A task is gone if its owner deleted it, or if it is past its retention or never came.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from ..commands.file import FilePresent
from ..events.file import FileEnd

Standing: TypeAlias = Literal["gone", "ended", "unfinished"]
"""How a task is that refers to a file."""


def ending_of(
    file: FilePresent, maker: Standing | None, tasks: Sequence[Standing], retention: timedelta, now: datetime
) -> FileEnd | None:
    """Return why a file is to be deleted now; None: it stays.

    `maker`: the task whose attempt stored it; None: no attempt did. `tasks`: those that refer to it. `retention`: 0:
    files are kept however old they are.
    """
    created = file.created
    if "unfinished" in tasks or maker == "unfinished":
        return None
    if created.expires_at is not None:
        return "expired" if created.expires_at <= now else None
    if maker is not None:
        return "tasks" if all(each == "gone" for each in (maker, *tasks)) else None
    if tasks and all(each == "gone" for each in tasks):
        return "tasks"
    return "age" if retention and file.created_at + retention <= now else None
