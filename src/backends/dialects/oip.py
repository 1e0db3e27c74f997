"""The Open Inference Protocol (V2) over HTTP: KServe, MLServer, Triton, OpenVINO Model Server.

| path | answer |
|---|---|
| `…/v2/models/{m}[/versions/{v}]/infer` | one JSON object with `outputs`; the `id` of the request is echoed |
| `…/infer_stream` (MLServer) | server-sent events, each such an object |
| `…/generate` (Triton's generate extension) | one JSON object with `model_name` and the outputs by name |
| `…/generate_stream` | server-sent events, each such an object; `{"error": …}` in one is a failure |

There is no request to cancel: the connection is closed. Nothing says that a server stops working then, and few do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec
from msgspec import Raw

from ...events.server import ServerRegistered
from ...wire.json_text import Json
from .contents import as_json, media_type_of
from .dialect import (
    Answer,
    BadAnswer,
    Busy,
    Call,
    Conversation,
    Dialect,
    Failed,
    FailedByBackend,
    Probe,
    Reply,
    Request,
    StreamReader,
    Update,
    attempt_id,
    auth_headers,
)
from .reasons import reason_in
from .refusals import bad_answer, reason_text, refusal
from .results import completed, seen
from .task_update import wrapped

STREAMED = frozenset({"infer_stream", "generate_stream"})
WITH_INPUTS = frozenset({"infer", "infer_stream"})
"""Actions whose payload is an inference request, which may carry an id."""

BUSY_TEXTS: tuple[tuple[str, str], ...] = (
    ("exceeds maximum queue size", "Triton: the queue of the dynamic batcher is full (503; 400 before 2.40)"),
    ("request timeout expired", "Triton: the request waited in the queue for longer than its policy allows"),
    ("stopped accepting new inference requests", "Triton: the server or the model is being stopped"),
    ("queue is full", "KServe: the text of the worker behind it, in a 500 (kserve#4247)"),
    ("queue full", "KServe, likewise"),
    ("has no worker to serve", "TorchServe behind KServe: all workers are taken, or start again (503)"),
    ("is not ready", "KServe: `Model with name m is not ready.` (503); MLServer: `Model m is not ready yet.` (400)"),
    ("are not ready", "KServe: `Models with names a,b are not ready.`"),
    ("is not loaded yet", "OpenVINO: `Model with requested version is not loaded yet` (404)"),
    ("has no available versions", "Triton: the model is being loaded (400)"),
    ("service unavailable", "proxies in front of KServe, in a 500"),
)
"""Texts in `error` that mean that the server takes no task now, in lower case, and who writes them."""
TEXTS_IN = frozenset({400, 404, 500, 503})
"""Statuses of answers whose text is searched."""
LONGEST_BUSY_TEXT = 2_000
MOST_READY_BYTES = 4_096
NOT_READY = "the model is not ready"

_PATH = re.compile(
    r"(?P<base>.*?)/v2"
    r"(?:/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
    r"(?:/(?P<action>infer|infer_stream|generate|generate_stream))?)?/?",
)
_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, Raw])


class ModelPlace(NamedTuple):
    """Where a model is, as a registration says it."""

    base: str
    """The URL before `/v2`."""
    model: str
    """Empty: the registration names none."""
    version: str
    action: str
    """What is asked of the model: `infer`, or another action of the table."""

    @property
    def model_url(self) -> str:
        """The URL of the model's metadata."""
        version = f"/versions/{quote(self.version, safe='')}" if self.version else ""
        return f"{self.base}/v2/models/{quote(self.model, safe='')}{version}"


def place_of(server: ServerRegistered) -> ModelPlace:
    """Return where the model of a registration is: its URL is that of a model or one of its actions, or the base."""
    url = urlsplit(server.predict_url)
    found = _PATH.fullmatch(url.path)
    origin = f"{url.scheme}://{url.netloc}"
    if found is None:
        return ModelPlace(origin + url.path.rstrip("/"), server.model, "", "infer")
    return ModelPlace(
        origin + found["base"],
        unquote(found["model"] or "") or server.model,
        unquote(found["version"] or ""),
        found["action"] or "infer",
    )


class Oip(Dialect):
    """`POST` of an inference request; a JSON object with `outputs` in return."""

    name = "oip"
    busy_status = frozenset({429, 503})

    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        return _Inference(self, server, call)

    def health(self, server: ServerRegistered, api_key: str | None = None) -> Request | None:
        url = server.health_url or f"{place_of(server).model_url}/ready"
        return Request(method="GET", url=url, headers=auth_headers(server, api_key))

    @property
    def most_health_bytes(self) -> int:
        return MOST_READY_BYTES

    def read_health(self, status: int, body: bytes) -> Probe:
        """Return if the model is ready. Some servers say `{"ready": false}` with a 200."""
        try:
            content = msgspec.json.decode(body)
        except (ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
            content = None
        if isinstance(content, dict) and content.get("ready") is False:
            return Probe(well=False, reason=f"health check answered {status}: {NOT_READY}")
        reason = reason_in(content) if status >= 400 and isinstance(content, dict) else ""
        if status in (400, 503) and not reason:  # MLServer and Triton say no more
            reason = NOT_READY
        return Probe(200 <= status < 300, f"health check answered {status}" + (f": {reason}" if reason else ""))


class _Inference(Conversation):
    """One request. Its id proves that the answer is its own."""

    def __init__(self, dialect: Dialect, server: ServerRegistered, call: Call) -> None:
        self._dialect = dialect
        self._server = server
        self._call = call
        self._place = place_of(server)
        self._id = ""
        self._mark = ""

    @property
    def mark(self) -> str:
        return self._mark

    def begin(self) -> Request | Failed:
        if not self._place.model:  # its type made it `oip`: a registration with this dialect has a model
            return Failed(kind="rejected", error="the server's registration names no model", is_neutral=True)
        headers = {"Content-Type": "application/json", **auth_headers(self._server, self._call.api_key)}
        url = f"{self._place.model_url}/{self._place.action}"
        return Request(method="POST", url=url, headers=headers, body=self._body())

    def _body(self) -> bytes:
        payload = bytes(self._call.payload)
        if self._place.action not in WITH_INPUTS:
            return payload
        try:
            fields = _fields.decode(payload)
        except msgspec.DecodeError:
            return payload  # no object: the server says what is wrong with it
        given = msgspec.json.decode(fields.get("id", Raw(b"null")))
        if given is None:
            # KServe 0.21 answers 500 to a request without an id if the model's code passes it on.
            self._id = self._mark = attempt_id(self._call.task_id, self._call.attempt)
            return _encode({**fields, "id": self._id})
        self._id = given if isinstance(given, str) else ""
        return payload

    def open_stream(self, status: int, headers: Mapping[str, str]) -> StreamReader | None:  # noqa: ARG002
        if self._place.action not in STREAMED or not 200 <= status < 300:
            return None
        return _StreamedTensors(self._server, self._call, self._place.action, self._id)

    def read(self, reply: Reply) -> Answer:
        if not 200 <= reply.status < 300:
            if self._says_busy(reply):
                return Busy(error=reason_text(reply), retry_after=reply.retry_after)
            return refusal(self._dialect, self._server, reply)
        try:
            if media_type_of(reply) == "application/octet-stream":
                raise BadAnswer("has binary tensors, which are not supported: ask for JSON (`binary_data: false`)")
            found = as_json(reply.body)
            if failure := _failure_in(found, self._server, self._call, reply.elapsed_ms):
                return failure
            check(found.content, self._place.action, self._id)
            return completed(self._server, self._call, found, reply.elapsed_ms)
        except BadAnswer as error:
            return bad_answer(reply, f"the answer {error}")

    def _says_busy(self, reply: Reply) -> bool:
        """Return True for a text of BUSY_TEXTS, unless the registration says that no answer means busy."""
        if self._server.busy_status == () or reply.status not in TEXTS_IN:
            return False
        text = reply.body[:LONGEST_BUSY_TEXT].decode(errors="replace").lower()
        return any(sign in text for sign, _ in BUSY_TEXTS)


class _StreamedTensors(StreamReader):
    """The parts of a streamed answer: their texts are output, and together they are the result.

    The end of the HTTP body is the only end: MLServer and Triton send no mark. A connection that breaks ends in an
    error of the transport.
    """

    def __init__(self, server: ServerRegistered, call: Call, action: str, request_id: str) -> None:
        self._server = server
        self._call = call
        self._action = action
        self._id = request_id
        self._parts: list[dict[str, Any]] = []
        self._elapsed_ms = 0

    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | None:  # noqa: ARG002
        self._elapsed_ms = elapsed_ms
        found = as_json(text)
        if failure := _failure_in(found, self._server, self._call, elapsed_ms):
            return failure
        part = check(found.content, self._action, self._id)
        if found.marked is not None:
            raise BadAnswer("has NaN or Infinity, which JSON cannot hold")
        self._parts.append(part)
        output = _output_of(part)
        return Update(output=output) if output else None

    def end(self) -> Answer:
        if not self._parts:
            return Failed(kind="bad_answer", error="the streamed answer ended without a part")
        *_, last = self._parts
        if self._action == "infer_stream":
            whole = {**last, "outputs": [output for part in self._parts for output in part["outputs"]]}
        else:
            texts = [part["text_output"] for part in self._parts if isinstance(part.get("text_output"), str)]
            whole = {**last, "text_output": "".join(texts)} if texts else {**last, "parts": self._parts}
        return completed(self._server, self._call, Json(_encode(whole), whole), self._elapsed_ms)


def check(content: Any, action: str, request_id: str) -> dict[str, Any]:
    """Return the object of a successful answer. Raises BadAnswer for anything else, or if it is of another request."""
    if not isinstance(content, dict):
        raise BadAnswer("is not a JSON object")
    if action in WITH_INPUTS and not isinstance(content.get("outputs"), list):
        raise BadAnswer("has no `outputs`")
    if action not in WITH_INPUTS and not isinstance(content.get("model_name"), str):
        raise BadAnswer("has no `model_name`")
    echoed = content.get("id")
    if request_id and isinstance(echoed, str) and echoed not in ("", request_id):
        raise BadAnswer("is that of another request: it has another `id`")
    return content


def _failure_in(found: Json, server: ServerRegistered, call: Call, elapsed_ms: int) -> Answer | None:
    """Return the failure that an answer with status 200 reports; None if it reports none."""
    content = found.content
    if not isinstance(content, dict) or content.get("error") in (None, ""):
        return None
    reason = reason_in({"error": content["error"]}) or "the server reports an error"
    metadata = {**seen(server.server_id, "FAILED", elapsed_ms), "message": reason}
    return FailedByBackend(wrapped(call.task_id, b"null", **metadata), reason)


def _output_of(part: dict[str, Any]) -> str:
    """Return the text in a part: of `text_output`, or of the outputs with the datatype BYTES."""
    if isinstance(text := part.get("text_output"), str):
        return text
    outputs = part.get("outputs")
    texts: list[str] = []
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict) and output.get("datatype") == "BYTES" and isinstance(output.get("data"), list):
            texts += (piece for piece in output["data"] if isinstance(piece, str))
    return "".join(texts)
