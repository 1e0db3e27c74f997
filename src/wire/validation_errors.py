"""Complaints about a body: what msgspec finds wrong with it, in words that say what would be right."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from ..errors import InvalidInput
from .fields import PATTERNS

_COMPLAINT = re.compile(r"(.*?)(?: - at (`key` in )?`([^`]*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`")
_ENUM = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")


def invalid(error: msgspec.ValidationError, shape: Any) -> InvalidInput:
    """Return msgspec's complaint about what was to be a `shape`, with the path apart, down to the field it is about.

    It says "… - at `$.priority`", and of a name in an object "… - at `key` in `$.labels`".
    """
    found = _COMPLAINT.fullmatch(str(error))
    assert found is not None
    text, path = found[1], found[3] or "$"
    for pattern, meaning in PATTERNS.items():
        if repr(pattern) in text:
            text = f"Expected {meaning}"
    if found[2]:
        text = f"a name here: {text}"
    if field := _FIELD.fullmatch(text):
        path += f".{field[1]}"
    if value := _ENUM.fullmatch(text):
        text = f"{value[1]} is none of {', '.join(_words(shape, path))}"
    return InvalidInput(text, path)


def _words(shape: Any, path: str) -> list[str]:
    """Return the words that a shape allows where a path leads."""
    kinds = _flat(_kind(shape))
    for step in _STEP.finditer(path):
        kinds = [inner for kind in kinds for inner in _within(kind, step[1])]
    return [str(value) for kind in kinds if isinstance(kind, inspect.LiteralType) for value in kind.values]


@cache
def _kind(shape: Any) -> inspect.Type:
    return inspect.type_info(shape)


def _within(kind: inspect.Type, name: str | None) -> list[inspect.Type]:
    """Return what there may be under a name of an object, or (None) at a place of an array."""
    match kind:
        case inspect.StructType():
            return [each for field in kind.fields if field.encode_name == name for each in _flat(field.type)]
        case inspect.ListType():
            return _flat(kind.item_type)
        case _:
            return []


def _flat(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]
