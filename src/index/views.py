"""The view of a task as bytes in the index: a MessagePack array of its fields, about half as long as its JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import astuple

from ..events.chapters import NO_CHAPTERS, Chapters
from ..events.envelope import NULL
from ..projections.task_view import TaskView

_FIELDS = TaskView.__struct_fields__
_PARAMS = _FIELDS.index("params")
_CHAPTERS = _FIELDS.index("chapters")


def _stored_type(name: str, hint: Any) -> Any:
    return bytes if name == "params" else Chapters | None if name == "chapters" else hint


def _hints() -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(TaskView)}


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[tuple(_stored_type(name, hint) for name, hint in _hints().items())]).decode  # type: ignore[misc]


def encode(view: TaskView) -> bytes:
    """Return the bytes of a view. Another order or number of fields needs another FORMAT."""
    values = list(astuple(view))
    values[_PARAMS] = b"" if view.params == NULL else bytes(view.params)
    values[_CHAPTERS] = None if view.chapters == NO_CHAPTERS else view.chapters
    return _pack(values)


def decode(data: bytes) -> TaskView:
    """Return the view that was encoded. Raises msgspec.MsgspecError."""
    values: list[Any] = list(_unpack(data))
    values[_PARAMS] = Raw(values[_PARAMS]) if values[_PARAMS] else NULL
    values[_CHAPTERS] = values[_CHAPTERS] or NO_CHAPTERS
    return TaskView(**dict(zip(_FIELDS, values, strict=True)))
