"""The output of a response, made of a chat completion: its items, and the events that tell of them as they come. Pure.

delta.reasoning_content      an item `reasoning`
delta.content, .refusal      an item `message`
delta.tool_calls             an item `function_call` for each
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

Fields = dict[str, Any]
"""An event without its number, or an item."""
REASONING = ("reasoning_content", "reasoning")
"""Fields of a message with the thoughts of a model: vLLM has had both."""
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""`reason` of an incomplete response, by `finish_reason`."""


class _OpenItem(Struct):
    """An item that is being received."""

    kind: str
    """`reasoning`, `message` or `function_call`."""
    fields: Fields
    place: int
    """Its `output_index`."""
    pieces: list[str]
    content: str = ""
    """Type of the one part of its content: `output_text`, `refusal`, `reasoning_text`."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ItemEvents:
    """The events of the items of one response, made of the parts of a streamed chat completion."""

    def __init__(self, unique: str) -> None:
        self._unique = unique
        self._items: list[_OpenItem] = []
        self._open: _OpenItem | None = None
        """The item that texts are added to."""
        self._calls: dict[int, _OpenItem] = {}
        """Calls of functions, by their index: several may be received at a time."""
        self._finish_reason = ""

    def add(self, part: Mapping[str, Any]) -> Iterator[Fields]:
        """Yield the events of one part."""
        for choice in _dicts(part.get("choices")):
            if choice.get("index", 0) != 0:
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict):
                yield from self._add(delta, choice.get("logprobs"))
            if isinstance(reason := choice.get("finish_reason"), str):
                self._finish_reason = reason

    def end(self) -> Iterator[Fields]:
        """Yield the events that end the items that are open."""
        if self._open is not None:
            yield from self._close(self._open)
        for call in self._calls.values():
            yield from self._close(call)

    def _add(self, delta: Mapping[str, Any], logprobs: Any) -> Iterator[Fields]:
        for name in REASONING:
            if isinstance(text := delta.get(name), str) and text:
                yield from self._text("reasoning", "reasoning_text", "response.reasoning_text.delta", text, None)
                break
        if isinstance(text := delta.get("content"), str) and text:
            listed = logprobs.get("content") if isinstance(logprobs, dict) else None
            yield from self._text("message", "output_text", "response.output_text.delta", text, listed)
        if isinstance(text := delta.get("refusal"), str) and text:
            yield from self._text("message", "refusal", "response.refusal.delta", text, None)
        for place, call in enumerate(_dicts(delta.get("tool_calls"))):
            yield from self._call(call, place)

    def _text(self, kind: str, content: str, event: str, text: str, logprobs: Any) -> Iterator[Fields]:
        item = self._open
        if item is None or (item.kind, item.content) != (kind, content):
            if item is not None:
                yield from self._close(item)
            item = self._open = self._begin(kind)
            item.content = content
            yield {"type": "response.output_item.added", "output_index": item.place, "item": dict(item.fields)}
            yield {"type": "response.content_part.added", **_place(item), "part": _part(content, "")}
        item.pieces.append(text)
        shown = {"logprobs": logprobs if isinstance(logprobs, list) else []} if content == "output_text" else {}
        yield {"type": event, **_place(item), "delta": text, **shown}

    def _call(self, call: Mapping[str, Any], place: int) -> Iterator[Fields]:
        index = call.get("index", place)
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        item = self._calls.get(index) if isinstance(index, int) else None
        if item is None:
            if self._open is not None:
                yield from self._close(self._open)
                self._open = None
            item = self._calls[index if isinstance(index, int) else place] = self._begin("function_call")
            name = _text_of(function.get("name"))
            item.fields |= {"call_id": _text_of(call.get("id")), "name": name, "arguments": ""}
            yield {"type": "response.output_item.added", "output_index": item.place, "item": dict(item.fields)}
        if text := _text_of(function.get("arguments")):
            item.pieces.append(text)
            place_of = {"item_id": item.fields["id"], "output_index": item.place}
            yield {"type": "response.function_call_arguments.delta", **place_of, "delta": text}

    def _begin(self, kind: str) -> _OpenItem:
        number = sum(item.kind == kind for item in self._items)
        fields: Fields = {"id": item_id(kind, self._unique, number), "type": kind, "status": "in_progress"}
        if kind == "message":
            fields |= {"role": "assistant", "content": []}
        if kind == "reasoning":
            fields |= {"summary": [], "content": []}
        item = _OpenItem(kind=kind, fields=fields, place=len(self._items), pieces=[])
        self._items.append(item)
        return item

    def _close(self, item: _OpenItem) -> Iterator[Fields]:
        status = "incomplete" if self._finish_reason in INCOMPLETE else "completed"
        text, fields = item.text, {**item.fields, "status": status}
        if item.kind == "function_call":
            place = {"item_id": fields["id"], "output_index": item.place}
            yield {"type": "response.function_call_arguments.done", **place, "name": fields["name"], "arguments": text}
            fields["arguments"] = text
        else:
            part = _part(item.content, text)
            done = f"response.{item.content}.done"
            if item.content == "refusal":
                yield {"type": done, **_place(item), "refusal": text}
            else:
                shown: Fields = {"logprobs": []} if item.content == "output_text" else {}
                yield {"type": done, **_place(item), "text": text, **shown}
            yield {"type": "response.content_part.done", **_place(item), "part": part}
            fields["content"] = [part]
        yield {"type": "response.output_item.done", "output_index": item.place, "item": fields}


def response_of(completion: Mapping[str, Any], unique: str) -> Fields:
    """Return the fields of a response that a chat completion gives: status, output, usage."""
    choices = _dicts(completion.get("choices"))
    choice = choices[0] if choices else {}
    message = choice.get("message")
    events = ItemEvents(unique)
    found = [*events.add({"choices": [{**choice, "index": 0, "delta": message, "logprobs": None}]}), *events.end()]
    reason = INCOMPLETE.get(str(choice.get("finish_reason")))
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [event["item"] for event in found if event["type"] == "response.output_item.done"],
        "usage": _usage(completion.get("usage")),
    }


def text_response(data: bytes, value: Any, unique: str) -> Fields:
    """Return the same for an answer that is neither a chat completion nor a response: its text is the message."""
    text = value if isinstance(value, str) else data.decode()
    return response_of({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}, unique)


def item_id(kind: str, unique: str, number: int) -> str:
    """Return the id of an item; always the same for the same one."""
    prefix = {"message": "msg", "reasoning": "rs"}.get(kind, "fc")
    return f"{prefix}_{unique}" + (f"_{number}" if number else "")


def _usage(usage: Any) -> Fields | None:
    if not isinstance(usage, dict):
        return None
    before, after = _number(usage, "prompt_tokens"), _number(usage, "completion_tokens")
    cached = _number(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _number(usage.get("completion_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": before,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": after,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": _number(usage, "total_tokens") or before + after,
    }


def _number(fields: Any, name: str) -> int:
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, int) else 0


def _part(kind: str, text: str) -> Fields:
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    return {"type": kind, "text": text, **({"annotations": [], "logprobs": []} if kind == "output_text" else {})}


def _place(item: _OpenItem) -> Fields:
    return {"item_id": item.fields["id"], "output_index": item.place, "content_index": 0}


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _dicts(value: Any) -> list[Fields]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
