"""The API of OpenAI, as vLLM, SGLang, llama.cpp, LM Studio, litellm, Ollama and TEI serve it. Pure.

Completions and responses are always asked for as a stream, and folded into the one object that the payload's caller
wants: so their text is seen as it comes, and closing the connection stops the work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ...errors import InvalidInput
from ...events.envelope import NULL
from ...events.server import ServerRegistered
from ...events.stream_parts import StreamParts, one_part
from ...events.task import CancelOutcome, ErrorAnswer
from ...wire.json_text import Json
from ..redaction import without_keys
from .contents import as_json, media_type_of, read_content
from .dialect import (
    MOST_MODELS_BYTES,
    Answer,
    BadAnswer,
    Call,
    Completed,
    Conversation,
    Dialect,
    Failed,
    File,
    Next,
    Probe,
    Reply,
    Request,
    StreamReader,
    Turn,
    Update,
    auth_headers,
)
from .openai_errors import AGAIN, ANSWERED_FOR_GOOD, answered, error_in, error_of_stream, failure_of, reported
from .openai_fold import CompletionFold, NotAPart
from .openai_request import Asked, Streaming, asked, beside, place_of, under
from .reasons import reason_in
from .refusals import TRY_AGAIN, bad_answer, reason_text, refusal
from .results import completed
from .task_update import NAN_IN_DATA

OTHER_WAYS: dict[Streaming, Streaming] = {"with-usage": "plain", "plain": "none"}
"""What is asked of a server next that refuses to stream as asked."""
UNDERSTOOD = frozenset({400, 422, 501})
"""Statuses by which a server may refuse a field of the body."""
RELEASE_PAUSE = timedelta(milliseconds=500)
"""Between two looks whether a cancelled request still runs."""
LOOKS_AT_SHARED = 4
"""Looks at a server that may run several requests."""
TAKEN = re.compile(
    rb"^(?:vllm:num_requests_(?:running|waiting)|sglang:num_(?:running|queue)_reqs|llamacpp:requests_(?:processing|deferred))"
    rb"(?:\{[^\n]*\})? ([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*$",
    re.MULTILINE,
)
"""Lines of `/metrics` with the number of requests that a server runs, or will."""
STREAMING_NAMED = re.compile(r"\bstream")
"""In the reason of a refusal, which may be about streaming."""
EXPECTED: dict[str, str] = {
    "chat/completions": "choices", "completions": "choices", "embeddings": "data", "responses": "output",
}  # fmt: skip
"""The list that a whole answer has, by endpoint."""
UNENDED = frozenset({"cancelled", "failed", "in_progress", "queued"})
"""Values of `status` of a response that is none to keep."""

_raw_fields = msgspec.json.Decoder(dict[str, Raw])


class OpenAI(Dialect):
    """`POST` of the payload to an endpoint of the family."""

    name = "openai"
    busy_status: ClassVar = frozenset({429, 503})

    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        return _OpenAICall(self, server, call)

    def health(self, server: ServerRegistered, api_key: str | None = None) -> Request | None:
        if server.health_url is None:
            return self.list_models(server, api_key)
        return Request(method="GET", url=server.health_url, headers=auth_headers(server, api_key))

    def health_needs_key(self, server: ServerRegistered) -> bool:
        return server.health_auth or server.health_url is None  # the list of models has the key of the tasks

    def list_models(self, server: ServerRegistered, api_key: str | None) -> Request:
        base, _ = place_of(server.predict_url)
        return Request(method="GET", url=under(base, "models"), headers=auth_headers(server, api_key))

    def read_models(self, status: int, body: bytes) -> list[str] | None:
        return model_names(body) if 200 <= status < 300 else None

    @property
    def most_health_bytes(self) -> int:
        return MOST_MODELS_BYTES

    def read_health_of(self, server: ServerRegistered, status: int, body: bytes) -> Probe:
        probe = self.read_health(status, body)
        if probe.well and server.health_url is None and model_names(body) is None:
            return Probe(well=False, reason=f"health check answered {status} without a list of models")
        return probe


def model_names(body: bytes) -> list[str] | None:
    """Return the names in a list of models; None if it is no such list."""
    try:
        content = as_json(body).content
    except BadAnswer:
        return None
    listed = content.get("data") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        return None
    names = (each.get("id") for each in listed if isinstance(each, dict))
    return [name for name in names if isinstance(name, str)]


class _OpenAICall(Conversation):
    """Asks for a stream, and once more in another way if the server does not know one."""

    __slots__ = ("_asked", "_call", "_dialect", "_looks", "_server", "_streaming")

    def __init__(self, dialect: Dialect, server: ServerRegistered, call: Call) -> None:
        self._dialect = dialect
        self._server = server
        self._call = call
        self._asked: Asked | None = None
        self._streaming: Streaming = "none"
        self._looks = 0

    def begin(self) -> Request | Failed:
        try:
            self._asked = asked(self._server.predict_url, self._call.payload, self._call.facade)
        except InvalidInput as error:
            answer = ErrorAnswer(status=400, body=NULL) if self._call.facade is not None else None
            return Failed(kind="rejected", error=f"the payload {error}", is_neutral=True, answer=answer)
        self._streaming = self._asked.streaming
        return self._request(self._asked)

    def _request(self, asked: Asked) -> Request:
        call = self._call
        headers = {
            "Content-Type": "application/json",
            "X-Request-Id": f"{call.task_id.partition('~')[0]}-{call.attempt}",
            **auth_headers(self._server, call.api_key),
        }
        body = asked.body(self._streaming, call.model.model if call.model else "")
        return Request(method="POST", url=asked.url, headers=headers, body=body)

    def open_stream(self, status: int, headers: Mapping[str, str]) -> StreamReader | None:  # noqa: ARG002
        if not 200 <= status < 300 or self._asked is None:
            return None
        match self._asked.endpoint:
            case "chat/completions" | "completions" as kind:
                return _CompletionStream(self, CompletionFold(kind), self._parts())
            case "responses":
                return _ResponseStream(self, self._parts())
            case _:
                return None

    def _parts(self) -> _PartCount | None:
        """Return what numbers the parts of a stream; None if no client gets them as they are."""
        facade = self._asked.facade if self._asked is not None else None
        return _PartCount() if facade is not None and facade.is_stream else None

    def read(self, reply: Reply) -> Turn:
        turn = self._read(reply)
        if isinstance(turn, Failed) and self._asked is not None and self._asked.facade is not None:
            return replace(turn, answer=answered(reply))
        return turn

    def _read(self, reply: Reply) -> Turn:
        assert self._asked is not None
        if 200 <= reply.status < 300:
            try:
                return self._read_success(reply)
            except BadAnswer as error:
                return bad_answer(reply, f"the answer {error}")
        reason = reason_text(reply)
        if reply.status in UNDERSTOOD and self._streaming in OTHER_WAYS and STREAMING_NAMED.search(reason):
            self._streaming = OTHER_WAYS[self._streaming]
            return Next(request=self._request(self._asked))
        if reply.status in ANSWERED_FOR_GOOD:
            return Failed(kind="rejected", error=reason)
        if reply.status in AGAIN - TRY_AGAIN:
            return Failed(kind="error", error=reason, retry_after=reply.retry_after)
        found = refusal(self._dialect, self._server, reply)
        if media_type_of(reply) == "text/event-stream" and (within := error_of_stream(reply.body)) is not None:
            return replace(found, error=f"{found.error}: {reason_in(within)}")
        return found

    def _read_success(self, reply: Reply) -> Answer:
        assert self._asked is not None
        content = read_content(reply)
        if isinstance(content, File) and self._asked.endpoint == "audio/speech":
            return completed(self._server, self._call, content, reply.elapsed_ms, media_type_of(reply))
        if not isinstance(content, Json) or not isinstance(content.content, dict | list):
            raise BadAnswer(f"is {media_type_of(reply) or 'empty'}, not a JSON object")
        if (error := error_in(content.content)) is not None:
            return self.failure(error, has_streamed=False)
        self._check(content.content)
        return completed(self._server, self._call, content, reply.elapsed_ms)

    def _check(self, content: Any) -> None:
        """Raise BadAnswer for a whole answer that is none of the endpoint."""
        endpoint = self._asked.endpoint if self._asked else ""
        expected = EXPECTED.get(endpoint)
        if expected is not None and not (isinstance(content, dict) and isinstance(content.get(expected), list)):
            raise BadAnswer(f"has no list `{expected}`, as one of {endpoint} has")
        if endpoint == "responses" and content.get("status") in UNENDED:
            raise BadAnswer(f"is a response that is {content['status']}")

    def completed(self, data: bytes, elapsed_ms: int) -> Completed:
        """Return the success of a streamed answer. A key may have come in pieces."""
        whole = without_keys(data, self._call.keys)
        return completed(self._server, self._call, Json(whole, None), elapsed_ms)

    def failure(self, error: Any, *, has_streamed: bool) -> Answer:
        """Return what an error object in an answer with 200 means."""
        found = failure_of(self._dialect, self._server, error, has_streamed=has_streamed)
        if isinstance(found, Failed) and self._asked is not None and self._asked.facade is not None:
            return replace(found, answer=reported(error, is_for_good=found.kind == "rejected"))
        return found

    def cancel(self) -> Request | None:
        """Ask for the server's metrics: they show whether the closed connection has stopped the work."""
        base, _ = place_of(self._server.predict_url)
        return Request(
            method="GET", url=beside(base, "metrics"), headers=auth_headers(self._server, self._call.api_key)
        )

    def read_cancel(self, reply: Reply | None) -> CancelOutcome | Next:
        if reply is None or reply.status != 200:
            return "requested"  # the connection is closed; the server does not show what it runs
        taken = [float(count) for count in TAKEN.findall(reply.body)]
        if not taken:
            return "requested"
        request = self.cancel()
        if sum(taken) == 0 or request is None:
            return "confirmed"
        self._looks += 1
        if self._server.max_concurrent > 1 and self._looks >= LOOKS_AT_SHARED:
            return "requested"  # what runs may be other tasks
        return Next(request=request, after=RELEASE_PAUSE)  # until the time for it ends: then it is unconfirmed


class _PartCount:
    """The number of parts so far of a stream whose client gets them as they are."""

    def __init__(self) -> None:
        self._count = 0

    def next(self, text: bytes) -> StreamParts:
        self._count += 1
        return one_part(self._count - 1, text.decode())


class _CompletionStream(StreamReader):
    """Parts of a completion, then `[DONE]`."""

    def __init__(self, call: _OpenAICall, fold: CompletionFold, parts: _PartCount | None) -> None:
        self._call = call
        self._fold = fold
        self._parts = parts
        self._elapsed_ms = 0

    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | None:  # noqa: ARG002
        self._elapsed_ms = elapsed_ms
        if text.strip() == b"[DONE]":
            return self.end() if self._fold.is_empty else self._whole()
        content = _part(text).content
        if (error := error_in(content)) is not None:
            return self._call.failure(error, has_streamed=not self._fold.is_empty)
        try:
            output = self._fold.add(content)
        except NotAPart as error:
            raise BadAnswer(str(error)) from None
        if self._parts is not None:
            return Update(output=output, parts=self._parts.next(text))
        return Update(output=output) if output else None

    def end(self) -> Answer:
        if self._fold.is_finished:
            return self._whole()
        return Failed(kind="bad_answer", error="the streamed answer ended without `[DONE]` and without a finish_reason")

    def _whole(self) -> Completed:
        return self._call.completed(self._fold.result(), self._elapsed_ms)


class _ResponseStream(StreamReader):
    """The events of a response; the one that ends it has all of it."""

    def __init__(self, call: _OpenAICall, parts: _PartCount | None) -> None:
        self._call = call
        self._parts = parts
        self._has_streamed = False

    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | None:  # noqa: ARG002
        if text.strip() == b"[DONE]":
            return self.end()
        found = _part(text)
        content = found.content
        match content.get("type"):
            case "response.output_text.delta":
                output = content.get("delta")
                if not isinstance(output, str):
                    raise BadAnswer("has a delta that is not text")
                self._has_streamed = True
                return Update(output=output, parts=self._part(text))
            case "response.completed" | "response.incomplete" if isinstance(content.get("response"), dict):
                return self._call.completed(bytes(_raw_fields.decode(found.text)["response"]), elapsed_ms)
            case "response.failed" | "response.cancelled":
                response = content.get("response")
                error = response.get("error") if isinstance(response, dict) else None
                return self._call.failure(error, has_streamed=self._has_streamed)
            case "error":
                return self._call.failure(content.get("error") or content, has_streamed=self._has_streamed)
            case "response.created" | "response.queued" | "response.in_progress":
                return None
            case str() as kind if kind not in ("response.completed", "response.incomplete"):
                return Update(parts=self._part(text)) if self._parts is not None else None
        if (error := error_in(content)) is not None:
            return self._call.failure(error, has_streamed=self._has_streamed)
        raise BadAnswer("is no event of a response")

    def _part(self, text: bytes) -> StreamParts | None:
        return self._parts.next(text) if self._parts is not None else None

    def end(self) -> Answer:
        return Failed(kind="bad_answer", error="the streamed answer ended without `response.completed`")


def _part(text: bytes) -> Json:
    """Return the object in a part of a stream. Raises BadAnswer."""
    found = as_json(text)
    if not isinstance(found.content, dict):
        raise BadAnswer("is not a JSON object")
    if found.marked is not None:
        raise BadAnswer(NAN_IN_DATA)
    return found
