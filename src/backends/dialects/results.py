"""Results of servers that do not answer with a TaskResult: their answer becomes its `data`. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from ...events.server import ServerRegistered
from ...wire.json_text import Json
from .contents import Content, Parts
from .dialect import BadAnswer, Call, Completed, File
from .task_update import NAN_IN_DATA, wrapped

_encode = msgspec.json.Encoder().encode


def completed(
    server: ServerRegistered, call: Call, content: Content, elapsed_ms: int, media_type: str = ""
) -> Completed:
    """Return the success of a task whose data is this content. Raises BadAnswer if the task's type does not accept it.

    A file is stored apart: the data refers to it. `media_type`: of the answer, for the error.
    """
    if call.accepts == "json" and not isinstance(content, Json):
        answered = media_type if content is not None else "nothing"
        raise BadAnswer(f"is {answered or 'no JSON'}; the task's type accepts JSON only")
    if isinstance(content, Json) and content.marked is not None:
        raise BadAnswer(NAN_IN_DATA)
    metadata = seen(server.server_id, "FINISHED", elapsed_ms)
    file = content if isinstance(content, File) else None
    files = content.files if isinstance(content, Parts) else ()
    return Completed(wrapped(call.task_id, data_of(call, content), **metadata), file=file, files=files)


def seen(server_id: str, status: str, elapsed_ms: int) -> dict[str, Any]:
    """Return the metadata of a result as the service saw it."""
    found = {"server_id": server_id, "processing_time": elapsed_ms, "model_time": 0, "queue_time": 0}
    return {**found, **({"progress": 100} if status == "FINISHED" else {}), "status": status, "message": None}


def data_of(call: Call, content: Content) -> bytes:
    """Return a content as `data`, JSON: itself, or what refers to the file."""
    match content:
        case Json():
            return content.text
        case Parts():
            return content.data(f"/api/task/{call.task_id}/result/file")
        case File():
            path = f"/api/task/{call.task_id}/result/file"
            return _encode({"$ref": path, "mediaType": content.media_type, "bytes": len(content.content)})
        case _:
            return _encode(content)
