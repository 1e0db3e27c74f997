"""What the body of a submission asks for, and what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.errors import InvalidInput
from taskstream.events.envelope import Event
from taskstream.events.task import RetryPolicy, TaskSubmitted
from taskstream.events.task_type import TypeDeleted
from taskstream.settings import Settings
from taskstream.submission import body as submission
from taskstream.submission.body import SCHEMA_CACHE, TypeRules, compile_schema, read_task
from taskstream.wire.validation_errors import depth

from ..deciders.support import defined, seconds
from ..folds.test_fleet import fleet_of, positions

SERVICE = Settings(attempts=7, retry_base=2, retry_cap=40, attempt_timeout=600, max_json_depth=10)


def schema(content: Any, name: str = "chapter") -> Event:
    return defined(name, payload_schema=Raw(json.dumps(content).encode()))


def parse(body: Any, *types: Event, owner: str = "alice") -> TaskSubmitted:
    """Return the submission of a body: bytes, or what is sent as JSON."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return submitted_by(TypeRules(SERVICE, fleet_of(*types)), sent, owner)


def submitted_by(rules: TypeRules, body: bytes, owner: str = "alice") -> TaskSubmitted:
    return rules.submitted(read_task(body, owner, SERVICE.max_json_depth, repeatable=False))


def refused(body: Any, *types: Event) -> tuple[str, str]:
    """Return the path and the detail of the refusal."""
    with pytest.raises(InvalidInput) as caught:
        parse(body, *types)
    return caught.value.path, caught.value.detail


# The short form


def test_an_object_without_options_is_the_payload_of_the_default_type() -> None:
    body = {"mimeType": "video/mp4", "model": "m", "video_quality": "high", "video_url": "u", "enable_upscale": True}

    submitted = parse(body)

    assert (submitted.task_type, submitted.pool, submitted.priority) == ("default", "default", "normal")
    assert json.loads(bytes(submitted.payload)) == body


def test_the_short_form_is_kept_byte_for_byte_apart_from_space_around_it() -> None:
    assert bytes(parse(b' \n{ "a" : 1.0 }\n').payload) == b'{ "a" : 1.0 }'


def test_an_empty_object_is_an_empty_payload() -> None:
    assert bytes(parse(b"{}").payload) == b"{}"


def test_an_option_deeper_inside_makes_no_full_form() -> None:
    body = {"input": {"type": "x", "payload": 1, "priority": "?"}}

    assert json.loads(bytes(parse(body).payload)) == body


# The full form


def test_a_payload_with_options_is_taken_as_asked() -> None:
    submitted = parse(
        b'{"type": "chapter", "payload": { "a": [1.0 ] }, "priority": "high", "timeout": 1.5, "attempts": 2}',
        defined("chapter", "text"),
    )

    assert (submitted.task_type, submitted.pool, submitted.priority) == ("chapter", "text", "high")
    assert bytes(submitted.payload) == b'{ "a": [1.0 ] }'
    assert (submitted.policy.timeout, submitted.policy.attempts) == (timedelta(seconds=1.5), 2)


@pytest.mark.parametrize("payload", [None, 1, "text", [1, 2], {}, {"payload": 1}])
def test_a_payload_may_be_any_json(payload: Any) -> None:
    assert json.loads(bytes(parse({"payload": payload}).payload)) == payload


def test_a_type_that_nobody_defined_waits_in_the_default_pool() -> None:
    submitted = parse({"type": "ü.>*", "payload": 1}, defined("chapter"), TypeDeleted(name="chapter"))

    assert (submitted.task_type, submitted.pool) == ("ü.>*", "default")


@pytest.mark.parametrize("option", ["type", "priority", "timeout", "attempts"])
def test_an_option_without_a_payload_is_refused_naming_both(option: str) -> None:
    path, detail = refused({option: "chapter", "title": "x"})

    assert path == "$.payload"
    assert f"'{option}'" in detail
    assert "no `payload`" in detail


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"type": 3}, "$.type"),
        ({"type": ""}, "$.type"),
        ({"type": None}, "$.type"),
        ({"type": "x" * 129}, "$.type"),
        ({"type": "a\nb"}, "$.type"),
        ({"type": "a\x00"}, "$.type"),
        ({"priority": "urgent"}, "$.priority"),
        ({"timeout": 0}, "$.timeout"),
        ({"timeout": -1}, "$.timeout"),
        ({"timeout": 604_801}, "$.timeout"),
        ({"timeout": "5"}, "$.timeout"),
        ({"attempts": 0}, "$.attempts"),
        ({"attempts": 101}, "$.attempts"),
        ({"attempts": 1.5}, "$.attempts"),
        ({"attempts": True}, "$.attempts"),
    ],
)
def test_an_option_with_a_bad_value_is_refused_with_its_path(more: dict[str, Any], path: str) -> None:
    assert refused({"payload": 1} | more)[0] == path


def test_a_word_that_is_none_of_those_allowed_is_refused_naming_these() -> None:
    assert refused({"payload": 1, "priority": "urgent"}) == (
        "$.priority",
        "must be one of high, low, normal, or null; given: 'urgent'",
    )


def test_a_bad_name_in_an_object_is_refused_where_the_object_is() -> None:
    path, detail = refused({"payload": 1, "require": {"": "a"}})

    assert path == "$.require"
    assert detail.startswith("has a name that must be ")


def test_an_instant_that_utc_has_no_year_for_is_refused_with_its_path() -> None:
    assert refused({"payload": 1, "deadline": "9999-12-31T23:59:59-12:00"})[0] == "$.deadline"


def test_an_option_that_does_not_exist_is_refused_by_name() -> None:
    assert "`timeuot`" in refused({"payload": 1, "timeuot": 5})[1]


@pytest.mark.parametrize("name", ["a\nb", "a - at `$.x`", "`", "", ".", "\u2028", "x" * 5000])
def test_an_option_of_any_name_is_refused_and_breaks_nothing(name: str) -> None:
    assert "unknown field" in refused({"payload": 1, name: 5})[1]


# What is no body


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"a":}',
        b"{'a': 1}",
        b'{"a":1}{"b":2}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b"\x00",
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert "not valid JSON" in refused(body)[1]


@pytest.mark.parametrize(
    "body", [b'{"a": "\xff"}', b'{"\xc3": 1}', b'{"payload": "\xed\xa0\x80"}', b'{"a": "\\ud800"}']
)
def test_invalid_unicode_is_refused(body: bytes) -> None:
    assert "not valid JSON" in refused(body)[1]


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n"])
def test_an_empty_body_is_refused_as_such(body: bytes) -> None:
    assert "body is empty" in refused(body)[1]


@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"text"', b"true", b'[{"payload": 1}]'])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert refused(body) == ("$", "the body must be a JSON object")


@given(st.binary(max_size=200))
def test_no_bytes_break_anything(body: bytes) -> None:
    try:
        submitted = parse(body)
    except InvalidInput:
        return
    assert isinstance(json.loads(body), dict)
    json.loads(bytes(submitted.payload))


# Depth


def nested(levels: int, leaf: Any = 1) -> Any:
    for level in range(levels):
        leaf = [leaf] if level % 2 else {"a": leaf}
    return leaf


def test_a_body_as_deep_as_allowed_is_taken_and_one_deeper_is_not() -> None:
    assert parse({"payload": nested(9)})
    assert parse({"payload": [nested(8), nested(8)]})
    assert "deeper than 10 levels" in refused({"payload": nested(10)})[1]


@pytest.mark.parametrize(
    "body",
    [b'{"a":' * 100_000, b'{"a":' * 5_000 + b"1" + b"}" * 5_000, b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}"],
)
def test_an_absurd_depth_is_refused_without_harm(body: bytes) -> None:
    assert refused(body)


def test_a_body_that_is_wide_and_not_deep_is_taken() -> None:
    assert parse({"payload": [[] for _ in range(10_000)]})
    assert parse({"payload": "[{" * 10_000})


@pytest.mark.parametrize(
    ("content", "levels"), [(1, 0), ("x", 0), ({}, 1), ([], 1), ([1, {"a": []}], 3), ({"a": 1, "b": {"c": {}}}, 3)]
)
def test_depth_is_counted_in_objects_and_arrays(content: Any, levels: int) -> None:
    assert depth(content) == levels


# Settings of the type and of the service


def test_what_neither_the_body_nor_the_type_says_is_as_the_service_says() -> None:
    assert parse({"payload": 1}).policy == RetryPolicy(
        attempts=7, backoff_base=seconds(2), backoff_cap=seconds(40), timeout=seconds(600)
    )


def test_the_type_overrules_the_service_and_the_body_overrules_the_type() -> None:
    definition = defined(
        attempts=4, backoff_base=seconds(3), backoff_cap=seconds(5), timeout=seconds(60), priority="low"
    )

    by_type = parse({"type": "chapter", "payload": 1}, definition)
    by_body = parse({"type": "chapter", "payload": 1, "attempts": 1, "timeout": 9, "priority": "high"}, definition)

    assert by_type.policy == RetryPolicy(
        attempts=4, backoff_base=seconds(3), backoff_cap=seconds(5), timeout=seconds(60)
    )
    assert by_type.priority == "low"
    assert by_body.policy == RetryPolicy(
        attempts=1, backoff_base=seconds(3), backoff_cap=seconds(5), timeout=seconds(9)
    )
    assert by_body.priority == "high"


def test_the_short_form_is_tried_as_the_default_type_says() -> None:
    submitted = parse({"a": 1}, defined("default", "slow", attempts=9))

    assert (submitted.pool, submitted.policy.attempts) == ("slow", 9)


# Fingerprint and key


def test_the_fingerprint_is_of_the_whole_body_as_it_came() -> None:
    body = b'{"payload": 1}'

    assert parse(body).fingerprint == hashlib.sha256(body).hexdigest()
    assert parse(body).fingerprint != parse(body + b" ").fingerprint


def test_owner_and_repeatability_are_the_callers() -> None:
    assert parse({}, owner="bob").owner == "bob"
    for repeatable in (True, False):
        assert read_task(b"{}", "bob", SERVICE.max_json_depth, repeatable=repeatable).repeatable is repeatable


# Schemas

SCHEMA = {
    "type": "object",
    "required": ["size"],
    "properties": {"size": {"type": "object", "properties": {"width": {"type": "integer", "maximum": 100}}},
                   "tags": {"items": {"type": "string"}}},
}  # fmt: skip


def test_a_payload_that_keeps_to_the_schema_is_taken() -> None:
    assert parse({"type": "chapter", "payload": {"size": {"width": 3}, "tags": ["a"]}}, schema(SCHEMA))


@pytest.mark.parametrize(
    ("payload", "path", "rule"),
    [
        ({"size": {"width": 101}}, "$.payload.size.width", "maximum"),
        ({"size": {"width": "3"}}, "$.payload.size.width", "type"),
        ({"size": {}, "tags": ["a", 2]}, "$.payload.tags[1]", "type"),
        ({}, "$.payload", "required"),
        ([], "$.payload", "type"),
        (None, "$.payload", "type"),
    ],
)
def test_a_payload_that_breaks_the_schema_is_refused_with_path_and_rule(payload: Any, path: str, rule: str) -> None:
    found, detail = refused({"type": "chapter", "payload": payload}, schema(SCHEMA))

    assert found == path
    assert f"(rule `{rule}`)" in detail


def test_in_the_short_form_the_path_begins_at_the_body() -> None:
    assert refused({"size": {"width": 101}}, schema(SCHEMA, "default"))[0] == "$.size.width"


def test_a_schema_that_allows_nothing_refuses_everything() -> None:
    assert refused({"type": "chapter", "payload": 1}, schema({"not": {}}))[0] == "$.payload"


def test_a_pattern_that_never_comes_to_an_end_is_a_refusal() -> None:
    slow = schema({"pattern": "(a|a)*(?=x)b"})

    assert refused({"type": "chapter", "payload": "a" * 60}, slow)[0] == "$.payload"


def test_a_type_with_a_new_schema_is_checked_by_that() -> None:
    fleet = fleet_of(schema({"type": "integer"}))
    rules = TypeRules(SERVICE, fleet)
    body = b'{"type": "chapter", "payload": 1}'
    submitted_by(rules, body)

    fleet.apply(positions(schema({"type": "string"}), first=2))

    with pytest.raises(InvalidInput):
        submitted_by(rules, body)


def test_a_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(
        submission, "compile_schema", lambda content: compiled.append(content) or compile_schema(content)
    )
    rules = TypeRules(SERVICE, fleet_of(schema({"type": "integer"})))

    for _ in range(3):
        submitted_by(rules, b'{"type": "chapter", "payload": 1}')

    assert compiled == [{"type": "integer"}]


def test_compiled_schemas_do_not_pile_up() -> None:
    fleet = fleet_of()
    rules = TypeRules(SERVICE, fleet)

    for number in range(SCHEMA_CACHE + 5):
        fleet.apply(positions(schema({"minimum": -number}), first=fleet.sequence + 1))
        submitted_by(rules, b'{"type": "chapter", "payload": 1}')
        assert len(rules._validators) <= SCHEMA_CACHE


@pytest.mark.parametrize(
    "content",
    [
        {"type": "nonsense"},
        {"properties": 5},
        {"pattern": "("},
        {"$ref": "#/nowhere"},
        {"$schema": 5},
        {"$schema": "http://example.com/own"},
        {"minimum": "3"},
    ],
)
def test_what_is_no_schema_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="not a valid JSON Schema") as caught:
        compile_schema(content)
    assert caught.value.path == "$.schema"


def test_a_reference_within_a_schema_is_followed() -> None:
    validator = compile_schema({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}})

    assert validator.is_valid([1, 2])
    assert not validator.is_valid(["1"])


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9/s.json", "https://example.com/s.json", "file:///etc/passwd", "other.json", "//host/s"]
)
def test_a_reference_to_another_document_is_refused_and_nothing_is_fetched(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def retrieve(address: str) -> Any:
        asked.append(address)
        return submission_refuses(address)

    submission_refuses = submission._refuse_to_fetch
    monkeypatch.setattr(submission, "_refuse_to_fetch", retrieve)

    with pytest.raises(InvalidInput, match="not a valid JSON Schema"):
        compile_schema({"$ref": uri})
    assert len(asked) <= 1  # whatever is not found at hand is asked of our refusal, and of nothing else
