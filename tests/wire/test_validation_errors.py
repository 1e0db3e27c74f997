"""Error texts for invalid bodies: what a client reads for each mistake."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from taskstream.errors import InvalidInput
from taskstream.submission.body import parse_json
from taskstream.wire.fields import DurationSeconds, FilterDuration, Instant, Name, ServerName
from taskstream.wire.validation_errors import breaks_schema, invalid, parameter_error

Short = Annotated[str, Meta(max_length=2)]


class Inner(Struct, forbid_unknown_fields=True):
    a: int


class Ping(Struct, tag="ping", forbid_unknown_fields=True):
    n: int = 0


class Stop(Struct, tag="stop"):
    pass


class Shape(Struct, forbid_unknown_fields=True, rename="camel"):
    delay: DurationSeconds | None = None
    count: Annotated[int, Meta(ge=1, le=10)] = 1
    least: Annotated[int, Meta(ge=0)] = 0
    above: Annotated[float, Meta(gt=2)] = 3
    run_at: Instant | None = None
    zoned: Annotated[datetime, Meta(tz=True)] | None = None
    text: Annotated[str, Meta(min_length=1, max_length=3)] = "a"
    name: Name = "a"
    server: ServerName = "a"
    letter: Annotated[str, Meta(pattern="^a$")] = "a"
    tags: Annotated[list[Annotated[int, Meta(le=9)]], Meta(min_length=1, max_length=2)] | None = None
    labels: Annotated[
        dict[Annotated[str, Meta(max_length=2)], Annotated[str, Meta(max_length=3)]], Meta(max_length=1)
    ] = {}
    word: Literal["low", "high"] | None = None
    inner: Inner | None = None
    flag: bool = False
    maybe: int | UnsetType = UNSET
    longer: FilterDuration | None = None


KNOWN = ", ".join(field.encode_name for field in msgspec.structs.fields(Shape))
INSTANT = "a whole number of milliseconds since the epoch from 0 to 253402300799999, or ISO 8601 text with an offset"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"delay": "x"}, "$.delay: must be a number of seconds from 0.001 to 604800, or null; given: text"),
        ({"delay": 0}, "$.delay: must be a number of seconds from 0.001 to 604800, or null"),
        (
            {"longer": -1},
            "$.longer: must be a number of seconds from 0 to 31622400, or text as in 90s, 5m, 1.5h, 2d; up to 366 "
            "days, or null",
        ),
        ({"count": 0}, "$.count: must be a whole number from 1 to 10"),
        ({"count": 1.5}, "$.count: must be a whole number from 1 to 10; given: a number with a fraction"),
        ({"least": -1}, "$.least: must be a whole number of at least 0"),
        ({"above": 2}, "$.above: must be a number greater than 2"),
        ({"runAt": "x"}, f"$.runAt: must be {INSTANT}, as in 2026-01-31T12:00:00Z, or null"),
        (
            {"zoned": "2026-01-31T12:00:00"},
            "$.zoned: must be ISO 8601 text with an offset, as in 2026-01-31T12:00:00Z, or null",
        ),
        ({"text": ""}, "$.text: must be text of 1 to 3 characters"),
        ({"name": "\n"}, "$.name: must be text without control characters, of 1 to 128 characters"),
        (
            {"server": "cleanup"},
            "$.server: must be text without control characters and slashes; `.`, `..` and `cleanup` are reserved, "
            "of 1 to 128 characters",
        ),
        ({"letter": "b"}, "$.letter: must be text matching ^a$"),
        ({"tags": []}, "$.tags: must be a list of 1 to 2 entries, or null"),
        ({"tags": [10]}, "$.tags[0]: must be a whole number of at most 9"),
        ({"tags": {}}, "$.tags: must be a list of 1 to 2 entries, or null; given: an object"),
        ({"labels": {"a": "1", "b": "2"}}, "$.labels: must be an object of at most 1 entries"),
        ({"labels": {"abc": "1"}}, "$.labels: has a name that must be text of at most 2 characters"),
        ({"labels": {"a": 1}}, "$.labels[...]: must be text of at most 3 characters; given: a whole number"),
        ({"word": "mid"}, "$.word: must be one of high, low, or null; given: 'mid'"),
        ({"word": 1}, "$.word: must be one of high, low, or null; given: a whole number"),
        ({"inner": {}}, "$.inner.a: is required and must be a whole number"),
        ({"inner": {"a": 1, "b": 1}}, "$.inner.b: unknown field `b`; known: a"),
        ({"inner": []}, "$.inner: must be an object, or null; given: a list"),
        ({"other": 1}, f"$.other: unknown field `other`; known: {KNOWN}"),
        ({"runat": 1}, f"$.runat: unknown field `runat`; did you mean `runAt`?; known: {KNOWN}"),
        ({"flag": None}, "$.flag: must be true or false; given: null"),
        ({"maybe": None}, "$.maybe: must be a whole number; given: null"),
        ([], "$: must be an object; given: a list"),
    ],
)
def test_a_field_error_says_what_is_required(body: Any, error: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(body), type=Shape)

    assert str(invalid(caught.value, Shape)) == error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "$.type: is required and must be one of ping, stop"),
        ({"type": "x"}, "$.type: must be one of ping, stop; given: 'x'"),
        ({"type": "ping", "n": "x"}, "$.n: must be a whole number; given: text"),
    ],
)
def test_a_union_of_messages_names_its_types(body: Any, error: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(body), type=Ping | Stop)

    assert str(invalid(caught.value, Ping | Stop)) == error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"a":', "the line is not valid JSON: it ends too early"),
        (b'{"a":[1e400]}', "the line has a number that is out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "the line has a number that is out of range"),
        (b'{"a" 1}', "the line is not valid JSON at byte 5: expected ':'"),
        (b"{'a':1}", "the line is not valid JSON at byte 1: object keys must be strings"),
        (b'{"a": "\xff"}', "the line is not valid JSON: it is not UTF-8 at byte 7"),
        (
            b'{"a": "\\ud83d"}',
            "the line is not valid JSON: half of a surrogate pair at byte 7; send the whole character",
        ),
        (
            b'["\\\\ud83d", "\\ude00"]',
            "the line is not valid JSON: half of a surrogate pair at byte 13; send the whole character",
        ),
    ],
)
def test_malformed_json_names_the_byte(body: bytes, error: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_json(body, "line", 64)

    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("schema", "value", "error"),
    [
        ({"type": "integer"}, "x", "$.payload: must be of type integer (rule `type`)"),
        ({"required": ["width"]}, {}, '$.payload: must have the property "width" (rule `required`)'),
        (
            {"properties": {"c": {}}, "additionalProperties": False},
            {"a": 1, "b": 1},
            '$.payload: must not have properties "a", "b" (rule `additionalProperties`)',
        ),
        ({"items": {"maximum": 5}}, [1, 9], "$.payload[1]: must be at most 5 (rule `maximum`)"),
        (
            {"properties": {"a": {"minLength": 2}}},
            {"a": "x"},
            "$.payload.a: must have at least 2 characters (rule `minLength`)",
        ),
        ({"enum": ["a", 1]}, "b", '$.payload: must be one of "a", 1 (rule `enum`)'),
        ({"const": 1}, 2, "$.payload: must be 1 (rule `const`)"),
        ({"pattern": "^a"}, "b", "$.payload: must match ^a (rule `pattern`)"),
        ({"multipleOf": 0.5}, 0.7, "$.payload: must be a multiple of 0.5 (rule `multipleOf`)"),
        ({"not": {"type": "string"}}, "", '$.payload: must not be valid under {"type":"string"} (rule `not`)'),
        ({"uniqueItems": True}, [1, 1], "$.payload: must not have equal items (rule `uniqueItems`)"),
        (
            {"propertyNames": {"maxLength": 1}},
            {"ab": 1},
            '$.payload: must have valid property names; "ab": must have at most 1 characters (rule `maxLength`)',
        ),
        (
            {"anyOf": [{"type": "string"}, {"minimum": 3}]},
            1,
            "$.payload: must satisfy any of these: must be of type string; must be at least 3 (rule `anyOf`)",
        ),
        (
            {"if": {"type": "integer"}, "then": False},
            1,
            "$.payload: must not have what the schema forbids (rule `then`)",
        ),
    ],
)
def test_a_broken_schema_names_path_and_rule(schema: dict[str, Any], value: Any, error: str) -> None:
    found = next(jsonschema_rs.validator_for(schema).iter_errors(value))

    assert str(breaks_schema(found, "$.payload")) == error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Expected `int`, got `str`", "must be a whole number"),
        ("Expected `int` >= 1", "must be a whole number of at least 1"),
        ("Expected `int` <= 200", "must be a whole number of at most 200"),
        ("Expected `float | null`, got `str`", "must be a number"),
        ("Expected `bool`, got `str`", "must be true or false"),
        ("anything else", "anything else"),
    ],
)
def test_a_parameter_error_says_what_is_required(text: str, error: str) -> None:
    assert parameter_error(text) == error
