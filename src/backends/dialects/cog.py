"""Cog's HTTP API (version 0.23; replicate/cog, docs/http.md).

    GET /openapi.json ─► the model streams  ─► PUT /predictions/{id}, Accept: text/event-stream ─► events
                     ├─► it does not        ─► PUT /predictions/{id}                            ─► the prediction
                     └─► nor does it, and the server is registered with `callback`
                           ─► PUT /predictions/{id}, Prefer: respond-async, with a webhook ─► PROBE, again and again
                           ─► the webhook ends the task (`api/cog_webhook.py`), and with it the call

Without the webhook, the connection is a lease: Cog cancels such a prediction when its last connection closes. So
nothing runs on after a killed worker, an attempt that ran out of time, or an answer that cannot be read. With it, the
prediction survives: the next attempt on this server cancels it first.

Cog forgets a prediction as soon as it has ended, and a PUT with the same id starts it anew. So whatever asks for a
prediction that may have ended sends PROBE as its body: Cog refuses that, unless the prediction is running.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Raw, Struct

from ...events.server import ServerRegistered
from ...events.task import CancelOutcome
from .cog_prediction import Model, Prediction, Verdict, read_model, read_prediction
from .cog_progress import Events, Snapshots, last_update, split_lines, whole
from .contents import as_json
from .dialect import (
    Answer,
    BadAnswer,
    Call,
    Conversation,
    Dialect,
    Failed,
    Final,
    Next,
    Probe,
    Reply,
    Request,
    StreamReader,
    Turn,
    Update,
    attempt_id,
    auth_headers,
)
from .reasons import reason_in, shortened
from .refusals import bad_answer, reason_text, refusal

PROBE = b'{"input":5}'
"""Never a valid input: inputs are objects."""
PAUSES_OF_REATTACH = (timedelta(0), timedelta(seconds=0.3), timedelta(seconds=1))
"""Pauses before a stream is opened again, counted from its last event. The first is none: a prediction that ends
meanwhile is forgotten."""
PAUSE_OF_CANCEL = 0.3
"""Seconds before each look at a prediction that is being cancelled."""
LARGEST_HEALTH_ANSWER = 4 * 1024 * 1024
"""Bytes. It has the whole log of the setup."""
LONGEST_SETUP_LOG = 240
"""Characters of the end of the setup's log in the reason of a status."""

PAUSES_OF_PROBES = (1.0, 1.0, 2.0, 2.0, 3.0, 5.0)
"""Seconds before each look at a prediction that reports by webhook; the last one is repeated."""
PAUSES_OF_LOSSES = (0.3, 1.0, 2.0, 4.0, 8.0)
"""Seconds before a server that reports by webhook is asked again, counted from its last answer."""
PAUSES_OF_WEBHOOK = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
"""Seconds that a prediction may be gone before its webhook has come. Cog repeats it with growing pauses."""
GONE = "the prediction has ended, and its webhook has not come: can the server reach this service's callback address?"

_Mode = Literal["asks", "frees", "streams", "waits", "reports", "posts"]


class CogUrls(Struct, frozen=True):
    """The addresses of a server."""

    base: str
    query: str

    def at(self, path: str) -> str:
        return f"{self.base}/{path}{self.query}"

    @property
    def predictions(self) -> str:
        return self.at("predictions")

    def prediction(self, prediction_id: str) -> str:
        return self.at(f"predictions/{prediction_id}")


def urls_of(predict_url: str) -> CogUrls:
    """Return the addresses of a server that is registered by its base or by its `/predictions`."""
    scheme, host, path, query, _ = urlsplit(predict_url)
    base = path.rstrip("/").removesuffix("/predictions")
    return CogUrls(urlunsplit((scheme, host, base, "", "")), f"?{query}" if query else "")


class _Create(Struct, omit_defaults=True):
    input: Raw
    webhook: str | None = None
    webhook_events_filter: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode


class Cog(Dialect):
    """Predictions of a Cog model: whole or as events, by what the model can do."""

    name = "cog"
    busy_status = frozenset({409, 429, 503})

    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        return _CogCall(self, server, call)

    def health(self, server: ServerRegistered, api_key: str | None = None) -> Request | None:
        url = server.health_url or urls_of(server.predict_url).at("health-check")
        return Request(method="GET", url=url, headers=auth_headers(server, api_key))

    def health_needs_key(self, server: ServerRegistered) -> bool:
        return server.health_auth or server.health_url is None

    @property
    def most_health_bytes(self) -> int:
        return LARGEST_HEALTH_ANSWER

    def read_health(self, status: int, body: bytes) -> Probe:
        """Return what a health answer means. Cog's is always a 200."""
        if not 200 <= status < 300:
            return Probe(False, f"health check answered {status}")
        try:
            content = as_json(body).content
        except BadAnswer as error:
            return Probe(False, f"the answer to the health check {error}")
        said = content.get("status") if isinstance(content, dict) else None
        match said:
            case "READY":
                return Probe(True, "ready")
            case "BUSY":
                return Probe(True, "busy: all slots are taken")
            case "STARTING":
                return Probe(False, _with_detail("setting up", _setup_log(content)))
            case "SETUP_FAILED":
                return Probe(False, _with_detail("the setup failed", _setup_log(content)))
            case "UNHEALTHY":
                return Probe(False, _with_detail("unhealthy", reason_in(content.get("user_healthcheck_error"))))
            case "DEFUNCT":
                return Probe(False, _with_detail("defunct: it must be restarted", _setup_log(content)))
            case str():
                return Probe(False, f"its status is {shortened(said, 40)!r}")
            case _:
                return Probe(False, "the answer to the health check has no `status` of Cog's")


def _with_detail(reason: str, detail: str) -> str:
    return f"{reason}: {detail}" if detail else reason


def _setup_log(content: dict[str, Any]) -> str:
    """Return the end of the setup's log, on one line."""
    setup = content.get("setup")
    log = setup.get("logs") if isinstance(setup, dict) else None
    text = " | ".join(split_lines(log[-2 * LONGEST_SETUP_LOG :])) if isinstance(log, str) else ""
    return text if len(text) <= LONGEST_SETUP_LOG else f"…{text[1 - LONGEST_SETUP_LOG :]}"


class _CogCall(Conversation):
    def __init__(self, dialect: Cog, server: ServerRegistered, call: Call) -> None:
        self._dialect = dialect
        self._server = server
        self._call = call
        self._places = urls_of(server.predict_url)
        self._id = attempt_id(call.task_id, call.attempt)
        self._mode: _Mode = "asks"
        self._model = Model()
        self._events = Events()
        self._losses = 0
        """How often the stream broke since its last new event."""
        self._lost: Failed | None = None
        """Why the stream has to be opened again."""
        self._snapshots = Snapshots()
        self._probes = 0
        self._is_accepted = False
        """The prediction runs without a connection."""
        self._is_gone = 0
        """How often the server has said that it does not know the prediction any more."""
        self._is_cancelling = False
        """The server has said that it cancels."""

    @property
    def verdict(self) -> Verdict:
        call = self._call
        return Verdict(
            task_id=call.task_id,
            server_id=self._server.server_id,
            concatenates=self._model.concatenates,
            accepts=call.accepts,
        )

    @property
    def mark(self) -> str:
        return self._id

    # Requests

    def begin(self) -> Request:
        # Over a connection of its own: the answer has no mark of the attempt, and would put kept connections in doubt.
        return self._request("GET", self._places.at("openapi.json"), Connection="close")

    def _request(self, method: str, url: str, body: bytes | None = None, **headers: str) -> Request:
        content = {} if body is None else {"Content-Type": "application/json"}
        own = auth_headers(self._server, self._call.api_key)
        return Request(method=method, url=url, headers={**content, **headers, **own}, body=body)

    def _create(self) -> Request:
        """Return the request that starts the prediction."""
        if self._mode == "reports":
            joins = "&concatenate=true" if self._model.concatenates else ""
            webhook = f"{self._call.callback_url}/cog?token={self._call.callback_token}{joins}"
            asked = _encode(_Create(self._call.payload, webhook, ("completed",)))
            return self._request("PUT", self._places.prediction(self._id), asked, Prefer="respond-async")
        body = _encode(_Create(self._call.payload))
        if self._mode == "posts":
            return self._request("POST", self._places.predictions, body)
        accept = "text/event-stream" if self._mode == "streams" else "application/json"
        return self._request("PUT", self._places.prediction(self._id), body, Accept=accept)

    def _probe(self, seconds: float, update: Update | None = None) -> Next:
        """Return a look at the prediction, after a pause."""
        request = self._request("PUT", self._places.prediction(self._id), PROBE)
        return Next(request=request, after=timedelta(seconds=seconds), update=update)

    def _cancelling(self, prediction_id: str) -> Request:
        return self._request("POST", self._places.at(f"predictions/{prediction_id}/cancel"), b"{}")

    def _attach(self) -> Request:
        """Return the request for the events of the running prediction, from the first one."""
        return self._request("PUT", self._places.prediction(self._id), PROBE, Accept="text/event-stream")

    # Replies

    def open_stream(self, status: int, headers: Mapping[str, str]) -> StreamReader | None:  # noqa: ARG002
        return _PredictionStream(self, self._events) if status == 200 and self._mode == "streams" else None

    def read(self, reply: Reply) -> Turn:
        if self._mode == "asks":
            return self._start(reply)
        if self._mode == "frees":
            self._mode = "reports"
            return Next(request=self._create())
        if self._mode == "reports" and (self._is_accepted or reply.status == 202):
            return self._read_snapshot(reply)
        if self._lost is not None:
            return self._read_attached(reply, self._lost)
        if reply.status == 406 and self._mode == "streams":  # it does not stream after all
            self._mode = "waits"
            return Next(request=self._create())
        if reply.status == 405 and self._mode != "posts":  # it takes no ids
            self._mode = "posts"
            return Next(request=self._create())
        if reply.status == 202:
            error = "the server runs this attempt already, and gives its result to another request"
            return Failed(kind="error", error=error)
        if reply.status == 422 or 200 <= reply.status < 300:
            try:
                return whole(self.verdict, read_prediction(reply.body), reply.elapsed_ms)
            except BadAnswer as error:
                if reply.status != 422:
                    return bad_answer(reply, f"the answer {error}")
        return refusal(self._dialect, self._server, reply)

    def _start(self, reply: Reply) -> Turn:
        """Start the prediction, now that the server has said what its model can do.

        A server without a schema is setting up, or runs a model that `cog build` did not make: the prediction shows it.
        """
        if reply.status in (401, 403):
            return refusal(self._dialect, self._server, reply)
        if reply.status == 200:
            self._model = read_model(reply.body)
        self._mode = "streams" if self._model.streams else "reports" if self._server.callback else "waits"
        if self._mode == "reports" and self._call.attempt > 1:  # its worker may have been killed
            self._mode = "frees"
            return Next(request=self._cancelling(attempt_id(self._call.task_id, self._call.attempt - 1)))
        return Next(request=self._create())

    def _read_snapshot(self, reply: Reply) -> Turn:
        """Return what follows a look at a prediction that reports by webhook."""
        update: Update | None = None
        if reply.status == 202:
            try:
                update = self._snapshots.update(read_prediction(reply.body))
            except BadAnswer as error:
                if self._is_accepted:
                    return bad_answer(reply, f"the answer {error}")
        elif reply.status in (200, 404, 409, 422, 503):  # 503: it was restarted
            if self._is_gone >= len(PAUSES_OF_WEBHOOK):
                return Failed(kind="error", error=GONE)
            self._is_gone += 1
            return self._probe(PAUSES_OF_WEBHOOK[self._is_gone - 1])
        else:
            return self.lost(Failed(kind="error", error=reason_text(reply)))
        self._is_accepted, self._losses = True, 0
        self._probes += 1
        return self._probe(PAUSES_OF_PROBES[min(self._probes, len(PAUSES_OF_PROBES)) - 1], update)

    def _read_attached(self, reply: Reply, lost: Failed) -> Turn:
        """Return what an answer without events means after the stream broke."""
        if self._dialect.means_busy(self._server, reply.status):
            return self.lost(lost)
        return msgspec.structs.replace(
            lost, error=f"{lost.error}; the prediction had ended when it was asked for again"
        )

    def lost(self, failure: Failed) -> Turn:
        if self._is_accepted and self._losses < len(PAUSES_OF_LOSSES):
            self._losses += 1
            return self._probe(PAUSES_OF_LOSSES[self._losses - 1])
        if self._mode != "streams":
            return failure
        self._lost = self._lost or failure
        if self._losses >= len(PAUSES_OF_REATTACH):
            return self._lost
        self._losses += 1
        return Next(request=self._attach(), after=PAUSES_OF_REATTACH[self._losses - 1])

    def heard(self) -> None:
        """Note that the stream had a new event."""
        self._losses = 0
        self._lost = None

    def ended(self, prediction: Prediction, elapsed_ms: int) -> Answer | Final:
        """Return the answer of a prediction that its events have shown to the end. Raises BadAnswer."""
        answer = self.verdict.of(prediction, elapsed_ms)
        if prediction.status == "canceled" and self._lost is not None:
            return self._lost  # that was the cause
        update = self._events.rest(last_update(prediction))
        return answer if update is None else Final(update=update, answer=answer)

    @property
    def awaits_report(self) -> bool:
        return self._is_accepted

    # Cancellation

    def cancel(self) -> Request | None:
        return self._cancelling(self._id) if self._mode in ("streams", "waits", "reports") else None

    def read_cancel(self, reply: Reply | None) -> CancelOutcome | Next:
        """Ask until the prediction is gone. Cog's 200 says only that it will tell the model."""
        if reply is None:
            return "confirmed" if self._mode in ("asks", "frees") else "requested"
        is_running = reply.status == 202
        is_told = reply.status == 200 and not self._is_cancelling
        if is_told or is_running:
            self._is_cancelling = True
            return self._probe(PAUSE_OF_CANCEL)
        return "confirmed" if self._is_cancelling and reply.status in (200, 409, 422) else "unconfirmed"


class _PredictionStream(StreamReader):
    """`start`, `output`, `log`, `metric`, and `completed` with the whole prediction; `error` if Cog dropped events."""

    def __init__(self, call: _CogCall, events: Events) -> None:
        self._call = call
        self._events = events
        self._count = 0
        self._error = ""

    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | Final | None:
        if event == "completed":
            return self._call.ended(read_prediction(text), elapsed_ms)
        content = as_json(text).content
        if event == "error":
            self._error = reason_in(content) or "it reports an error"
            return None
        if not isinstance(content, dict):
            raise BadAnswer("is not a JSON object")
        self._count += 1
        if self._count <= self._events.count:
            return None
        self._events.count = self._count
        self._call.heard()
        return self._events.update(event, content, len(text))

    def end(self) -> Turn:
        if self._error:
            return Failed(kind="error", error=f"the stream broke off: {self._error}")
        return self._call.lost(Failed(kind="bad_answer", error="the streamed answer ended without a result"))
