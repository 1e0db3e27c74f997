"""What a server reports of its attempt, by callback or in a streamed answer: the contract's `metadata`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from ..commands.task_commands import Reporter, ReportProgress
from ..events.envelope import NULL
from .task_result import Status

LONGEST_MESSAGE = 2_000
LONGEST_LINE = 8_000


class UpdateMetadata(Struct, kw_only=True):
    """The part of `metadata` that we read; what else it holds is kept as it came."""

    status: Status
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


def progress(metadata: UpdateMetadata, reporter: Reporter) -> ReportProgress:
    """Return the command for a report that is not final."""
    return ReportProgress(
        reporter=reporter,
        progress=metadata.progress,
        message=metadata.message,
        custom_data=metadata.custom_data,
        lines=() if metadata.log is None else (metadata.log,),
        output=metadata.output or "",
    )
