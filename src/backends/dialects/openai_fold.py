"""The parts of a streamed completion, folded into the object that the same call without `stream` answers with. Pure.

What grows is told from what is repeated by its name and type: text grows but for names such as `role` and `id`, lists
grow, objects are folded field by field, and of anything else the last value that is not null stays. Items of a list
that have an `index` (tool calls) are folded one by one.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["chat/completions", "completions"]

OBJECTS: dict[Kind, str] = {"chat/completions": "chat.completion", "completions": "text_completion"}
"""What `object` is in the whole answer."""
MOST_CHOICES = 1_000
"""Of one completion. Each costs far more memory than the part that begins it; OpenAI's API has 128 at most."""
REPEATED = frozenset({"format", "id", "index", "object", "role", "status", "type"})
"""Text that is repeated, not continued."""
SENT_ONCE = frozenset({"name"})
"""Text that some servers send once, and some with each part."""

_encode = msgspec.json.Encoder().encode


class NotAPart(Exception):
    """An object is no part of a completion; the message completes "part 2 of the streamed answer …"."""


class CompletionFold:
    """What has come of one completion."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._fields: dict[str, Any] = {}
        """All but `choices` and `object`."""
        self._choices: dict[int, _Choice] = {}

    @property
    def is_finished(self) -> bool:
        """True if every choice that has begun has said why it ended."""
        return bool(self._choices) and all(choice.is_finished for choice in self._choices.values())

    @property
    def is_empty(self) -> bool:
        return not self._choices

    def add(self, part: dict[str, Any]) -> str:
        """Fold one part; return the text that it adds to the first choice. Raises NotAPart."""
        choices = part.get("choices")
        if not isinstance(choices, list):
            if part.get("usage") is None and not str(part.get("object", "")).endswith((".chunk", "_completion")):
                raise NotAPart("has no choices")
            choices = []
        for name, value in part.items():
            if name not in ("choices", "object") and (value is not None or name not in self._fields):
                self._fields[name] = value
        added = [self._add_choice(choice, place) for place, choice in enumerate(choices)]
        return "".join(added)

    def _add_choice(self, part: Any, place: int) -> str:
        if not isinstance(part, dict):
            raise NotAPart("has a choice that is not an object")
        index = part.get("index", place)
        if not isinstance(index, int) or isinstance(index, bool):
            raise NotAPart("has a choice without a number")
        known = self._choices.get(index)
        if known is None:
            if len(self._choices) >= MOST_CHOICES:
                raise NotAPart(f"has more than {MOST_CHOICES:,} choices")
            known = self._choices[index] = _Choice(is_chat=self._kind == "chat/completions")
        text = known.add(part)
        return text if index == 0 else ""

    def result(self) -> bytes:
        """Return the whole answer, JSON."""
        fields = dict(self._fields)
        head = {name: fields.pop(name) for name in ("id", "created", "model") if name in fields}
        choices = [self._choices[index].result(index) for index in sorted(self._choices)]
        return _encode({**head, "object": OBJECTS[self._kind], "choices": choices, **fields})


class _Choice:
    def __init__(self, *, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._fields: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._text = _Pieces()

    @property
    def is_finished(self) -> bool:
        return self._fields.get("finish_reason") is not None

    def add(self, part: dict[str, Any]) -> str:
        """Fold a part of the choice; return the text that it adds."""
        for name, value in part.items():
            if name in ("index", "delta", "text", "message"):
                continue
            if isinstance(value, list) or name == "logprobs":
                fold_field(self._fields, name, value)
            elif value is not None or name not in self._fields:
                self._fields[name] = value
        if not self._is_chat:
            text = part.get("text")
            self._text.add(text)
            return text if isinstance(text, str) else ""
        delta = part.get("delta", part.get("message"))
        if delta is None:
            return ""
        if not isinstance(delta, dict):
            raise NotAPart("has a delta that is not an object")
        fold(self._message, delta)
        content = delta.get("content")
        return content if isinstance(content, str) else ""

    def result(self, index: int) -> dict[str, Any]:
        fields = {"finish_reason": None, **whole(self._fields)}
        if not self._is_chat:
            return {"index": index, "text": str(self._text), **fields}
        message = whole(self._message)
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            message["tool_calls"] = [
                {name: value for name, value in call.items() if name != "index"} if isinstance(call, dict) else call
                for call in calls
            ]
            message["content"] = message["content"] or None
        return {"index": index, "message": message, **fields}


class _Pieces:
    """A text that grows. Joined once: adding piece by piece to a long text takes quadratic time."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, piece: Any) -> None:
        if isinstance(piece, str) and piece:
            self._pieces.append(piece)

    @property
    def last(self) -> str:
        return self._pieces[-1] if self._pieces else ""

    def __str__(self) -> str:
        return "".join(self._pieces)


class _Items:
    """A list that grows."""

    __slots__ = ("_by_index", "_items")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._by_index: dict[int, dict[str, Any]] = {}

    def add(self, items: list[Any], *, are_calls: bool) -> None:
        for item in items:
            if not isinstance(item, dict):
                self._items.append(item)
                continue
            index = item.get("index")
            if isinstance(index, int) and not isinstance(index, bool):
                known = self._by_index.get(index)
            else:
                known = self._latest(item) if are_calls else None
                index = None
            if known is None:
                if index is None and not are_calls:
                    self._items.append(item)  # complete as it is
                    continue
                known = {}
                self._items.append(known)
                if index is not None:
                    self._by_index[index] = known
            fold(known, item)

    def _latest(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """Return the tool call that a part without an index continues; None if it begins one."""
        latest = self._items[-1] if self._items else None
        if not isinstance(latest, dict) or call.get("id") not in (None, "", latest.get("id")):
            return None
        return latest

    def whole(self) -> list[Any]:
        def place(item: Any) -> int:
            index = item.get("index") if isinstance(item, dict) else None
            return index if isinstance(index, int) else 0

        items = sorted(self._items, key=place) if self._by_index else self._items
        return [whole(item) for item in items]


def fold(known: dict[str, Any], delta: dict[str, Any]) -> None:
    """Fold the fields of a delta into what is known."""
    for name, value in delta.items():
        fold_field(known, name, value)


def fold_field(known: dict[str, Any], name: str, value: Any) -> None:
    """Fold one field."""
    before = known.get(name)
    match value:
        case None:
            known.setdefault(name, None)
        case str() if name in REPEATED:
            if value or not before:
                known[name] = value
        case str():
            if not isinstance(before, _Pieces):
                before = known[name] = _Pieces()
            if name not in SENT_ONCE or before.last != value:
                before.add(value)
        case dict():
            if not isinstance(before, dict):
                before = known[name] = {}
            fold(before, value)
        case list():
            if not isinstance(before, _Items):
                before = known[name] = _Items()
            before.add(value, are_calls=name == "tool_calls")
        case _:
            known[name] = value


def whole(value: Any) -> Any:
    """Return what was folded as plain JSON values."""
    match value:
        case _Pieces():
            return str(value)
        case _Items():
            return value.whole()
        case dict():
            return {name: whole(each) for name, each in value.items()}
        case _:
            return value
