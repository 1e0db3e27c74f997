"""Spans, as the code that begins them sees them. `runtime.tracing` decides whether there are any."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from ..wire.trace import TraceContext


class TraceSpan(Protocol):
    """Something that takes time. It ends with the block; an exception makes it an error."""

    @property
    def context(self) -> TraceContext:
        """What the receiver of a request gets as its parent."""

    def set_outcome(self, outcome: str, *, failed: bool = False) -> None:
        """Set the attribute `taskstream.outcome`; `failed` marks the span as an error."""

    def end(self) -> None:
        """End it. Does nothing if it has ended."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracing(Protocol):
    """Begins spans. Attributes have ids and names, and nothing of payloads, results, errors, owners or secrets."""

    def submission(self, caller: TraceContext, *, sent: str, is_batch: bool = False) -> TraceSpan:
        """Begin the span of a submission. `sent`: the id of the task or the batch."""

    def attempt(self, submitted: TraceContext, *, task_id: str, task_type: str, pool: str, attempt: int) -> TraceSpan:
        """Begin the span of an attempt, linked to the one of its task's submission."""

    def call(self, attempt: TraceSpan, *, server_id: str, dialect: str) -> TraceSpan:
        """Begin the span of an attempt's requests to its server."""

    def delivery(self, submitted: TraceContext, *, delivery_id: str, event: str) -> TraceSpan:
        """Begin the span of one try of a webhook delivery."""

    async def close(self) -> None:
        """Export what is left, for a bounded time."""
