"""The sweep of large results that no event refers to: a process was killed between storing one and recording the end.

A result is deleted if no event of its task refers to it, the task has ended, and it was stored more than `SAFE_AGE`
ago. No event can refer to it then, now or later:

* An end that names an attempt is refused once the task has ended: that attempt never runs again.
* Any other end, a person's, is decided within 20 minutes of the storing or refused (`decided_by`). The log accepts it
  only if the task has not changed since the decision. The sweeper saw the task ended later than that.

The end is looked for before the references: the other way round, the end that refers could come in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from itertools import takewhile

import structlog

from ..container import Container
from ..errors import UnreadableEvent
from ..events.codec import task_codec
from ..events.ids import TaskRef
from ..events.kinds import OVER_WORDS, word_of
from ..events.subjects import history_filter, task_root, task_word
from ..events.task import ProgressReported, TaskFailed, TaskSucceeded, object_names
from ..runtime import metrics
from ..streams.jetstream.messages import last_position, read, read_current
from ..streams.log import decode
from ..streams.objects import DescribedObject
from ..streams.results import PARTIAL
from ..streams.topology.definitions import TASKS

log = structlog.get_logger(__name__)

SAFE_AGE = timedelta(hours=1)
"""Age below which a result is left alone. See `LONGEST_UNDECIDED` in `push/attempt_reports.py`."""
CHECKED_AT_ONCE = 200
"""Results per run. With more, a run takes up where the last one stopped."""
REFERRING = (TaskSucceeded, TaskFailed)


class ResultSweeper:
    """Walks through the stored results, oldest first, again and again."""

    def __init__(self, container: Container) -> None:
        self._objects = container.objects
        self._reading = container.reading
        self._settled = 0
        """Every result stored up to this sequence is referred to, or deleted."""
        self._position = 0
        """How far this walk has come."""
        self._left: int | None = None
        """The first result of this walk that was left alone: its task has not ended, or cannot be read."""

    async def run_once(self, now: datetime) -> Mapping[str, int]:
        """Look at the next results; return how many were deleted, and how many could not be judged."""
        swept = unreadable = 0
        found = await self._objects.descriptions(self._position, CHECKED_AT_ONCE)
        due = list(takewhile(lambda each: each.stored_at + SAFE_AGE < now, found))
        for each in due:
            try:
                is_orphan = await self._is_orphan(each)
            except UnreadableEvent as error:
                log.warning("result-sweeper.unreadable", result=each.name, reason=str(error))
                unreadable += 1
                is_orphan = None
            if is_orphan:
                await self._objects.remove(each)
                metrics.results_swept.inc()
                log.info("result-sweeper.deleted", result=each.name, size_bytes=each.size_bytes)
                swept += 1
            if is_orphan is None and self._left is None:
                self._left = each.sequence
            self._position = each.sequence
        if len(due) < CHECKED_AT_ONCE:
            self._settled = self._position if self._left is None else self._left - 1
            self._position, self._left = self._settled, None
        return {"results_swept": swept, "unreadable": unreadable}

    async def _is_orphan(self, found: DescribedObject) -> bool | None:
        """Return True if no event refers to a result, now or later; None if that is not known yet."""
        match found.name.split("."):
            case [owner, unique, _, *_]:
                root = task_root(TaskRef(owner, unique))
            case _:
                return False  # not ours
        last = await last_position(self._reading, TASKS, history_filter(root))
        if last is not None and task_word(last.subject) not in OVER_WORDS:
            return None
        for subject in _referring(root, found.name):
            ends = await read_current(self._reading, TASKS, subject, partial(read, self._reading, TASKS, subject))
            if any(found.name in object_names(decode(task_codec, end).recorded.event) for end in ends):
                return False
        return True


def _referring(root: str, name: str) -> list[str]:
    """Return the filters of the events of a task that may refer to an object."""
    if name.endswith(PARTIAL):
        return [f"{root}.{word_of(ProgressReported)}"]
    return [history_filter(f"{root}.{word_of(kind)}") for kind in REFERRING]
