"""Updates and TaskResults, read in one way: as an answer, as a part of a streamed one, and as a callback.

The outcome depends on `status` alone, and a status that is none of the four words has none. Every other documented
field is read leniently: a value of a wrong type is left out, one out of range is clamped or shortened, and a note says
so. The result is kept as it came but for these. `data` is never changed: with NaN in it, an update is refused.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec
from msgspec import Raw, Struct

from ...errors import InvalidInput
from ...events.envelope import NULL
from ...events.ids import is_task_id
from ...wire.json_text import Json
from .dialect import Completed, Ending, FailedByBackend, Update
from .reasons import FIELDS, reason_in, shortened

Status = Literal["WAITING", "PROCESSING", "FINISHED", "FAILED"]
STATUSES: tuple[Status, ...] = get_args(Status)

LONGEST_MESSAGE = 2_000
LONGEST_LINE = 8_000
LONGEST_NAME = 128
LONGEST_BACKEND_ID = 512
NAN_IN_DATA = "has NaN or Infinity, which JSON cannot hold; send null or text instead"
NAN_IS_NULL = "NaN and Infinity are read as null"
ROUNDING = 1e-6
"""Percent. A progress of 100.00000000000001 is a sum of fractions, not worth a note."""


class UpdateMetadata(Struct, kw_only=True):
    """The documented fields of `metadata`; what else it holds is kept as it came.

    Only `status` decides. A field of a wrong type is left out, and the attempt notes it.
    """

    status: Status
    """`PROCESSING` is progress, `FINISHED` and `FAILED` end the task. In any case."""
    server_id: str | None = None
    """As the server was registered."""
    progress: float | None = None
    """Percent; clamped to 0 to 100."""
    message: str | None = None
    """Shortened to 2,000 characters."""
    processing_time: float | None = None
    """Milliseconds, as are the two below."""
    model_time: float | None = None
    queue_time: float | None = None
    custom_data: Raw = msgspec.field(default_factory=lambda: NULL)  # msgspec describes no Raw as a plain default
    """Anything; kept with the progress."""
    log: str | None = None
    """A line of the server's log, shown to followers of the task. Shortened to 8,000 characters."""
    output: str | None = None
    """Text produced since the last report."""


class _Parts(Struct, kw_only=True):
    data: Raw = NULL
    metadata: Raw = NULL
    custom_data: Raw = NULL


class _TaskResult(Struct, kw_only=True):
    task_id: str
    backend_task_id: str | None
    data: Raw
    metadata: Raw


OUTER = frozenset({"metadata", "data", "backend_task_id", "task_id"})
SHORT = OUTER | frozenset(UpdateMetadata.__struct_fields__)
"""Fields of an update in short, of which it has at least one."""

_parts = msgspec.json.Decoder(_Parts)
_fields = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


class TaskUpdate(Struct, frozen=True):
    """An update or a TaskResult."""

    text: bytes
    content: dict[str, Any]
    """What the text holds."""
    is_short: bool
    """The fields of metadata are at the top."""
    status: Status
    said: dict[str, Any]
    """The documented fields as they were read; those left out are not in it."""
    changed: dict[str, Any]
    """Fields of metadata that read otherwise than they came; None: left out."""
    notes: tuple[str, ...]
    """What was left out, clamped or shortened, and why; at most one for each documented field, and one for NaN."""

    @property
    def is_final(self) -> bool:
        return self.status in ("FINISHED", "FAILED")

    @property
    def server_id(self) -> str:
        """Return the server's name for itself; empty if there is none."""
        return self.said.get("server_id") or ""

    @property
    def backend_task_id(self) -> str | None:
        return self.said.get("backend_task_id")

    @property
    def digest(self) -> str:
        """Return a digest that two final updates share if they say the same."""
        return hashlib.sha256(self.status.encode() + b"\n" + bytes(_parts.decode(self.text).data)).hexdigest()

    def is_of_another(self, task_id: str) -> bool:
        """Return True if the server names another task of ours."""
        return names_another(self.content, task_id)

    def progress(self) -> Update:
        """Return the update as progress."""
        outer = parts = _parts.decode(self.text)
        if not self.is_short:
            parts = _parts.decode(outer.metadata)
        line = self.said.get("log")
        return Update(
            progress=self.said.get("progress"),
            message=self.said.get("message"),
            custom_data=parts.custom_data,
            lines=() if line is None else (line,),
            output=self.said.get("output") or "",
            notes=self.notes,
            data=outer.data,
        )

    def result(self, task_id: str, **seen: Any) -> bytes:
        """Return the TaskResult; `seen` is what metadata says where the server does not."""
        parts = _parts.decode(self.text)
        return _encode(
            _TaskResult(
                task_id=task_id,
                backend_task_id=self.backend_task_id,
                data=parts.data,
                metadata=self._metadata(parts.metadata, seen),
            )
        )

    def whole_result(self, task_id: str) -> bytes:
        """Return the TaskResult with all that came beside it; as it came, if nothing of it reads otherwise."""
        came = self.content.get("backend_task_id")
        if not self.changed and "data" in self.content and came == self.backend_task_id:
            return self.text
        fields = _fields.decode(self.text)
        metadata = self._metadata(fields["metadata"], {})
        own = {"backend_task_id": self.backend_task_id, "metadata": metadata}
        return _encode({"task_id": task_id, "data": NULL, **fields, **own})

    def _metadata(self, came: Raw, seen: Mapping[str, Any]) -> Raw:
        if not seen and not self.changed:
            return came
        fields = _fields.decode(self.text if self.is_short else came)
        kept = {
            name: raw
            for name, raw in fields.items()
            if name not in self.changed and not (self.is_short and name in OUTER)
        }
        changed = {name: value for name, value in self.changed.items() if value is not None}
        return Raw(_encode({**seen, **kept, **changed}))

    def ending(self, result: bytes) -> Ending:
        """Return the end that a final update reports."""
        if self.status == "FINISHED":
            return Completed(result, self.notes)
        return FailedByBackend(result, self._error() or "the server reports failure", self.notes)

    def _error(self) -> str:
        """Return why the server failed: its message, else a reason in the metadata, beside it, or in the data."""
        if message := self.said.get("message"):
            return str(message)
        metadata = {} if self.is_short else self.content["metadata"]
        for place in (metadata, self.content, self.content.get("data")):
            if isinstance(place, dict):
                reasons = {name: place[name] for name in FIELDS if name in place}
                if reason := reason_in(reasons):
                    return reason
        return ""


def has_status(content: Any) -> bool:
    """Return True for a TaskResult: an object whose `metadata` has a `status`, whatever that says."""
    return isinstance(content, dict) and isinstance(content.get("metadata"), dict) and "status" in content["metadata"]


def names_another(content: Any, task_id: str) -> bool:
    """Return True if an answer names another task of ours. Older servers put their own ids there."""
    named = content.get("task_id") if isinstance(content, dict) else None
    return named != task_id and isinstance(named, str) and is_task_id(named)


def status_of(said: Any) -> Status | None:
    """Return the status that a server says, in any case and with spaces around it; None for any other word or value."""
    if not isinstance(said, str) or not said.isascii():  # "ﬁnished" is FINISHED in upper case
        return None
    word = said.strip().upper()
    return next((status for status in STATUSES if status == word), None)


def read_update(found: Json, *, may_be_short: bool = False) -> TaskUpdate:
    """Return the update in JSON. Raises InvalidInput for an unknown status, and for NaN and Infinity in `data`.

    In short (`may_be_short`), the fields of metadata are at the top, or only the status is. The status may be left out:
    with `data` it is FINISHED, without PROCESSING.
    """
    text, content, marked = found
    if not isinstance(content, dict):
        raise InvalidInput("must be an object", "$")
    if marked is not None and bytes(_parts.decode(marked).data) != bytes(_parts.decode(text).data):
        raise InvalidInput(NAN_IN_DATA, "$.data")
    is_short = may_be_short and content.get("metadata") is None
    path = "$" if is_short else "$.metadata"
    metadata = content if is_short else content.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidInput("is required and must be an object", path)
    status: Status | None
    has_it = content if may_be_short and "status" not in metadata else metadata
    if may_be_short and "status" not in has_it:
        status = "PROCESSING" if content.get("data") is None else "FINISHED"
    else:
        status = status_of(has_it.get("status"))
    if status is None:
        path = path if has_it is metadata else "$"
        one_of = f"must be one of {', '.join(STATUSES)}"
        is_given = "status" in has_it
        detail = f"{one_of}; given: {_shown(has_it['status'])}" if is_given else f"is required and {one_of}"
        raise InvalidInput(detail, f"{path}.status")
    said: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    if metadata.get("status", status) != status:
        changed["status"] = status
    notes = [] if marked is None else [NAN_IS_NULL]
    for name, read in READERS.items():
        came = content.get(name) if name == "backend_task_id" else metadata.get(name)
        if came is None:
            continue
        value, note = read(came)
        if value is not None:
            said[name] = value
        if value is not came and name != "backend_task_id":
            changed[name] = value
        if note:
            notes.append(f"{name}: {note}")
    return TaskUpdate(text, content, is_short, status, said, changed, tuple(notes))


def read_backend_task_id(content: Any) -> str | None:
    """Return the server's own id for the task in an acceptance; None for none, and for one of a wrong type."""
    if not isinstance(content, dict):
        return None
    value: str | None
    value, _ = READERS["backend_task_id"](content.get("backend_task_id"))
    return value


def wrapped(task_id: str, data: bytes, backend_task_id: str | None = None, **metadata: Any) -> bytes:
    """Return the TaskResult, JSON, for an answer that is none: the answer is its `data`, which is JSON."""
    return _encode(
        _TaskResult(task_id=task_id, backend_task_id=backend_task_id, data=Raw(data), metadata=Raw(_encode(metadata)))
    )


# The documented fields: each reader returns the value, None if it is left out, and a note, empty if there is none

_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?", re.ASCII)
_Read = tuple[Any, str]


def _text(came: Any) -> _Read:
    return (came, "") if isinstance(came, str) else (None, f"left out; must be text, given: {_shown(came)}")


def _text_up_to(longest: int) -> Callable[[Any], _Read]:
    def read(came: Any) -> _Read:
        if isinstance(came, str) and len(came) > longest:
            return shortened(came, longest), f"shortened from {len(came):,} to {longest:,} characters"
        return _text(came)

    return read


def _message(came: Any) -> _Read:
    if isinstance(came, dict | list) and (reason := reason_in(came)):
        return reason, f"must be text, given: {_shown(came)}; the text in it is used"
    return _text_up_to(LONGEST_MESSAGE)(came)


def _name_up_to(longest: int) -> Callable[[Any], _Read]:
    def read(came: Any) -> _Read:
        if isinstance(came, int) and not isinstance(came, bool) and abs(came) < 10**longest:
            return str(came), ""
        if isinstance(came, str) and len(came) > longest:
            return None, f"left out; longer than {longest} characters"
        return _text(came)

    return read


def _number(came: Any) -> _Read:
    if isinstance(came, str) and _NUMBER.fullmatch(came.strip()):
        return float(came), ""
    if isinstance(came, int | float) and not isinstance(came, bool) and abs(came) < math.inf:
        return came, ""
    return None, f"left out; must be a number, given: {_shown(came)}"


def _percent(came: Any) -> _Read:
    value, note = _number(came)
    if value is None or 0 <= value <= 100:
        return value, note
    clamped = 0 if value < 0 else 100
    return clamped, f"clamped to {clamped}" if abs(value - clamped) > ROUNDING else ""


def _shown(came: Any) -> str:
    """Return a value as a note shows it."""
    match came:
        case None:
            return "null"
        case bool():
            return str(came).lower()
        case str():
            return f'"{shortened(came, 40)}"'
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"


READERS: dict[str, Callable[[Any], _Read]] = {
    "server_id": _name_up_to(LONGEST_NAME),
    "progress": _percent,
    "message": _message,
    "processing_time": _number,
    "model_time": _number,
    "queue_time": _number,
    "log": _text_up_to(LONGEST_LINE),
    "output": _text,
    "backend_task_id": _name_up_to(LONGEST_BACKEND_ID),
}
"""All but `backend_task_id` are fields of metadata."""
