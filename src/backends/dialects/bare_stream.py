"""A streamed answer of a server of the dialect `bare`: server-sent events, or JSON on lines. Pure.

Each part is JSON; the data of an event may be a text, such as `[DONE]`. The text at `output` is output of the task. The
part for which `done` holds ends the stream: the result is the last part that is an object, with all the output in the
place of its own.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from ...events.exchange import StreamedParts
from ...wire.json_text import Json
from .answer_tests import TestedAnswer
from .bare_outcomes import BareOutcomes
from .contents import as_json
from .dialect import Answer, BadAnswer, Failed, Final, StreamReader, Update
from .job_progress import JobProgress
from .json_paths import json_path

_encode = msgspec.json.Encoder().encode


class BareStream(StreamReader):
    """Reads one streamed answer."""

    def __init__(self, stream: StreamedParts, outcomes: BareOutcomes, status: int, *, has_events: bool) -> None:
        self._stream = stream
        self._outcomes = outcomes
        self._status = status
        self._has_events = has_events
        self._progress = JobProgress(stream)
        self._output: list[str] = []
        self._last: dict[str, Any] | None = None

    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | Final | None:
        try:
            return self._read(self._part(text, event), elapsed_ms)
        except ValueError as error:  # a path that this version does not take any more
            return unreadable(error)

    def end(self) -> Answer:
        return Failed(kind="bad_answer", error="the streamed answer ended before its last part")

    def _read(self, part: TestedAnswer, elapsed_ms: int) -> Update | Answer | Final | None:
        if failure := self._outcomes.failure(part, elapsed_ms):
            return failure
        if isinstance(part.value, dict):
            self._last = part.value
        update = self._progress.read(part, is_last=True)
        output = part.at(self._stream.output)
        if isinstance(output, str) and output:
            self._output.append(output)
            update = replace(update or Update(), output=output)
        if not part.meets(self._stream.done):
            return update
        answer = self._outcomes.completed(self._whole(part), elapsed_ms, "")
        return answer if update is None else Final(update=update, answer=answer)

    def _part(self, text: bytes, event: str) -> TestedAnswer:
        try:
            found: Json | str = as_json(text)
        except BadAnswer:
            if not self._has_events or text.startswith(b"{"):
                raise
            found = text.decode(errors="replace")
        if self._stream.events:
            name, data = _encode(event), found.text if isinstance(found, Json) else _encode(found)
            found = as_json(b'{"event":%b,"data":%b}' % (name, data))
        return TestedAnswer(self._status, text, found)

    def _whole(self, part: TestedAnswer) -> TestedAnswer:
        """Return the last part with the whole output; of a stream without objects the output alone."""
        output = "".join(self._output)
        if self._last is None:
            whole: Any = output if self._stream.output else part.value
        else:
            whole = self._last
            if self._stream.output:
                _put(whole, json_path(self._stream.output).names or [], output)
        text = _encode(whole)
        return TestedAnswer(self._status, text, Json(text, whole))


def unreadable(error: ValueError) -> Failed:
    """Return the failure of an attempt at a server whose registration this version cannot read."""
    return Failed(kind="error", error=f"a path or condition of the server's registration {error}", is_neutral=True)


def _put(content: dict[str, Any], names: list[str], value: str) -> None:
    """Put a value where the names lead, through objects that are made where there are none."""
    *outer, last = names
    for name in outer:
        inner = content.get(name)
        if not isinstance(inner, dict):
            inner = content[name] = {}
        content = inner
    content[last] = value
