"""What a backend (or the owner) reports of a task: the body, and the attempt it is about."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ...backends.dialects.dialect import Update
from ...backends.dialects.task_update import TaskUpdate, UpdateMetadata, read_update
from ...errors import InvalidInput
from ...events.envelope import Stored
from ...events.task import AttemptStarted, TaskEvent
from ...submission.body import parse_json_object


class UpdateBody(Struct, kw_only=True):
    """A TaskResult less its id, as a backend (or the owner) sends it."""

    metadata: UpdateMetadata
    data: Any = None
    """What came of the task."""
    backend_task_id: str | None = None
    """What the backend calls the task."""
    task_id: str | None = None
    """May be left out; must be the path's if it is there."""


def parse_update(body: bytes, task_id: str, max_depth: int) -> tuple[TaskUpdate, Update]:
    """Return a body as an update, and as progress. Raises InvalidInput for any documented field with a wrong value."""
    parse_json_object(body, max_depth)
    update = read_update(body)
    progress = update.progress()
    if not isinstance(update.backend_task_id, str | None):
        raise InvalidInput("Expected `str | null`", "$.backend_task_id")
    if update.task_id not in (None, task_id):
        raise InvalidInput("the body is about another task than the path", "$.task_id")
    return update, progress


def attempt_of_token(token: str, history: Sequence[Stored[TaskEvent]]) -> AttemptStarted | None:
    """Return the attempt that a callback token was made for, None if it is of no attempt of this task."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    for stored in history:
        event = stored.recorded.event
        if isinstance(event, AttemptStarted) and hmac.compare_digest(event.token_digest, digest):
            return event
    return None
