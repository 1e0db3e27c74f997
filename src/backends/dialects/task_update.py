"""The contract's update and TaskResult, read in one way: as an answer, as a part of a streamed one, and as a callback.

The outcome depends on `status`, `data` and `message` alone. Any other field is kept as it came, and a wrong one never
turns an ending into something else.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from ...errors import InvalidInput
from ...events.envelope import NULL
from ...events.ids import is_task_id
from ...wire.validation_errors import invalid
from .dialect import Completed, Ending, FailedByBackend, Update

Status = Literal["WAITING", "PROCESSING", "FINISHED", "FAILED"]
T = TypeVar("T")

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
    """A line of the server's log, shown to whoever follows the task."""
    output: str | None = None
    """What has come of the task since the last report, as text."""


class _ProgressMetadata(UpdateMetadata, kw_only=True):
    status: Any = None


class _Outer(Struct, kw_only=True):
    metadata: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    backend_task_id: Any = None
    task_id: Any = None


class _Outcome(Struct, kw_only=True):
    status: Status | UnsetType = UNSET
    message: Any = None
    server_id: Any = None


class _TaskResult(Struct, kw_only=True):
    task_id: str
    backend_task_id: str | None
    data: Raw
    metadata: Raw


OUTER = frozenset(_Outer.__struct_fields__)
SHORT = OUTER | frozenset(UpdateMetadata.__struct_fields__)
"""Fields of an update in short, of which it has at least one."""

_outer = msgspec.json.Decoder(_Outer)
_outcome = msgspec.json.Decoder(_Outcome)
_progress = msgspec.json.Decoder(_ProgressMetadata)
_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


class TaskUpdate(Struct, frozen=True, kw_only=True):
    """An update or a TaskResult."""

    status: Status
    message: str | None
    server_id: str
    """As the server calls itself; empty if it does not say."""
    has_data: bool
    data: Raw
    """null if there is none."""
    backend_task_id: Any
    """As the server says; only a text is used."""
    task_id: Any
    """As the server says; older servers put their own ids here."""
    metadata: Raw
    """As it came; of an update in short, all of it."""
    is_short: bool

    @property
    def is_final(self) -> bool:
        return self.status in ("FINISHED", "FAILED")

    @property
    def digest(self) -> str:
        """Return a digest that two final updates share if they say the same."""
        return hashlib.sha256(self.status.encode() + b"\n" + bytes(self.data)).hexdigest()

    def is_of_another(self, task_id: str) -> bool:
        """Return True if the server names another task of ours."""
        return self.task_id != task_id and isinstance(self.task_id, str) and is_task_id(self.task_id)

    def progress(self) -> Update:
        """Return the update as progress. Raises InvalidInput if a documented field has a wrong value."""
        metadata = _decode(_progress, self.metadata, "$" if self.is_short else "$.metadata")
        return Update(
            progress=metadata.progress,
            message=metadata.message,
            custom_data=metadata.custom_data,
            lines=() if metadata.log is None else (metadata.log,),
            output=metadata.output or "",
        )

    def result(self, task_id: str, **seen: Any) -> bytes:
        """Return the TaskResult; `seen` is what metadata says where the server does not."""
        metadata = self.metadata
        if seen:
            said = _fields.decode(metadata)
            kept = {name: raw for name, raw in said.items() if not (self.is_short and name in OUTER)}
            metadata = Raw(_encode({**seen, **kept}))
        backend_task_id = self.backend_task_id if isinstance(self.backend_task_id, str) else None
        return _encode(_TaskResult(task_id=task_id, backend_task_id=backend_task_id, data=self.data, metadata=metadata))

    def ending(self, result: bytes) -> Ending:
        """Return the end that a final update reports."""
        if self.status == "FINISHED":
            return Completed(result)
        return FailedByBackend(result, (self.message or "the server reports failure")[:LONGEST_MESSAGE])


def read_update(text: bytes, *, may_be_short: bool = False) -> TaskUpdate:
    """Return the update that a JSON object is. Raises InvalidInput if it has no `metadata.status` of the contract.

    In short (`may_be_short`), the fields of metadata are at the top, and the status may be left out: with `data` it is
    FINISHED, without PROCESSING.
    """
    outer = _decode(_outer, text, "$")
    is_short = outer.metadata is UNSET
    metadata = Raw(text) if is_short else cast(Raw, outer.metadata)
    if is_short and not may_be_short:
        raise InvalidInput("is required and must be an object", "$.metadata")
    outcome = _decode(_outcome, metadata, "$" if is_short else "$.metadata")
    data = NULL if outer.data is UNSET else outer.data
    if (status := outcome.status) is UNSET:
        if not may_be_short:
            raise InvalidInput(f"is required and must be one of {', '.join(get_args(Status))}", "$.metadata.status")
        status = "PROCESSING" if data == NULL else "FINISHED"
    return TaskUpdate(
        status=status,
        message=outcome.message if isinstance(outcome.message, str) else None,
        server_id=outcome.server_id if isinstance(outcome.server_id, str) else "",
        has_data=outer.data is not UNSET,
        data=data,
        backend_task_id=outer.backend_task_id,
        task_id=outer.task_id,
        metadata=metadata,
        is_short=is_short,
    )


def wrapped(task_id: str, data: bytes, **seen: Any) -> bytes:
    """Return the TaskResult for an answer that is none: the answer is its `data`."""
    return _encode(_TaskResult(task_id=task_id, backend_task_id=None, data=Raw(data), metadata=Raw(_encode(seen))))


def _decode(decoder: msgspec.json.Decoder[T], text: bytes, path: str) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        found = invalid(error, decoder.type)
        raise InvalidInput(found.detail, path + found.path.removeprefix("$")) from None
