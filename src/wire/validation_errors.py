"""Error texts for invalid JSON bodies.

What msgspec and jsonschema-rs find, in sentences that say what is required.

A text follows a path: "$.delay: must be a number of seconds from 0 to 60, or null; given: text". The requirement comes
from the type of the field, so a text never depends on the wording of msgspec further than these patterns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec
from msgspec import inspect

from ..errors import InvalidInput
from .fields import PATTERNS

_ERROR = re.compile(r"(.*?)(?: - at (`key` in )?`([^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_GIVEN_TYPE = re.compile(r"Expected .*, got `(\w+)`", re.DOTALL)
_GIVEN_VALUE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")
_MALFORMED = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)", re.DOTALL)
LONGEST_GUESSED = 64
"""Characters. A longer name is not compared with the known ones: the cost grows with its square."""
_PARAMETER = re.compile(r"Expected `([\w| ]+)`(?: (>=|<=|>|<) ([\d.]+))?(?:, got `\w+`)?")
_BOUNDS = {">=": " of at least {}", "<=": " of at most {}", ">": " greater than {}", "<": " less than {}"}
_JSON_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number with a fraction",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "text",
}


def invalid(error: msgspec.ValidationError, shape: Any) -> InvalidInput:
    """Return msgspec's error about a body that was to be a `shape`, in our words, with the path of the field."""
    found = _ERROR.fullmatch(str(error))
    assert found is not None
    text, is_name, path = found[1], found[2] is not None, found[3] or "$"
    kinds = _at(shape, path)
    if missing := _MISSING.fullmatch(text):
        path += f".{missing[1]}"
        return InvalidInput(f"is required and must be {_requirement(_at(shape, path)) or 'given'}", path)
    if unknown := _UNKNOWN.fullmatch(text):
        return InvalidInput(
            f"unknown field `{unknown[1]}`{nearest(unknown[1], _fields(kinds))}", f"{path}.{unknown[1]}"
        )
    if is_name:
        names = [kind.key_type for kind in kinds if isinstance(kind, inspect.DictType)]
        return InvalidInput(f"has a name that must be {_requirement(names)}", path)
    given = f"; given: {_given(text)}" if _given(text) else ""
    return InvalidInput(f"must be {_requirement(kinds) or 'of another type'}{given}", path)


def nearest(name: str, known: Collection[str]) -> str:
    """Return the end of an error about an unknown name: the known one most like it, if any, and all of them."""
    by_folded = {each.casefold().replace("_", ""): each for each in known}
    found = get_close_matches(name.casefold().replace("_", ""), by_folded, 1) if len(name) <= LONGEST_GUESSED else []
    guess = f"; did you mean `{by_folded[found[0]]}`?" if found else ""
    names = ", ".join(dict.fromkeys(known))
    return f"{guess}; known: {names}" if names else "; none is known here"


def parameter_error(text: str) -> str:
    """Return msgspec's error about a query parameter or header, as Litestar passes it on, in our words."""
    found = _PARAMETER.fullmatch(text)
    if found is None:
        return text
    kinds, operator, limit = found.groups()
    types = _JSON_TYPES | {"float": "a number"}
    names = [types[kind] for kind in kinds.split(" | ") if kind in types and kind != "null"]
    return f"must be {' or '.join(names) or 'of another type'}{_BOUNDS[operator].format(limit) if operator else ''}"


def malformed(error: msgspec.DecodeError | UnicodeDecodeError, what: str) -> InvalidInput:
    """Return an error about text that is not JSON; `what` names the text, as in `body`."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput(f"the {what} is not valid JSON: it is not UTF-8 at byte {error.start}")
    if isinstance(error, msgspec.ValidationError):  # all that is checked if any JSON is expected
        return InvalidInput(f"the {what} has a number that is out of range")
    found = _MALFORMED.fullmatch(str(error))
    if found is None:
        return InvalidInput(f"the {what} is not valid JSON: it ends too early")
    return InvalidInput(f"the {what} is not valid JSON at byte {found[2]}: {found[1]}")


def breaks_schema(error: jsonschema_rs.ValidationError, root: str) -> InvalidInput:
    """Return an error about a value that breaks a JSON Schema, with its path from `root` and the rule it breaks."""
    data = error.kind.as_dict()
    path = root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
    rule = next((str(step) for step in reversed(error.schema_path) if isinstance(step, str)), error.kind.name)
    return InvalidInput(f"{_schema_requirement(error.kind.name, data)} (rule `{rule}`)", path)


def _schema_requirement(rule: str, data: dict[str, Any]) -> str:
    match rule, data:
        case "type", {"types": types}:
            return f"must be of type {' or '.join(types)}"
        case "required", {"property": name}:
            return f"must have the property {_json(name)}"
        case "additionalProperties" | "unevaluatedProperties", {"unexpected": names}:
            return f"must not have {'properties' if len(names) > 1 else 'the property'} {', '.join(map(_json, names))}"
        case "enum", {"options": options}:
            return f"must be one of {', '.join(map(_json, options))}"
        case "const", {"expected_value": value}:
            return f"must be {_json(value)}"
        case "pattern", {"pattern": pattern}:
            return f"must match {pattern}"
        case "format", {"format": name}:
            return f"must be in the format {name}"
        case "multipleOf", {"multiple_of": number}:
            return f"must be a multiple of {_number(number)}"
        case "not", {"schema": schema}:
            return f"must not be valid under {_json(schema)}"
        case "propertyNames", {"error": inner}:
            return f"must have valid property names; {_json(inner.instance)}: {_of(inner)}"
        case "anyOf" | "oneOf", {"context": branches}:
            inner = [_of(branch[0]) for branch in branches if branch]
            return f"must satisfy {'one' if rule == 'oneOf' else 'any'} of these: {'; '.join(inner)}"
        case _, {"limit": limit} if rule in _LIMITS:
            return f"must {_LIMITS[rule].format(_number(limit))}"
        case _:
            return _RULES.get(rule, "must satisfy the schema of the type")


_LIMITS = {
    "minimum": "be at least {}",
    "maximum": "be at most {}",
    "exclusiveMinimum": "be greater than {}",
    "exclusiveMaximum": "be less than {}",
    "minLength": "have at least {} characters",
    "maxLength": "have at most {} characters",
    "minItems": "have at least {} items",
    "maxItems": "have at most {} items",
    "minProperties": "have at least {} properties",
    "maxProperties": "have at most {} properties",
}
_RULES = {
    "$ref": "must refer to a definition within the schema; other documents are not fetched",
    "contains": "must contain an item that the schema asks for",
    "falseSchema": "must not have what the schema forbids",
    "uniqueItems": "must not have equal items",
}


def _of(error: jsonschema_rs.ValidationError) -> str:
    return _schema_requirement(error.kind.name, error.kind.as_dict())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# Types of fields


@cache
def _root(shape: Any) -> inspect.Type:
    return inspect.type_info(shape)


def _at(shape: Any, path: str) -> list[inspect.Type]:
    """Return the types that a shape allows at a path; none where the path cannot be followed."""
    kinds = _flat(_root(shape))
    for name, place in _STEP.findall(path):
        kinds = [inner for kind in kinds for inner in _within(kind, name, place)]
    return kinds


def _within(kind: inspect.Type, name: str, place: str) -> list[inspect.Type]:
    """Return the types of a field `name` of an object, or of the entry `place` of a list or an object."""
    match kind:
        case inspect.StructType(tag_field=str(tag_field), tag=tag) if name == tag_field:
            return [inspect.LiteralType((tag,))]
        case inspect.StructType() if name:
            return [each for field in kind.fields if field.encode_name == name for each in _flat(field.type)]
        case inspect.ListType() if place:
            return _flat(kind.item_type)
        case inspect.DictType():
            return _flat(kind.value_type)
        case _:
            return []


def _flat(kind: inspect.Type) -> list[inspect.Type]:
    match kind:
        case inspect.UnionType():
            return [each for alternative in kind.types for each in _flat(alternative)]
        case inspect.Metadata(extra=None):
            return _flat(kind.type)
        case _:
            return [kind]


def _requirement(kinds: Iterable[inspect.Type]) -> str:
    """Return what a value of one of these types is, as in "a whole number from 1 to 10, or null"."""
    kinds = list(kinds)
    words = [str(value) for kind in kinds if isinstance(kind, inspect.LiteralType) for value in kind.values]
    texts = [f"one of {', '.join(words)}"] if words else []
    for kind in sorted(kinds, key=lambda kind: isinstance(kind, inspect.NoneType)):
        if (text := _described(kind)) and text not in texts:
            texts.append(text)
    return ", or ".join(texts)


def _described(kind: inspect.Type, unit: str = "") -> str:
    match kind:
        case inspect.Metadata(extra={"words": str(words)}):
            return words
        case inspect.Metadata(extra=extra):
            return _described(kind.type, (extra or {}).get("unit", ""))
        case inspect.IntType():
            return f"a whole number{unit and f' of {unit}'}{_range(kind)}"
        case inspect.FloatType():
            return f"a number{unit and f' of {unit}'}{_range(kind)}"
        case inspect.StrType(pattern=pattern):
            meaning = PATTERNS.get(pattern or "", "text" if pattern is None else f"text matching {pattern}")
            return meaning + _size(kind, "characters", ", " if pattern else " ")
        case inspect.BoolType():
            return "true or false"
        case inspect.DateTimeType():
            return "ISO 8601 text with an offset, as in 2026-01-31T12:00:00Z"
        case inspect.ListType():
            return f"a list{_size(kind, 'entries')}"
        case inspect.DictType():
            return f"an object{_size(kind, 'entries')}"
        case inspect.StructType():
            return "an object"
        case inspect.NoneType():
            return "null"
        case inspect.AnyType() | inspect.RawType():
            return "any JSON"
        case _:
            return ""


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    least, most = kind.ge, kind.le
    if kind.gt is not None:
        return f" greater than {_number(kind.gt)}"
    if least is not None and most is not None:
        return f" from {_number(least)} to {_number(most)}"
    if least is not None:
        return f" of at least {_number(least)}"
    return "" if most is None else f" of at most {_number(most)}"


def _size(kind: inspect.StrType | inspect.ListType | inspect.DictType, of: str, before: str = " ") -> str:
    if kind.min_length and kind.max_length:
        return f"{before}of {kind.min_length} to {kind.max_length:,} {of}"
    if kind.max_length:
        return f"{before}of at most {kind.max_length:,} {of}"
    return f"{before}of at least {kind.min_length} {of}" if kind.min_length else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _given(text: str) -> str:
    if value := _GIVEN_VALUE.fullmatch(text):
        return value[1]
    kind = _GIVEN_TYPE.fullmatch(text)
    return _JSON_TYPES.get(kind[1], "") if kind else ""


def _fields(kinds: Sequence[inspect.Type]) -> list[str]:
    return [field.encode_name for kind in kinds if isinstance(kind, inspect.StructType) for field in kind.fields]
