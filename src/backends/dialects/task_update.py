"""Updates and TaskResults, read in one way: as an answer, as a part of a streamed one, and as a callback.

The outcome depends on `status`, `data` and `message` alone. Any other field is kept as it came, and a wrong one never
turns an ending into something else.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from ...errors import InvalidInput
from ...events.envelope import NULL
from ...events.ids import is_task_id
from ...wire.validation_errors import invalid
from .dialect import Completed, Ending, FailedByBackend, Update

Status = Literal["WAITING", "PROCESSING", "FINISHED", "FAILED"]
STATUSES = get_args(Status)

LONGEST_MESSAGE = 2_000
LONGEST_LINE = 8_000


class UpdateMetadata(Struct, kw_only=True):
    """The documented fields of `metadata`; what else it holds is kept as it came."""

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
    """A line of the server's log, shown to followers of the task."""
    output: str | None = None
    """Text produced since the last report."""


class _ProgressMetadata(UpdateMetadata, kw_only=True):
    status: Any = None


class _Parts(Struct, kw_only=True):
    data: Raw = NULL
    metadata: Raw = NULL


class _TaskResult(Struct, kw_only=True):
    task_id: str
    backend_task_id: str | None
    data: Raw
    metadata: Raw


OUTER = frozenset({"metadata", "data", "backend_task_id", "task_id"})
SHORT = OUTER | frozenset(UpdateMetadata.__struct_fields__)
"""Fields of an update in short, of which it has at least one."""

_parts = msgspec.json.Decoder(_Parts)
_progress = msgspec.json.Decoder(_ProgressMetadata)
_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


class TaskUpdate(Struct, frozen=True):
    """An update or a TaskResult."""

    text: bytes
    content: dict[str, Any]
    """What the text holds."""
    metadata: dict[str, Any]
    """Of an update in short, all of it."""
    status: Status

    @property
    def is_final(self) -> bool:
        return self.status in ("FINISHED", "FAILED")

    @property
    def is_short(self) -> bool:
        return self.metadata is self.content

    @property
    def has_data(self) -> bool:
        return "data" in self.content

    @property
    def server_id(self) -> str:
        """Return the server's name for itself; empty if there is none."""
        return _text(self.metadata, "server_id") or ""

    @property
    def backend_task_id(self) -> str | None:
        return _text(self.content, "backend_task_id")

    @property
    def digest(self) -> str:
        """Return a digest that two final updates share if they say the same."""
        return hashlib.sha256(self.status.encode() + b"\n" + bytes(_parts.decode(self.text).data)).hexdigest()

    def is_of_another(self, task_id: str) -> bool:
        """Return True if the server names another task of ours. Older servers put their own ids here."""
        named = self.content.get("task_id")
        return named != task_id and isinstance(named, str) and is_task_id(named)

    def progress(self) -> Update:
        """Return the update as progress. Raises InvalidInput if a documented field has a wrong value."""
        try:
            metadata = _progress.decode(self.text if self.is_short else _parts.decode(self.text).metadata)
        except msgspec.ValidationError as error:
            found = invalid(error, _progress.type)
            path = "$" if self.is_short else "$.metadata"
            raise InvalidInput(found.detail, path + found.path.removeprefix("$")) from None
        return Update(
            progress=metadata.progress,
            message=metadata.message,
            custom_data=metadata.custom_data,
            lines=() if metadata.log is None else (metadata.log,),
            output=metadata.output or "",
        )

    def result(self, task_id: str, **seen: Any) -> bytes:
        """Return the TaskResult; `seen` is what metadata says where the server does not."""
        parts = _parts.decode(self.text)
        metadata = parts.metadata
        if seen:
            fields = _fields.decode(self.text if self.is_short else metadata)
            kept = {name: raw for name, raw in fields.items() if not (self.is_short and name in OUTER)}
            metadata = Raw(_encode({**seen, **kept}))
        return _encode(
            _TaskResult(task_id=task_id, backend_task_id=self.backend_task_id, data=parts.data, metadata=metadata)
        )

    def ending(self, result: bytes) -> Ending:
        """Return the end that a final update reports."""
        if self.status == "FINISHED":
            return Completed(result)
        error = _text(self.metadata, "message") or "the server reports failure"
        return FailedByBackend(result, error[:LONGEST_MESSAGE])


def read_update(text: bytes, content: Any, *, may_be_short: bool = False) -> TaskUpdate:
    """Return the update in a JSON text that holds `content`. Raises InvalidInput for an unknown status.

    In short (`may_be_short`), the fields of metadata are at the top, and the status may be left out: with `data` it is
    FINISHED, without PROCESSING.
    """
    if not isinstance(content, dict):
        raise InvalidInput("must be an object", "$")
    is_short = may_be_short and "metadata" not in content
    path = "$" if is_short else "$.metadata"
    metadata = content if is_short else content.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidInput("is required and must be an object", path)
    status: Any = metadata.get("status")
    if may_be_short and "status" not in metadata:
        status = "PROCESSING" if content.get("data") is None else "FINISHED"
    if status not in STATUSES:
        raise InvalidInput(f"is required and must be one of {', '.join(STATUSES)}", f"{path}.status")
    return TaskUpdate(text, content, metadata, status)


def wrapped(task_id: str, data: bytes, **seen: Any) -> bytes:
    """Return the TaskResult for an answer that is none: the answer is its `data`."""
    return _encode(_TaskResult(task_id=task_id, backend_task_id=None, data=Raw(data), metadata=Raw(_encode(seen))))


def _text(fields: dict[str, Any], name: str) -> str | None:
    """Return a field that is text; None for anything else."""
    value = fields.get(name)
    return value if isinstance(value, str) else None
