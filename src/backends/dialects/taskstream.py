"""Taskstream's own wire format, as docs/backends.md describes it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from ...errors import InvalidInput
from ...events.server import ServerRegistered
from ...events.task import ModelChoice
from ...instants import milliseconds
from ...wire.json_text import Json
from .contents import Content, as_json, media_type_of, read_content
from .dialect import (
    Accepted,
    Answer,
    BadAnswer,
    Busy,
    Call,
    Completed,
    Dialect,
    Failed,
    File,
    ParentResult,
    Probe,
    Reply,
    Request,
    StreamReader,
    Update,
    auth_headers,
)
from .reasons import reason_in, reason_of
from .task_update import (
    NAN_IN_DATA,
    SHORT,
    TaskUpdate,
    has_status,
    names_another,
    read_backend_task_id,
    read_update,
    status_of,
    wrapped,
)

TRY_AGAIN = frozenset({408, 425, 429})
REGISTER = "Register a server that reports later with `callback: true`; any other answers with the result"
OF_ANOTHER_TASK = "the server answered with the result of another task"


class _Predict(Struct, kw_only=True, omit_defaults=True):
    task_id: str
    type: str
    request: Raw
    is_async: bool = msgspec.field(name="async")
    attempt: int
    deadline: int
    """Milliseconds since the epoch."""
    callback_url: str | None = None
    callback_token: str | None = None
    parents: list[ParentResult] | None = None
    """The tasks it depends on, in the order in which it names them."""


_encode = msgspec.json.Encoder().encode


class Taskstream(Dialect):
    """`POST` of a task with its payload under `request`; a TaskResult, a 202 or a stream of updates in return."""

    name = "taskstream"
    busy_status = frozenset({429, 503})

    def predict(self, server: ServerRegistered, call: Call) -> Request:
        reports = server.reports_later
        body = _Predict(
            task_id=call.task_id,
            type=call.task_type,
            request=call.payload,
            is_async=server.is_async,
            attempt=call.attempt,
            deadline=milliseconds(call.deadline),
            callback_url=call.callback_url if reports else None,
            callback_token=call.callback_token if reports else None,
            parents=call.parents,
        )
        headers = {"Content-Type": "application/json", **_model_headers(call), **auth_headers(server, call.api_key)}
        return Request(method="POST", url=server.predict_url, headers=headers, body=_encode(body))

    def open_stream(self, server: ServerRegistered, call: Call, status: int) -> StreamReader | None:
        is_acceptance = status == 202 and server.reports_later
        return _UpdateStream(server.server_id, call.task_id) if 200 <= status < 300 and not is_acceptance else None

    def read_answer(self, server: ServerRegistered, call: Call, reply: Reply) -> Answer:
        status = reply.status
        if 200 <= status < 300:
            return self._read_success(server, call, reply)
        if self.means_busy(server, status):
            return Busy(error=_reason(reply), retry_after=reply.retry_after)
        if status >= 500 or status in TRY_AGAIN:
            is_neutral = status in TRY_AGAIN  # about this request
            return Failed(kind="error", error=_reason(reply), retry_after=reply.retry_after, is_neutral=is_neutral)
        if status >= 400:
            return Failed(kind="rejected", error=_reason(reply))
        what = "redirects are not followed" if status >= 300 else "that is no answer to a task"
        return Failed(kind="bad_answer", error=f"the server answered {status}; {what}")

    def _read_success(self, server: ServerRegistered, call: Call, reply: Reply) -> Answer:
        reports = server.reports_later
        try:
            content = read_content(reply)
            update = _update_in(content, call)
        except BadAnswer as error:
            if reports and reply.status == 202:
                return Accepted(None)
            return _bad(reply, f"the answer {error}")
        if update is None:
            return _read_data(server, call, reply, content)
        if update.is_of_another(call.task_id):
            return Failed(kind="bad_answer", error=OF_ANOTHER_TASK)
        if not update.is_final:
            return Accepted(update.backend_task_id) if reports else _bad(reply, f"reports {update.status}. {REGISTER}")
        if not has_status(update.content):
            return update.ending(
                update.result(call.task_id, **_seen(server.server_id, update.status, reply.elapsed_ms))
            )
        return update.ending(update.whole_result(call.task_id))

    def cancel(self, server: ServerRegistered, call: Call) -> Request | None:  # noqa: ARG002
        return None

    def health(self, server: ServerRegistered, api_key: str | None = None) -> Request | None:
        if server.health_url is None:
            return None
        return Request(method="GET", url=server.health_url, headers=auth_headers(server, api_key))

    def read_health(self, status: int, body: bytes) -> Probe:  # noqa: ARG002
        return Probe(200 <= status < 300, f"health check answered {status}")


class _UpdateStream(StreamReader):
    """Updates, whole or in short: their fields at the top. Without a `status`, one with `data` ends the attempt well.

    {"metadata": {"status": "PROCESSING", "progress": 40, "message": "…"}}        {"progress": 40, "message": "…"}
    {"data": …, "metadata": {"status": "FINISHED"}}                               {"data": …}
    """

    def __init__(self, server_id: str, task_id: str) -> None:
        self._server_id = server_id
        self._task_id = task_id

    def read(self, text: bytes, elapsed_ms: int) -> Update | Answer | None:
        found = as_json(text)
        content = found.content
        if not isinstance(content, dict):
            raise BadAnswer("is not a JSON object")
        if content.get("error") and not (has_status(content) or "status" in content):
            raise BadAnswer(f"reports an error: {reason_in(content)}")
        if not SHORT & (content.keys() - {"metadata"} if content.get("metadata") is None else content.keys()):
            raise BadAnswer("has no field of an update")
        try:
            update = read_update(found, may_be_short=True)
            if update.is_of_another(self._task_id):
                raise BadAnswer("is of another task")
            if not update.is_final:
                return update.progress()
        except InvalidInput as error:
            raise BadAnswer(f"is not an update: {error}") from None
        return update.ending(update.result(self._task_id, **_seen(self._server_id, update.status, elapsed_ms)))

    def end(self) -> Answer:
        return Failed(kind="bad_answer", error="the streamed answer ended without a result")


def _model_headers(call: Call) -> dict[str, str]:
    """Return the headers that name the model to use."""
    chosen = call.model or ModelChoice()
    headers = {
        "X-AI-Provider": chosen.provider,
        "X-AI-Model": chosen.model,
        "X-AI-BaseUrl": chosen.base_url,
        "X-AI-Key": call.model_key,
    }
    return {name: value for name, value in headers.items() if value}


def _seen(server_id: str, status: str, elapsed_ms: int) -> dict[str, Any]:
    """Return the metadata of a result as we saw it."""
    seen = {"server_id": server_id, "processing_time": elapsed_ms, "model_time": 0, "queue_time": 0}
    return {**seen, **({"progress": 100} if status == "FINISHED" else {}), "status": status, "message": None}


def _update_in(found: Content, call: Call) -> TaskUpdate | None:
    """Return the update in an answer; None if it is none, so that the answer is data. Raises BadAnswer.

    Without a status in `metadata`, an object that names the task and says at the top that it has failed, or goes on, is
    an update in short.
    """
    if not isinstance(found, Json):
        return None
    content = found.content
    try:
        if has_status(content):
            return read_update(found)
        if not isinstance(content, dict):
            return None
        names_task = content.get("task_id") == call.task_id or "backend_task_id" in content
        if names_task and status_of(content.get("status")) in ("WAITING", "PROCESSING", "FAILED"):
            return read_update(found, may_be_short=True)
    except InvalidInput as error:
        raise BadAnswer(f"is no TaskResult: {error}") from None
    return None


def _bad(reply: Reply, what: str) -> Failed:
    return Failed(kind="bad_answer", error=f"the server answered {reply.status}, and {what}")


def _read_data(server: ServerRegistered, call: Call, reply: Reply, content: Content) -> Answer:
    """Return what an answer without an update means: all of it is the data of a task that succeeded, or it accepts.

    A server that reports later accepts a task also by an answer that says nothing, such as `ok`.
    """
    reports = server.reports_later
    if reply.status == 202 and not reports:
        return _bad(reply, f"it has no result. {REGISTER}")
    if reports and (reply.status == 202 or content is None or isinstance(content, str)):
        acceptance = content.content if isinstance(content, Json) else None
        if names_another(acceptance, call.task_id):
            return Failed(kind="bad_answer", error=OF_ANOTHER_TASK)
        return Accepted(read_backend_task_id(acceptance))
    if call.accepts == "json" and not isinstance(content, Json):
        answered = media_type_of(reply) if content is not None else "nothing"
        return _bad(reply, f"the answer is {answered or 'no JSON'}; the task's type accepts JSON only")
    if isinstance(content, Json) and content.marked is not None:
        return _bad(reply, f"the answer {NAN_IN_DATA}")
    seen = _seen(server.server_id, "FINISHED", reply.elapsed_ms)
    file = content if isinstance(content, File) else None
    return Completed(wrapped(call.task_id, _data(call, content), **seen), file=file)


def _data(call: Call, content: Content) -> bytes:
    match content:
        case Json():
            return content.text
        case File():
            path = f"/api/task/{call.task_id}/result/file"
            return _encode({"$ref": path, "mediaType": content.media_type, "bytes": len(content.content)})
        case _:
            return _encode(content)


def _reason(reply: Reply) -> str:
    """Return the status and the server's own words, if it has some that are meant to be read."""
    reason = reason_of(reply.body, media_type_of(reply))
    return f"the server answered {reply.status}" + (f": {reason}" if reason else "")
