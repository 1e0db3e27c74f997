"""What the answers of a server of the dialect `bare` mean for the task, as its registration says. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...events.exchange import BareExchange
from ...events.server import ServerRegistered
from ...wire.json_text import Json
from .answer_tests import TestedAnswer
from .contents import Content
from .dialect import BadAnswer, Busy, Call, Completed, Dialect, Failed, FailedByBackend, Reply
from .json_paths import json_path
from .reasons import reason_of
from .refusals import refusal
from .results import completed, seen
from .task_update import NAN_IN_DATA, wrapped

_encode = msgspec.json.Encoder().encode


class BareOutcomes(Struct, frozen=True):
    """The outcomes of one attempt's answers."""

    dialect: Dialect
    server: ServerRegistered
    call: Call
    exchange: BareExchange

    def busy(self, answer: TestedAnswer, reply: Reply) -> Busy | None:
        """Return that the server is busy if `busyWhen` holds. Raises BadAnswer."""
        if not answer.meets(self.exchange.busy_when):
            return None
        return Busy(error=self.reason(answer), retry_after=reply.retry_after)

    def failure(self, answer: TestedAnswer, elapsed_ms: int) -> FailedByBackend | Failed | None:
        """Return the failure if `failWhen` or `retryWhen` holds. Raises BadAnswer."""
        if answer.meets(self.exchange.fail_when):
            return self.failed(answer, elapsed_ms)
        if answer.meets(self.exchange.retry_when):
            return Failed(kind="error", error=self.reason(answer))
        return None

    def failed(self, answer: TestedAnswer, elapsed_ms: int) -> FailedByBackend:
        """Return the failure of a task that the server reports in this answer."""
        error = self._words(answer) or f"the server reports failure (status {answer.status})"
        metadata = {**seen(self.server.server_id, "FAILED", elapsed_ms), "message": error}
        data = answer.json.text if answer.json is not None and answer.json.marked is None else b"null"
        return FailedByBackend(wrapped(self.call.task_id, data, **metadata), error)

    def refused(self, answer: TestedAnswer, reply: Reply) -> Busy | Failed:
        """Return what an answer means whose status is not 2xx."""
        found = refusal(self.dialect, self.server, reply)
        return replace(found, error=self.reason(answer)) if answer.reason(self.exchange.error) else found

    def completed(self, answer: TestedAnswer, elapsed_ms: int, media_type: str) -> Completed:
        """Return the success with the result in an answer. Raises BadAnswer if the result is missing."""
        return completed(self.server, self.call, self._content(answer), elapsed_ms, media_type)

    def reason(self, answer: TestedAnswer) -> str:
        """Return the status and the server's own words."""
        words = self._words(answer)
        return f"the server answered {answer.status}" + (f": {words}" if words else "")

    def _words(self, answer: TestedAnswer) -> str:
        media_type = "application/json" if answer.json is not None else "text/plain"
        return answer.reason(self.exchange.error) or reason_of(answer.body, media_type)

    def _content(self, answer: TestedAnswer) -> Content:
        content, path = answer.found, self.exchange.result
        if isinstance(content, BadAnswer):
            raise content
        if not path:
            return content
        if not isinstance(content, Json):
            raise BadAnswer(f"is not JSON, so it has nothing at `{path}`, where its result should be")
        found = json_path(path).find(content.content, len(answer.body))
        if not found:
            raise BadAnswer(f"has nothing at `{path}`, where its result should be")
        if content.marked is not None and _encode(found) != _encode(
            json_path(path).find(msgspec.json.decode(content.marked), len(answer.body))
        ):
            raise BadAnswer(NAN_IN_DATA)
        value = found[0] if json_path(path).is_single else found
        return Json(_encode(value), value)
