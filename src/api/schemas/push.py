"""What is pushed, and the tokens for it."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from .tasks import TaskDetails, TaskSummary


class StreamToken(Struct, kw_only=True, rename="camel"):
    """A token for the address of a stream: `?token=…`."""

    token: str
    expires_at: int
    """Milliseconds since the epoch. A stream that is open stays open."""


class PushedState(Struct, kw_only=True, rename="camel", tag="state"):
    """A task as it is when the stream begins."""

    task_id: str
    sequence: int
    """Place in the log that this reflects."""
    task: TaskSummary | TaskDetails


_encode = msgspec.json.Encoder().encode


def encoded_state(task_id: str, sequence: int, task: TaskSummary | TaskDetails) -> bytes:
    return _encode(PushedState(task_id=task_id, sequence=sequence, task=task))
