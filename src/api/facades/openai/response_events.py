"""A response as a fold of its task's events: the object, and its numbered events. Pure.

    0 response.created   1 response.queued   2 response.in_progress   3 … the items   n response.completed

The numbers and the bytes follow from the log alone, so every reader gets the same, whichever process it asks: a stream
that resumes `starting_after` a number goes on as if it had never been cut. Only the first end counts: a task that a
person retries by hand keeps the response that it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ....events.envelope import NULL, Recorded
from ....events.ids import TaskRef
from ....events.stream_parts import StreamParts
from ....events.task import TaskCancelled, TaskEvent, TaskFailed, TaskSubmitted
from ....instants import whole_seconds
from .response_items import Fields, ItemEvents, response_of, text_response

DEFAULTS: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Fields of a response that repeat the request."""
OWN = ("id", "object", "created_at", "background", "metadata", "model", "store")
"""Fields that are never those of the server."""
_encode = msgspec.json.Encoder().encode


class NumberedEvent(NamedTuple):
    """An event of a response, as it is sent."""

    number: int
    name: str
    data: bytes


class ResponseFacts(Struct, frozen=True, kw_only=True):
    """What is known of a response from its request."""

    ref: TaskRef
    task_type: str
    created_at: int
    """Seconds since the epoch."""
    asked: Mapping[str, Any]
    """The body of the request."""
    metadata: Mapping[str, str]

    @property
    def id(self) -> str:
        return f"resp_{self.ref.unique}"

    @property
    def is_background(self) -> bool:
        return self.asked.get("background") is True

    @property
    def is_stored(self) -> bool:
        return self.asked.get("store") is not False

    def shown(self, status: str, **more: Any) -> Fields:
        """Return the response with a status. `more`: other fields."""
        asked = {
            name: default if self.asked.get(name) is None else self.asked[name] for name, default in DEFAULTS.items()
        }
        own: Fields = {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": self.is_background,
            "error": None,
            "incomplete_details": None,
            "model": self.asked.get("model"),
            "output": [],
            "usage": None,
        }
        return {**own, **asked, "metadata": dict(self.metadata), **more}

    def finished(self, data: bytes) -> Fields:
        """Return the response that a server's answer is: a response, a chat completion, or anything else."""
        value = msgspec.json.decode(data)
        if isinstance(value, dict) and isinstance(value.get("output"), list):
            whole = self.shown(str(value.get("status", "completed")))
            return {**whole, **{name: each for name, each in value.items() if name not in OWN}}
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            return self.shown(**response_of(value, self.ref.unique))
        return self.shown(**text_response(data, value, self.ref.unique))

    def failed(self, end: TaskFailed | TaskCancelled) -> Fields:
        """Return the response that came to nothing."""
        if isinstance(end, TaskCancelled):
            return self.shown("cancelled")
        status = end.answer.status if end.answer is not None else 500
        message = end.error
        if end.answer is not None and end.answer.body != NULL:
            error = msgspec.json.decode(end.answer.body).get("error")
            message = error["message"] if isinstance(error, dict) and isinstance(error.get("message"), str) else message
        is_input = 400 <= status < 500 and status not in (401, 403, 407, 429)
        code = "invalid_prompt" if is_input or end.kind == "rejected" else "server_error"
        return self.shown("failed", error={"code": code, "message": message})


def facts_of(ref: TaskRef, recorded: Recorded[TaskEvent]) -> ResponseFacts | None:
    """Return the facts of the response that a task is, by its first event; None if it is none."""
    event = recorded.event
    if not isinstance(event, TaskSubmitted) or event.facade is None:
        return None
    if (event.facade.name, event.facade.endpoint) != ("openai", "responses"):
        return None
    asked = msgspec.json.decode(event.payload)
    return ResponseFacts(
        ref=ref,
        task_type=event.task_type,
        created_at=whole_seconds(recorded.at),
        asked=asked,
        metadata=event.facade.metadata,
    )


class ResponseEvents:
    """The events of one response, in order."""

    def __init__(self, facts: ResponseFacts) -> None:
        self._facts = facts
        self._number = 0
        self._has_started = False
        self._items = ItemEvents(facts.ref.unique)
        self._parts = 0
        """How many parts of the server's stream were taken."""

    def begin(self) -> list[NumberedEvent]:
        queued = self._facts.shown("queued")
        return [self._event({"type": f"response.{word}", "response": queued}) for word in ("created", "queued")]

    def started(self) -> list[NumberedEvent]:
        """Return the event of the first attempt; none for further ones."""
        if self._has_started:
            return []
        self._has_started = True
        return [self._event({"type": "response.in_progress", "response": self._facts.shown("in_progress")})]

    def parts(self, parts: StreamParts) -> list[NumberedEvent]:
        """Return the events of parts of the server's answer. Raises LostParts if some are missing before them."""
        if parts.first > self._parts:
            raise LostParts
        found = [event for text in list(parts.texts())[self._parts - parts.first :] for event in self._of(text)]
        self._parts = max(self._parts, parts.following)
        return found

    def _of(self, text: str) -> Iterator[NumberedEvent]:
        part = msgspec.json.decode(text)
        if isinstance(part.get("type"), str):
            yield self._event(part)
        else:
            yield from map(self._event, self._items.add(part))

    def finished(self, data: bytes) -> list[NumberedEvent]:
        """Return the last events of a response that a server answered."""
        response = self._facts.finished(data)
        found: list[Fields] = []
        if not self._parts:
            found += _whole(response)
        found += self._items.end()
        kind = "incomplete" if response["status"] == "incomplete" else "completed"
        return [self._event(each) for each in (*found, {"type": f"response.{kind}", "response": response})]

    def failed(self, end: TaskFailed | TaskCancelled) -> list[NumberedEvent]:
        """Return the last event of a response that came to nothing. The clients know none for a cancelled one."""
        kind = "incomplete" if isinstance(end, TaskCancelled) else "failed"
        return [self._event({"type": f"response.{kind}", "response": self._facts.failed(end)})]

    def _event(self, fields: Fields) -> NumberedEvent:
        number = self._number
        self._number += 1
        return NumberedEvent(number, fields["type"], _encode({**fields, "sequence_number": number}))


class LostParts(Exception):
    """Parts of a server's stream are not in the log: they were too large to be kept."""


def _whole(response: Mapping[str, Any]) -> Iterator[Fields]:
    """Yield the events of a response that came in one piece."""
    for place, item in enumerate(response["output"]):
        yield {"type": "response.output_item.added", "output_index": place, "item": item}
        for index, part in enumerate(item.get("content") or [] if isinstance(item, dict) else []):
            if isinstance(part, dict) and part.get("type") == "output_text" and isinstance(part.get("text"), str):
                at = {"item_id": item.get("id"), "output_index": place, "content_index": index}
                yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
                yield {"type": "response.output_text.delta", **at, "delta": part["text"], "logprobs": []}
                yield {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
                yield {"type": "response.content_part.done", **at, "part": part}
        yield {"type": "response.output_item.done", "output_index": place, "item": item}
