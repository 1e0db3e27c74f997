"""The view of a task as bytes in the index: a MessagePack array of its fields, about half as long as its JSON."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import astuple

from ..events.chapters import NO_CHAPTERS, Chapters
from ..events.envelope import NULL
from ..events.task import BUSY_FOR
from ..projections.task_view import TaskView

_FIELDS = TaskView.__struct_fields__
_PARAMS = _FIELDS.index("params")
_CHAPTERS = _FIELDS.index("chapters")
_BUSY_FOR = _FIELDS.index("busy_for")
_STORED_TYPES: dict[str, Any] = {"params": bytes, "chapters": Chapters | None, "busy_for": timedelta | None}


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(
    tuple[tuple(_STORED_TYPES.get(field.name, field.type) for field in msgspec.structs.fields(TaskView))]  # type: ignore[misc]
).decode


def encode(view: TaskView) -> bytes:
    """Return the bytes of a view. Another order or number of fields needs another FORMAT."""
    values = list(astuple(view))
    values[_PARAMS] = b"" if view.params == NULL else bytes(view.params)
    values[_CHAPTERS] = None if view.chapters == NO_CHAPTERS else view.chapters
    values[_BUSY_FOR] = None if view.busy_for == BUSY_FOR else view.busy_for
    return _pack(values)


def decode(data: bytes) -> TaskView:
    """Return the view that was encoded. Raises msgspec.MsgspecError."""
    values: list[Any] = list(_unpack(data))
    values[_PARAMS] = Raw(values[_PARAMS]) if values[_PARAMS] else NULL
    values[_CHAPTERS] = values[_CHAPTERS] or NO_CHAPTERS
    values[_BUSY_FOR] = BUSY_FOR if values[_BUSY_FOR] is None else values[_BUSY_FOR]
    return TaskView(**dict(zip(_FIELDS, values, strict=True)))
