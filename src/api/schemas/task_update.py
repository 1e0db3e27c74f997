"""What a backend (or the owner) reports of a task: checked, and turned into a command."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ...backends import task_result
from ...backends.progress_update import UpdateMetadata, progress
from ...commands.task import FailTask, Reporter, ReportProgress, SucceedTask, TaskCommand
from ...errors import InvalidInput
from ...events.envelope import Stored
from ...events.task import AttemptStarted, StoredResult, TaskEvent
from ...submission.body import parse_json_object
from ...wire.validation_errors import invalid


class _Update(Struct, kw_only=True):
    metadata: Raw
    data: Raw = Raw(b"null")
    backend_task_id: str | None = None
    task_id: str | None = None


class UpdateBody(_Update, kw_only=True):
    """A TaskResult less its id, as a backend (or the owner) sends it."""

    metadata: UpdateMetadata  # type: ignore[assignment]
    data: Any = None
    """What came of the task."""
    backend_task_id: str | None = None
    """What the backend calls the task."""
    task_id: str | None = None
    """May be left out; must be the path's if it is there."""


_update = msgspec.json.Decoder(_Update)
_metadata = msgspec.json.Decoder(UpdateMetadata)


class Report(Struct, frozen=True, kw_only=True):
    """An update, checked."""

    status: task_result.Status
    server_id: str
    """As the reporter calls itself; empty if it does not say."""
    metadata: UpdateMetadata
    result: bytes
    """The TaskResult it comes to, JSON."""
    digest: str

    @property
    def is_final(self) -> bool:
        return self.status in ("FINISHED", "FAILED")

    def progress(self, reporter: Reporter) -> ReportProgress:
        """Return the command for a report that is not final."""
        return progress(self.metadata, reporter)

    def ending(self, reporter: Reporter, result: StoredResult) -> TaskCommand:
        """Return the command for a final report, whose result is stored."""
        if self.status == "FINISHED":
            return SucceedTask(reporter=reporter, result=result, update_digest=self.digest)
        error = self.metadata.message or "the server reports failure"
        return FailTask(reporter=reporter, error=error, result=result, update_digest=self.digest)


def parse_report(body: bytes, task_id: str, max_depth: int) -> Report:
    """Return the update that a body is. Raises InvalidInput naming what is wrong, and where."""
    parse_json_object(body, max_depth)
    try:
        update = _update.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error, _update.type) from None
    try:
        metadata = _metadata.decode(update.metadata)
    except msgspec.ValidationError as error:
        found = invalid(error, _metadata.type)
        raise InvalidInput(found.detail, "$.metadata" + found.path.removeprefix("$")) from None
    if update.task_id not in (None, task_id):
        raise InvalidInput("the body is about another task than the path", "$.task_id")
    return Report(
        status=metadata.status,
        server_id=metadata.server_id or "",
        metadata=metadata,
        result=task_result.completed(task_id, update.backend_task_id, update.data, update.metadata),
        digest=task_result.digest(metadata.status, update.data),
    )


def attempt_of_token(token: str, history: Sequence[Stored[TaskEvent]]) -> AttemptStarted | None:
    """Return the attempt that a callback token was made for, None if it is of no attempt of this task."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    for stored in history:
        event = stored.recorded.event
        if isinstance(event, AttemptStarted) and hmac.compare_digest(event.token_digest, digest):
            return event
    return None
