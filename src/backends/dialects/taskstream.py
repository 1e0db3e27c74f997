"""Taskstream's own wire format, as docs/backends.md describes it."""

from __future__ import annotations

from collections.abc import Mapping

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
    Call,
    Conversation,
    Dialect,
    Failed,
    ParentResult,
    Reply,
    Request,
    StreamReader,
    Update,
    auth_headers,
)
from .reasons import reason_in
from .refusals import bad_answer, refusal
from .results import completed, seen
from .task_update import (
    SHORT,
    TaskUpdate,
    has_status,
    names_another,
    read_backend_task_id,
    read_update,
    status_of,
)

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

    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        return _TaskstreamCall(self, server, call)


class _TaskstreamCall(Conversation):
    """One request. A closed connection is all that tells the server of a cancellation."""

    __slots__ = ("_call", "_dialect", "_server")

    def __init__(self, dialect: Dialect, server: ServerRegistered, call: Call) -> None:
        self._dialect = dialect
        self._server = server
        self._call = call

    def begin(self) -> Request:
        server, call = self._server, self._call
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

    def open_stream(self, status: int, headers: Mapping[str, str]) -> StreamReader | None:  # noqa: ARG002
        is_acceptance = status == 202 and self._server.reports_later
        if not 200 <= status < 300 or is_acceptance:
            return None
        return _UpdateStream(self._server.server_id, self._call.task_id)

    def read(self, reply: Reply) -> Answer:
        if not 200 <= reply.status < 300:
            return refusal(self._dialect, self._server, reply)
        return _read_success(self._server, self._call, reply)


def _read_success(server: ServerRegistered, call: Call, reply: Reply) -> Answer:
    reports = server.reports_later
    try:
        content = read_content(reply)
        update = _update_in(content, call)
        if update is None:
            return _read_data(server, call, reply, content)
    except BadAnswer as error:
        if reports and reply.status == 202:
            return Accepted(None)
        return bad_answer(reply, f"the answer {error}")
    if update.is_of_another(call.task_id):
        return Failed(kind="bad_answer", error=OF_ANOTHER_TASK)
    if not update.is_final:
        if reports:
            return Accepted(update.backend_task_id)
        return bad_answer(reply, f"reports {update.status}. {REGISTER}")
    if not has_status(update.content):
        return update.ending(update.result(call.task_id, **seen(server.server_id, update.status, reply.elapsed_ms)))
    return update.ending(update.whole_result(call.task_id))


class _UpdateStream(StreamReader):
    """Updates, whole or in short: their fields at the top. Without a `status`, one with `data` ends the attempt well.

    {"metadata": {"status": "PROCESSING", "progress": 40, "message": "…"}}        {"progress": 40, "message": "…"}
    {"data": …, "metadata": {"status": "FINISHED"}}                               {"data": …}
    """

    def __init__(self, server_id: str, task_id: str) -> None:
        self._server_id = server_id
        self._task_id = task_id

    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | None:  # noqa: ARG002
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
        return update.ending(update.result(self._task_id, **seen(self._server_id, update.status, elapsed_ms)))

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


def _read_data(server: ServerRegistered, call: Call, reply: Reply, content: Content) -> Answer:
    """Return what an answer without an update means: all of it is the data of a task that succeeded, or it accepts.

    A server that reports later accepts a task also by an answer that says nothing, such as `ok`. Raises BadAnswer.
    """
    reports = server.reports_later
    if reply.status == 202 and not reports:
        return bad_answer(reply, f"it has no result. {REGISTER}")
    if reports and (reply.status == 202 or content is None or isinstance(content, str)):
        acceptance = content.content if isinstance(content, Json) else None
        if names_another(acceptance, call.task_id):
            return Failed(kind="bad_answer", error=OF_ANOTHER_TASK)
        return Accepted(read_backend_task_id(acceptance))
    return completed(server, call, content, reply.elapsed_ms, media_type_of(reply))
