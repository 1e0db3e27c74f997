"""JSON Schemas of payloads: what an admin may define, and the check of a user's payload, each in bounded time.

Patterns run on an engine whose time is linear in the text (the `regex` crate of Rust). It knows no look-around and no
back-references, which is why it cannot be made to backtrack. A recursive schema costs no more than its payload is
large: `is_valid` of jsonschema_rs checks a value by a schema once. `validate`, which finds the place of an error, does
not. So it is asked only where its cost is bounded. The other ways to spend time have limits here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jsonschema_rs
import msgspec

from ..errors import InvalidInput
from ..wire.json_text import deeper_than
from ..wire.validation_errors import breaks_schema

LARGEST_SCHEMA = 128 * 1024
"""Bytes. To compile one takes a thirtieth of a second, and each process does it once."""
MOST_STEPS = 10_000
"""Schemas that apply to one value. Without a limit, 30 definitions that each name the next one twice are 2^30."""
MOST_PATTERN_PROPERTIES = 100
"""Patterns for names of properties: each is compared with each name."""
MOST_COMPARISONS = 100_000
"""Comparisons of a payload's values with entries of an `enum` that are neither text nor whole numbers: 10 us each."""
EXTREME = 20
"""Comparisons as expensive as one with an extreme number: the engine compares exact fractions of hundreds of digits."""
FEW = 100
"""Values that a schema may apply to before its comparisons are multiplied by all numbers of a payload."""
MOST_UNEVALUATED = 3
"""`unevaluatedProperties` or `unevaluatedItems` around each other for one value: each doubles the cost."""
MOST_EXPLAINED = 1_000_000
"""Steps to find the place of an error, in the worst case."""
DEEPEST_EXPLAINED = 64
PATTERN_BYTES = 2 * 1024 * 1024
"""Size of a compiled pattern, and of what is kept of its states. `\\w{1,255}` has about 1 MiB."""

_DATA = frozenset({"enum", "const", "default", "examples"})
"""Keywords whose values are data, not schemas."""
_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("not", "if", "then", "else")
_BY_NAME = ("dependentSchemas", "dependencies")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_UNEVALUATED = ("unevaluatedItems", "unevaluatedProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_CHILDREN = (
    "additionalItems", "additionalProperties", "contains", "items", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
NO_LOOK_AROUND = (
    "a pattern may have no look-around `(?=…)`, `(?!…)`, `(?<=…)`, no atomic group, no back-reference `\\1`: they can "
    "take time without end; use several patterns in `allOf`, and `not` for what must be absent"
)
_UNKNOWN_TO_THE_ENGINE = re.compile(r"\(\?(?:<?[=!]|>)|\\[1-9]|\\k<")


class PayloadSchema:
    """A compiled schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        """Compile a schema. Raises InvalidInput, with the path in a type's settings; fetches no reference."""
        if len(msgspec.json.encode(schema)) > LARGEST_SCHEMA:
            raise InvalidInput(f"must be at most {LARGEST_SCHEMA:,} bytes", "$.schema")
        parts = list(_parts(schema))
        if sum(len(_named(part, "patternProperties")) for part in parts) > MOST_PATTERN_PROPERTIES:
            raise InvalidInput(f"may have {MOST_PATTERN_PROPERTIES} `patternProperties` at most", "$.schema")
        try:
            if _most_at_one_value(schema, parts, lambda _: 1) > MOST_STEPS:
                raise InvalidInput(
                    f"applies more than {MOST_STEPS:,} schemas to one value: references that meet in the same "
                    "definition again and again multiply; combine them less deep",
                    "$.schema",
                )
            if _most_unevaluated(schema, parts) > MOST_UNEVALUATED:
                raise InvalidInput(
                    f"has more than {MOST_UNEVALUATED} `unevaluatedProperties` or `unevaluatedItems` around each other "
                    "for one value: each doubles the cost of those inside; use them in the outermost schema",
                    "$.schema",
                )
            self._by_depth = _paths_by_depth(schema, parts)
            repeated = _repeated(schema, parts)
            self._comparisons = _most_at_one_value(schema, repeated, _comparisons)
            self._with_extremes = _most_at_one_value(schema, repeated, _comparisons_with_extremes)
        except RecursionError:
            raise InvalidInput("references follow each other too often; use fewer in a row", "$.schema") from None
        self._slow_entries = sum(map(_slow_entries, parts))
        self._validator = _compiled(schema)

    def check(self, payload: object, text: bytes, root: str) -> None:
        """Raise InvalidInput, with the path from `root`, for a payload that breaks the schema.

        `text`: the payload as JSON.
        """
        values = 1 + text.count(b",") + text.count(b"[") + text.count(b"{")
        if values * self._slow_entries > MOST_COMPARISONS:
            most = MOST_COMPARISONS // self._slow_entries
            raise InvalidInput(
                f"may have about {most:,} values: the type's schema compares each with numbers, lists or objects of an "
                "`enum`",
                root,
            )
        if self._with_extremes and self._compared(payload, values) > MOST_COMPARISONS:
            raise InvalidInput(
                "has too many numbers for the schema of its type, which compares each with `enum`, `const`, "
                f"`multipleOf` or bounds; a number beyond 1e-20 to 1e20 counts as {EXTREME}",
                root,
            )
        if self._validator.is_valid(payload):
            return
        if values * self._paths(text) > MOST_EXPLAINED:
            raise InvalidInput("breaks the schema of its type; the payload is too large or deep to say where", root)
        try:
            self._validator.validate(payload)
        except jsonschema_rs.ValidationError as error:
            raise breaks_schema(error, root) from None

    def _compared(self, payload: object, values: int) -> int:
        """Return how many comparisons of numbers a payload of so many values may cost."""
        if values * EXTREME * max(self._comparisons, self._with_extremes) <= MOST_COMPARISONS:
            return 0
        plain = extreme = 0
        for number in _numbers(payload):
            extreme += (is_extreme := _is_extreme(number))
            plain += not is_extreme
        return plain * self._comparisons + extreme * EXTREME * self._with_extremes

    def _paths(self, text: bytes) -> int:
        """Return by how many paths schemas come to one value of a payload, in the worst case."""
        depth = next((depth for depth in range(len(self._by_depth)) if not deeper_than(depth + 1, text)), None)
        return self._by_depth[depth] if depth is not None else MOST_EXPLAINED + 1


def _compiled(schema: dict[str, Any]) -> Any:
    options = jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES)
    try:
        # `mask`: the text of an error would have the payload in it, which may be large.
        return jsonschema_rs.validator_for(schema, retriever=_refuse_to_fetch, pattern_options=options, mask="…")
    except jsonschema_rs.ValidationError as error:
        raise _invalid(error) from None
    except ValueError as error:
        raise InvalidInput(f"not a valid JSON Schema: {error}", "$.schema") from None


def _invalid(error: jsonschema_rs.ValidationError) -> InvalidInput:
    found = breaks_schema(error, "$.schema")
    match error.instance_path:
        case [*_, "pattern"] | [*_, "patternProperties", _] if isinstance(error.instance, str):
            if _UNKNOWN_TO_THE_ENGINE.search(error.instance):
                return InvalidInput(NO_LOOK_AROUND, found.path)
            detail = "the pattern is no regular expression, or too large when compiled (counted repetitions multiply)"
            return InvalidInput(f"not a valid JSON Schema: {found.path}: {detail}", "$.schema")
        case _:
            return InvalidInput(f"not a valid JSON Schema: {found}", "$.schema")


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"references to other documents are not followed: {uri}")


# Limits


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a schema that can be a schema."""
    if isinstance(node, dict):
        yield node
        for name, value in node.items():
            if name not in _DATA or isinstance(value, dict):  # `properties` may have one with such a name
                yield from _parts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _parts(value)


def _named(part: dict[str, Any], keyword: str) -> dict[str, Any]:
    found = part.get(keyword)
    return found if isinstance(found, dict) else {}


def _slow_entries(part: dict[str, Any]) -> int:
    """Return how many entries of an `enum` each value is compared with; text and whole numbers are looked up."""
    entries = part.get("enum")
    if not isinstance(entries, list):
        return 0
    is_quick = all(entry is None or isinstance(entry, str | int) for entry in entries)
    return 0 if is_quick else len(entries)


def _most_at_one_value(
    schema: dict[str, Any], parts: list[dict[str, Any]], weigh: Callable[[dict[str, Any]], int]
) -> int:
    """Return the total weight of the schemas that apply to one value, at most. A reference to itself counts once."""
    named = _by_name(_parts(schema))
    counted: dict[int, int] = {}

    def total(part: Any) -> int:
        if not isinstance(part, dict):
            return 1
        if (known := counted.get(id(part))) is not None:
            return known
        counted[id(part)] = 0  # being counted: what leads back here costs no more
        counted[id(part)] = found = weigh(part) + sum(map(total, _applied(part, schema, named)))
        return found

    return max(map(total, parts), default=0)


def _repeated(schema: dict[str, Any], parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the schemas that may apply to more than FEW values of one payload: those of items, or of any property."""
    named = _by_name(parts)
    visits: dict[int, int] = {}
    repeated: list[Any] = []

    def visit(part: Any) -> None:
        if not isinstance(part, dict):
            return
        visits[id(part)] = count = visits.get(id(part), 0) + 1
        if count > FEW:
            repeated.append(part)
            return
        if count == 1:
            repeated.extend(_several(part))
        for each in (*_applied(part, schema, named), *_one_each(part)):
            visit(each)

    visit(schema)
    found: dict[int, dict[str, Any]] = {}
    while repeated:
        part = repeated.pop()
        if isinstance(part, dict) and id(part) not in found:
            found[id(part)] = part
            repeated += (*_applied(part, schema, named), *_one_each(part), *_several(part))
    return list(found.values())


def _one_each(part: dict[str, Any]) -> Iterator[Any]:
    """Yield the schemas that a schema applies to one value each below its own."""
    yield from _named(part, "properties").values()
    found = part.get("prefixItems")
    yield from found if isinstance(found, list) else ()


def _several(part: dict[str, Any]) -> Iterator[Any]:
    """Yield the schemas that a schema applies to any number of values below its own."""
    yield from _named(part, "patternProperties").values()
    for keyword in _CHILDREN:
        found = part.get(keyword)
        yield from found if isinstance(found, list) else (found,)


def _most_unevaluated(schema: dict[str, Any], parts: list[dict[str, Any]]) -> int:
    """Return how many `unevaluated…` keywords lie around each other for one value, at most."""
    named = _by_name(parts)
    counted: dict[int, int] = {}

    def depth(part: Any) -> int:
        if not isinstance(part, dict):
            return 0
        if (known := counted.get(id(part))) is not None:
            return known
        counted[id(part)] = 0
        below = max(map(depth, _applied(part, schema, named)), default=0)
        counted[id(part)] = found = below + any(name in part for name in _UNEVALUATED)
        return found

    return max(map(depth, parts))


def _comparisons(part: dict[str, Any]) -> int:
    """Return how many comparisons a schema makes with an ordinary number; bounds cost nothing then."""
    ruling = (part.get("const"), part.get("enum"), part.get("multipleOf"))
    return sum(EXTREME if _is_extreme(number) else 1 for number in _numbers(ruling))


def _comparisons_with_extremes(part: dict[str, Any]) -> int:
    """Return how many comparisons a schema makes with an extreme number."""
    return sum(1 for _ in _numbers((part.get("const"), part.get("enum"), part.get("multipleOf")))) + sum(
        name in part for name in _BOUNDS
    )


def _is_extreme(number: float) -> bool:
    return number != 0 and not 1e-20 < abs(number) < 1e20


def _numbers(value: object) -> Iterator[float]:
    """Yield the numbers in a JSON value."""
    left: list[Any] = [value]
    while left:
        match left.pop():
            case bool():
                pass
            case int() | float() as number:
                yield number
            case list() | tuple() as several:
                left += several
            case dict() as by_name:
                left += by_name.values()


def _paths_by_depth(schema: dict[str, Any], parts: list[dict[str, Any]]) -> list[int]:
    """Return by how many paths schemas come to one value at each depth, up to where there are too many."""
    named = _by_name(parts)
    known: dict[tuple[int, int], int] = {}

    def paths(part: Any, depth: int) -> int:
        if not isinstance(part, dict):
            return 1
        key = id(part), depth
        if key not in known:
            known[key] = 0  # being counted: what leads back here costs no more
            found = sum(paths(each, depth) for each in _applied(part, schema, named))
            known[key] = 1 + found + (children(part, depth - 1) if depth else 0)
        return known[key]

    def children(part: dict[str, Any], depth: int) -> int:
        """Return by how many paths a schema's own keywords lead to one value below."""
        one_of = [*_named(part, "properties").values()]
        for keyword in ("prefixItems", "items"):
            found = part.get(keyword)
            one_of += found if isinstance(found, list) else ()
        all_of = [*_named(part, "patternProperties").values(), *(part[name] for name in _CHILDREN if name in part)]
        return max((paths(each, depth) for each in one_of), default=0) + sum(paths(each, depth) for each in all_of)

    found: list[int] = []
    while len(found) <= DEEPEST_EXPLAINED and (not found or found[-1] <= MOST_EXPLAINED):
        found.append(paths(schema, len(found)))
    return found


def _by_name(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the schemas that a reference can name, by the reference."""
    return {part[key] if key == "$id" else f"#{part[key]}": part for part in parts for key in _names(part)}


def _names(part: dict[str, Any]) -> Iterator[str]:
    for key in ("$anchor", "$dynamicAnchor", "$id"):
        if isinstance(part.get(key), str):
            yield key


def _applied(part: dict[str, Any], schema: dict[str, Any], named: dict[str, Any]) -> Iterator[Any]:
    """Yield the schemas that a schema applies to the same value."""
    for keyword in _LISTS:
        found = part.get(keyword)
        yield from found if isinstance(found, list) else ()
    for keyword in _SINGLE:
        if keyword in part:
            yield part[keyword]
    for keyword in _BY_NAME:
        yield from _named(part, keyword).values()
    for keyword in _REFERENCES:
        reference = part.get(keyword)
        if isinstance(reference, str):
            yield named.get(reference) or _pointed_at(schema, reference)


def _pointed_at(schema: Any, reference: str) -> Any:
    """Return what a JSON pointer such as `#/$defs/a` points at; None for anything else (RFC 6901)."""
    found: Any = schema
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isascii() and name.isdigit() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found
