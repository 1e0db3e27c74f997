"""The contract's TaskResult: what a backend answers, and what it reports by callback."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from ..events.ids import is_task_id

Status = Literal["WAITING", "PROCESSING", "FINISHED", "FAILED"]


class Metadata(Struct, kw_only=True):
    """The part of `metadata` that we read. What else it holds is kept as it came."""

    status: Status
    server_id: str | None = None
    progress: float | None = None
    """Percent, 0 to 100."""
    message: str | None = None


class Shape(Struct, kw_only=True):
    """What tells a TaskResult from any other JSON."""

    data: Raw
    metadata: Metadata
    backend_task_id: str | None = None
    task_id: Any = None
    """As the backend says; not used where it is no task id of ours: older backends have put others there."""

    def is_of_another(self, task_id: str) -> bool:
        """Tell whether this is the result of another task, by its own word."""
        return self.task_id != task_id and isinstance(self.task_id, str) and is_task_id(self.task_id)


class Acceptance(Struct, kw_only=True):
    """A 202: the outcome will follow by callback."""

    status: Literal["PROCESSING", "WAITING"] = "PROCESSING"
    backend_task_id: str | None = None


class _Whole(Struct, kw_only=True):
    task_id: str
    backend_task_id: str | None
    data: Raw
    metadata: Raw


class _PlainMetadata(Struct, kw_only=True):
    server_id: str
    processing_time: int
    model_time: int = 0
    queue_time: int = 0
    progress: int = 100
    status: Status = "FINISHED"
    message: None = None


_shape = msgspec.json.Decoder(Shape)
_acceptance = msgspec.json.Decoder(Acceptance)
_encode = msgspec.json.Encoder().encode


def parse(body: bytes) -> Shape | None:
    """Return what is in a TaskResult, None for JSON of any other shape."""
    try:
        return _shape.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def parse_acceptance(body: bytes) -> Acceptance:
    """Return what a 202 says; one that says nothing we know is an acceptance all the same."""
    try:
        return _acceptance.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Acceptance()


def wrapped(task_id: str, server_id: str, data: bytes, processing_time_ms: int) -> bytes:
    """Return the TaskResult for an answer that is none: the answer is its `data`."""
    metadata = _encode(_PlainMetadata(server_id=server_id, processing_time=processing_time_ms))
    return _encode(_Whole(task_id=task_id, backend_task_id=None, data=Raw(data), metadata=Raw(metadata)))


def completed(task_id: str, backend_task_id: str | None, data: Raw, metadata: Raw) -> bytes:
    """Return the TaskResult for an update, which comes without the id."""
    return _encode(_Whole(task_id=task_id, backend_task_id=backend_task_id, data=data, metadata=metadata))


def digest(status: Status, data: Raw) -> str:
    """Return what tells whether two final updates are the same."""
    return hashlib.sha256(status.encode() + b"\n" + bytes(data)).hexdigest()
