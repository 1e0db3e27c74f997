"""What a backend (or the owner) reports of a task: checked, and turned into a command."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from .. import task_result
from ..commands.task import FailTask, Reporter, ReportProgress, SucceedTask, TaskCommand
from ..errors import InvalidInput
from ..events.envelope import NULL, Stored
from ..events.task import AttemptStarted, StoredResult, TaskEvent
from .submission import invalid, parse_json_object

LONGEST_MESSAGE = 2_000
LONGEST_LINE = 8_000


class _Update(Struct, kw_only=True):
    metadata: Raw
    data: Raw = Raw(b"null")
    backend_task_id: str | None = None
    task_id: str | None = None


class UpdateMetadata(Struct, kw_only=True):
    """The part of `metadata` that we read; what else it holds is kept as it came."""

    status: task_result.Status
    """`PROCESSING` is progress, `FINISHED` and `FAILED` end the task."""
    server_id: Annotated[str, Meta(max_length=128)] | None = None
    """As the server was registered."""
    progress: Annotated[float, Meta(ge=0, le=100)] | None = None
    """Percent."""
    message: Annotated[str, Meta(max_length=LONGEST_MESSAGE)] | None = None
    processing_time: float | None = None
    """Milliseconds, as are the two below."""
    model_time: float | None = None
    queue_time: float | None = None
    custom_data: Raw = msgspec.field(default_factory=lambda: NULL)  # msgspec describes no Raw as a plain default
    """Anything; kept with the progress."""
    log: Annotated[str, Meta(max_length=LONGEST_LINE)] | None = None
    """A line of the server's log, shown to whoever follows the task."""
    output: str | None = None
    """What has come of the task since the last report, as text."""


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
        metadata = self.metadata
        return ReportProgress(
            reporter=reporter,
            progress=metadata.progress,
            message=metadata.message,
            custom_data=metadata.custom_data,
            lines=() if metadata.log is None else (metadata.log,),
            output=metadata.output or "",
        )

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
        raise invalid(error) from None
    try:
        metadata = _metadata.decode(update.metadata)
    except msgspec.ValidationError as error:
        found = invalid(error)
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
