"""What workers of RunPod's protocol send about a job, and what it means here. Pure.

    {"output": …}                                    the job succeeded
    {"error": …, "output"?: …}                       the job failed; an exception's `error` is JSON in a text
    {"status": "IN_PROGRESS", "output": …}           progress
    {"output": piece}                                to the address of streams: a piece of the result

A job that streams ends with an empty `output`: its result is the list of its pieces.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from ...backends.dialects.dialect import Update
from ...backends.dialects.reasons import reason_in
from ...backends.dialects.task_update import NAN_IN_DATA, TaskUpdate, read_update
from ...errors import InvalidInput
from ...events.envelope import NULL
from ...events.task import ProgressReported, TaskEvent
from ...push.attempt_reports import NOT_KEPT
from ...wire.json_text import read_json

LONGEST_PIECE = 256 * 1024
"""Bytes of a piece: it becomes a message of NATS."""
PIECE = "piece"
"""Field of an event's custom data: a piece that is not a text."""
NOTHING: tuple[Any, ...] = (None, [], "")
"""Outputs of a job that has streamed its result."""

_encode = msgspec.json.Encoder().encode


class JobBody:
    """A body about a job, read. Raises InvalidInput for anything but a JSON object."""

    def __init__(self, text: bytes) -> None:
        try:
            self._json = read_json(text)
        except (msgspec.DecodeError, RecursionError):
            raise InvalidInput("must be a JSON object", "$") from None
        if not isinstance(self._json.content, dict):
            raise InvalidInput("must be a JSON object", "$")
        self.content: dict[str, Any] = self._json.content

    @property
    def is_progress(self) -> bool:
        return self.content.get("status") == "IN_PROGRESS"

    @property
    def has_failed(self) -> bool:
        """True for any `error` that says something: a failure must not become a success."""
        return self.content.get("error") not in (None, "", False)

    @property
    def has_no_output(self) -> bool:
        return self.content.get("output") in NOTHING

    @property
    def output(self) -> Raw:
        """The output, JSON. Raises InvalidInput for NaN in it, which JSON cannot hold."""
        output = _output_in(self._json.text)
        if self._json.marked is not None and bytes(_output_in(self._json.marked)) != bytes(output):
            raise InvalidInput(NAN_IN_DATA, "$.output")
        return output

    @property
    def shown_output(self) -> Raw:
        """The output with null for each NaN: for progress, which decides nothing."""
        return _output_in(self._json.text)

    def ending(self, output: Raw) -> TaskUpdate:
        """Return the end of the task that a job's last body is."""
        metadata = {"status": "FAILED", "message": self._reason()} if self.has_failed else {"status": "FINISHED"}
        return read_update(read_json(_encode({"data": output, "metadata": metadata})))

    def _reason(self) -> str:
        """Return why the job failed, for people."""
        error = self.content["error"]
        if isinstance(error, str):
            try:
                found: Any = msgspec.json.decode(error)
            except (msgspec.DecodeError, RecursionError):
                return error
            if not isinstance(found, dict):
                return error
            error = found
        if isinstance(error, dict) and isinstance(message := error.get("error_message"), str):
            kind = str(error.get("error_type", "")).removeprefix("<class '").removesuffix("'>")
            return f"{kind}: {message}" if kind else message
        return reason_in(error) or "the job failed"


def _output_in(text: bytes) -> Raw:
    return msgspec.json.decode(text, type=dict[str, Raw]).get("output", NULL)


def progress_of(body: JobBody) -> Update:
    """Return the progress that a worker reports: a text, a percentage, or an object that may have both."""
    output = body.content.get("output")
    match output:
        case str():
            said: dict[str, Any] = {"message": output}
        case bool() | None:
            said = {}
        case int() | float():
            said = {"progress": output}
        case dict():
            said = {name: output[name] for name in ("progress", "message") if name in output}
            said["custom_data"] = body.shown_output
        case _:
            said = {"custom_data": body.shown_output}
    update = _encode({"metadata": {**said, "status": "PROCESSING"}})
    return read_update(read_json(update)).progress()


def piece_of(body: JobBody) -> Update:
    """Return a streamed piece: a text as it is, anything else as JSON on a line."""
    output = body.content.get("output")
    if isinstance(output, str):
        return Update(output=output)
    text = bytes(body.output)
    return Update(output=text.decode() + "\n", custom_data=Raw(_encode({PIECE: Raw(text)})))


def piece_in(event: TaskEvent, attempt: int) -> Raw | None:
    """Return the piece that an event of an attempt records, JSON; None for none. Raises InvalidInput for a lost one."""
    if not isinstance(event, ProgressReported) or event.attempt != attempt:
        return None
    if NOT_KEPT in event.notes:
        raise InvalidInput("the streamed pieces are too large to be kept", "$.output")
    if not event.output:
        return None
    if event.custom_data != NULL:
        fields = msgspec.json.decode(event.custom_data)
        if isinstance(fields, dict) and fields.keys() == {PIECE}:
            return msgspec.json.decode(event.custom_data, type=dict[str, Raw])[PIECE]
    return Raw(_encode(event.output))
