"""The dialect `bare`: the payload is the body of the request, the answer is the result.

What a registration adds in `exchange` covers other servers: a template of the request, the place of the result, what
counts as failed or busy, and jobs that are polled until they have ended.

    start ──answer──► the outcome
      │
      ╰──accepted──► poll ──done──► the outcome, or a request for the result
                     │  ▲
                     ╰──╯ not yet, no answer, or 429 and 503

A server that accepted an attempt is not started again by it: what follows are polls alone. A poll without an answer is
repeated after growing pauses. When the job is given up, the server is told to cancel it, if it can be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from msgspec.structs import replace

from ...events.exchange import Acceptance, BareExchange, Poll
from ...events.server import ServerRegistered
from ...events.task import CancelOutcome
from .answer_tests import TestedAnswer, tested
from .bare_outcomes import BareOutcomes
from .bare_stream import BareStream, unreadable
from .contents import media_type_of
from .dialect import (
    Answer,
    BadAnswer,
    Call,
    Conversation,
    Dialect,
    Failed,
    Final,
    Next,
    Reply,
    Request,
    StreamReader,
    Turn,
    Update,
    attempt_id,
    auth_headers,
)
from .job_progress import JobProgress
from .refusals import bad_answer
from .templates import fill, fill_url, named_url, read_job_id

LONGEST_PAUSE = timedelta(seconds=30)
"""Between polls that are not answered."""
LONGEST_ASKED = timedelta(minutes=5)
"""Of the pauses that a server asks for between polls."""
LATER = frozenset({429, 503})
"""Statuses of a poll by which a server that is alive asks for patience."""
GONE = frozenset({404, 410})
"""Statuses of a poll that mean that the server lost the job."""
PASSING = frozenset({408, 425, 502, 504})
"""Statuses of proxies and of moments: they say nothing about the job."""
ACCEPTED = "it has no result. Register the server with `exchange.accepted` and `exchange.poll`, if its jobs are polled"
PLAIN = BareExchange()
POLL_SECONDS = timedelta(seconds=60)
"""How long the answer to a poll may take."""


class Bare(Dialect):
    """Any HTTP server that answers with the result, or with a job that is polled."""

    name = "bare"
    busy_status = frozenset({429, 503})

    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        return _BareCall(self, server, call)


class _BareCall(Conversation):
    """One attempt."""

    def __init__(self, dialect: Dialect, server: ServerRegistered, call: Call) -> None:
        self._exchange = server.exchange or PLAIN
        self._server = server
        self._call = call
        self._outcomes = BareOutcomes(dialect, server, call, self._exchange)
        self._step: Literal["start", "poll", "result", "giving up"] = "start"
        self._job = attempt_id(call.task_id, call.attempt)
        self._asked: Request | None = None
        """The poll, or the request for the result."""
        self._cancel_url = ""
        """As the server named it."""
        self._progress = JobProgress(self._exchange.poll) if self._exchange.poll else None
        self._unanswered = 0
        """Polls in a row."""
        self._silent = timedelta(0)
        """Pauses since the last answer about the job."""
        self._is_streamed = False
        self._given_up: Failed | None = None

    def begin(self) -> Request:
        template = self._exchange.request
        return self._request(
            template.method, fill_url(self._server.predict_url, template.url, self._job), template.body
        )

    def open_stream(self, status: int, headers: Mapping[str, str]) -> StreamReader | None:
        stream = self._exchange.stream
        if stream is None or not 200 <= status < 300 or self._step == "giving up":
            return None
        self._is_streamed = True
        media_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        has_events = media_type.lower().startswith("text/event-stream")
        return BareStream(stream, self._outcomes, status, has_events=has_events)

    def read(self, reply: Reply) -> Turn:
        if self._given_up is not None:
            return self._given_up
        try:
            answer = tested(reply)
            match self._step:
                case "start":
                    return self._started(answer, reply)
                case "poll":
                    return self._polled(answer, reply)
                case _:
                    return self._fetched(answer, reply)
        except BadAnswer as error:
            return self._give_up(bad_answer(reply, f"the answer {error}"))
        except ValueError as error:  # a path that this version does not take any more
            return self._give_up(unreadable(error))

    def lost(self, failure: Failed) -> Turn:
        if self._given_up is not None:
            return self._given_up
        if self._step == "start" or self._is_streamed:  # a stream that broke off has no second reader
            return failure
        return self._again(failure)

    # What follows an answer

    def _started(self, answer: TestedAnswer, reply: Reply) -> Turn:
        outcomes, accepted = self._outcomes, self._exchange.accepted
        if busy := outcomes.busy(answer, reply):
            return busy
        if failure := outcomes.failure(answer, reply.elapsed_ms):
            return failure
        if accepted is not None and answer.meets(accepted.when, on_success=True):
            return self._accepted(answer, reply, accepted)
        if not answer.is_success:
            return outcomes.refused(answer, reply)
        if reply.status == 202:
            return bad_answer(reply, ACCEPTED)
        return outcomes.completed(answer, reply.elapsed_ms, media_type_of(reply))

    def _accepted(self, answer: TestedAnswer, reply: Reply, accepted: Acceptance) -> Turn:
        poll = self._poll
        if accepted.id:
            self._job = read_job_id(answer.at(accepted.id))
        self._step = "poll"
        if accepted.cancel_url:
            self._cancel_url = self._named(answer, reply, accepted.cancel_url)
        named = self._named(answer, reply, accepted.status_url) if accepted.status_url else ""
        url = named or fill_url(self._server.predict_url, poll.url, self._job)
        self._asked = self._bounded(self._request(poll.method, url))
        return Next(request=self._asked, after=poll.interval if poll.done is not None else timedelta(0))

    def _polled(self, answer: TestedAnswer, reply: Reply) -> Turn:
        poll = self._poll
        if (failure := self._outcomes.failure(answer, reply.elapsed_ms)) is not None:
            return self._ended(answer, failure)
        if answer.meets(poll.failed, on_success=True):
            return self._ended(answer, self._outcomes.failed(answer, reply.elapsed_ms))
        if not answer.is_success:
            return self._unhelpful(answer, reply)
        self._unanswered = 0
        self._silent = timedelta(0)
        if poll.done is None:
            raise BadAnswer("is not streamed, and the registration has no `poll.done`")
        if not answer.meets(poll.done):
            after = max(poll.interval, min(reply.retry_after or timedelta(0), LONGEST_ASKED))
            return Next(request=self._current, after=after, update=self._update(answer, is_last=False))
        if not poll.result_url:
            return self._ended(answer, self._outcomes.completed(answer, reply.elapsed_ms, media_type_of(reply)))
        self._step = "result"
        self._asked = self._bounded(
            self._request("GET", fill_url(self._server.predict_url, poll.result_url, self._job))
        )
        return Next(request=self._asked, update=self._update(answer, is_last=True))

    def _fetched(self, answer: TestedAnswer, reply: Reply) -> Turn:
        if failure := self._outcomes.failure(answer, reply.elapsed_ms):
            return failure
        if answer.is_success:
            return self._outcomes.completed(answer, reply.elapsed_ms, media_type_of(reply))
        if reply.status in LATER | GONE | PASSING:
            return self._unhelpful(answer, reply)
        return self._outcomes.refused(answer, reply)  # the job's own

    def _unhelpful(self, answer: TestedAnswer, reply: Reply) -> Turn:
        """Return what follows an answer to a poll that does not have the job's state."""
        status, reason = reply.status, self._outcomes.reason(answer)
        if status in GONE:
            return Failed(kind="error", error=f"{reason}; it does not know the job any more")
        failure = Failed(kind="error", error=f"{reason}, when it was asked for the job")
        if status in LATER:
            self._silent = timedelta(0)
            return self._again(failure, reply.retry_after)
        if status >= 500 or status in PASSING:
            return self._again(failure, reply.retry_after)
        return self._give_up(failure)

    def _again(self, failure: Failed, asked: timedelta | None = None) -> Turn:
        """Return the same request after a pause, the longer the more of them came to nothing; or the failure."""
        poll = self._poll
        left = poll.patience - self._silent
        if left <= timedelta(0):
            return self._give_up(failure)
        pause = min(poll.interval * 2 ** min(self._unanswered, 10), max(LONGEST_PAUSE, poll.interval))
        pause = max(min(pause, left), min(asked or timedelta(0), LONGEST_ASKED))
        self._unanswered += 1
        self._silent += pause
        return Next(request=self._current, after=pause)

    def _give_up(self, failure: Failed) -> Turn:
        """Return the failure; before it the request that stops the job, if there is one."""
        request = self.cancel() if self._step in ("poll", "result") else None
        if request is None:
            return failure
        self._given_up = failure
        self._step = "giving up"
        return Next(request=request)

    def _ended(self, answer: TestedAnswer, outcome: Answer) -> Turn:
        update = self._update(answer, is_last=True)
        return outcome if update is None else Final(update=update, answer=outcome)

    def _update(self, answer: TestedAnswer, *, is_last: bool) -> Update | None:
        return self._progress.read(answer, is_last=is_last) if self._progress is not None else None

    # Cancellation

    def cancel(self) -> Request | None:
        cancel, accepted = self._exchange.cancel, self._exchange.accepted
        if cancel is None or self._step == "giving up":
            return None
        if self._step == "start" and accepted is not None and (accepted.id or accepted.cancel_url):
            return None  # the server has not named the job
        try:
            url = self._cancel_url or fill_url(self._server.predict_url, cancel.url, self._job)
        except BadAnswer:
            return None
        return self._request(cancel.method, url, cancel.body)

    def read_cancel(self, reply: Reply | None) -> CancelOutcome | Next:
        if reply is None:
            return "requested" if self._step == "start" or self._is_streamed else "impossible"
        if self._exchange.cancel is None or self._exchange.cancel.confirmed is None:
            return "requested" if 200 <= reply.status < 300 else "unconfirmed"
        try:
            is_confirmed = tested(reply).meets(self._exchange.cancel.confirmed, on_success=True)
        except (BadAnswer, ValueError):
            is_confirmed = False
        return "confirmed" if is_confirmed else "unconfirmed"

    # Requests

    @property
    def _poll(self) -> Poll:
        assert self._exchange.poll is not None  # a registration with `accepted` has it
        return self._exchange.poll

    @property
    def _current(self) -> Request:
        assert self._asked is not None
        return self._asked

    def _request(self, method: str, url: str, body: Any = None) -> Request:
        headers = {**self._exchange.request.headers, **auth_headers(self._server, self._call.api_key)}
        if body is None:
            return Request(method=method, url=url, headers=headers)
        filled = fill(body, bytes(self._call.payload), self._job)
        return Request(method=method, url=url, headers={"Content-Type": "application/json", **headers}, body=filled)

    def _bounded(self, request: Request) -> Request:
        """Return a poll that is repeated if it hangs. A streamed one lasts as long as its job."""
        return request if self._exchange.stream is not None else replace(request, within=POLL_SECONDS)

    def _named(self, answer: TestedAnswer, reply: Reply, place: str) -> str:
        """Return the URL at a path of an answer, or in a header of it. Raises BadAnswer for none."""
        if place.startswith("$"):
            named = answer.at(place)
        else:
            named = next((value for name, value in reply.headers.items() if name.lower() == place.lower()), None)
        if not isinstance(named, str) or not named:
            raise BadAnswer(f"has no URL at `{place}`")
        return named_url(self._server.predict_url, named)
