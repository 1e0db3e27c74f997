"""Payload schemas: what is compiled, and that no payload takes long to check. Steps are counted, not time."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.errors import InvalidInput
from taskstream.submission.payload_schema import LARGEST_SCHEMA, MOST_COMPARISONS, MOST_STEPS, PayloadSchema


def check(schema: dict[str, Any], payload: Any) -> None:
    PayloadSchema(schema).check(payload, json.dumps(payload).encode(), "$.payload")


def refusal(schema: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as caught:
        PayloadSchema(schema)
    return str(caught.value)


def doubling(levels: int) -> dict[str, Any]:
    """Return a schema whose definitions each apply the next one twice."""
    definitions: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": definitions | {f"d{levels}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("pattern", ["^(a|a)*$", r"^(\w+\s?)*$", "(x+x+)+y", "^([a-z]+)+[0-9]$", "(.*a){20}"])
def test_patterns_that_backtrack_elsewhere_take_one_pass_here(pattern: str) -> None:
    for text in ("a" * 60_000 + "!", "x" * 60_000):
        with contextlib.suppress(InvalidInput):
            check({"pattern": pattern}, text)


@pytest.mark.parametrize(
    "pattern", [r"^\w{1,64}$", r"^[^\s@]+@[^\s@]+\.[a-z]{2,}$", r"^\d{4}-\d{2}-\d{2}$", r"^\p{Lu}\S*$"]
)
def test_patterns_as_people_write_them_are_compiled(pattern: str) -> None:
    PayloadSchema({"properties": {"a": {"pattern": pattern}}, "patternProperties": {pattern: {}}})


@pytest.mark.parametrize("pattern", [r"(\w{1000}){1000}", "(((a{100}){100}){100}){100}", "(", "[z-a]", "a{2,1}"])
def test_a_pattern_too_large_or_wrong_is_named(pattern: str) -> None:
    assert "$.schema.items.pattern: the pattern is no regular expression, or too large" in refusal(
        {"items": {"pattern": pattern}}
    )


def test_definitions_that_double_are_refused_before_they_cost_anything() -> None:
    check(doubling(10), 1)
    for levels in (14, 30, 300):
        assert f"more than {MOST_STEPS:,} schemas to one value" in refusal(doubling(levels))
    anchored = {"allOf": [{"$ref": "#x"}] * 200, "$defs": {"a": {"$anchor": "x", "anyOf": [{"minimum": 1}] * 100}}}
    assert "schemas to one value" in refusal(anchored)


def test_recursive_schemas_are_followed_as_deep_as_the_payload() -> None:
    twice = {"items": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}
    loop = {"allOf": [{"$ref": "#"}]}
    payload: list[Any] = []
    for _ in range(60):
        payload = [payload]
    for schema in (twice, loop, {"$ref": "#"}):
        check(schema, payload)
    twice["not"] = {"const": 1}
    shallow, deep = [[1]], [payload, 1]
    with pytest.raises(InvalidInput) as caught:
        check(twice, shallow)
    assert caught.value.path == "$.payload[0][0]"
    for _ in range(30):
        deep = [deep]
    with pytest.raises(InvalidInput, match="too large or deep to say where"):
        check(twice, deep)


def test_a_large_schema_and_many_patterns_for_names_are_refused() -> None:
    assert "bytes" in refusal({"description": "x" * LARGEST_SCHEMA})
    assert "patternProperties" in refusal({"patternProperties": {f"^{n}": {} for n in range(101)}})
    assert "follow each other" in refusal({"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(3000)}})


def test_a_payload_is_compared_with_a_bounded_number_of_slow_entries() -> None:
    """An entry that is text or a whole number is looked up; others are compared, 10 us each."""
    slow: dict[str, Any] = {"items": {"enum": [{"a": n} for n in range(100)]}}
    check(slow, [{"a": 5}] * 20)
    with pytest.raises(InvalidInput, match=f"about {MOST_COMPARISONS // 100:,} values"):
        check(slow, [{"a": 5}] * 10_000)
    check({"items": {"enum": [str(n) for n in range(1_000)]}}, ["5"] * 10_000)


HUGE, TINY = 1.7e308, 1e-300


@pytest.mark.parametrize(
    ("rule", "number", "most"),
    [
        ({"enum": list(range(100))}, TINY, 50),
        ({"enum": [1, 2]}, 1.5, 50_000),
        ({"const": 5}, TINY, 5_000),
        ({"oneOf": [{"const": 1}, {"const": 2}]}, HUGE, 2_500),
        ({"multipleOf": 0.01}, HUGE, 5_000),
        ({"multipleOf": 0.01}, 19.99, 100_000),
        ({"multipleOf": TINY}, 1, 5_000),
        ({"maximum": 0.01}, TINY, 5_000),
    ],
)
def test_numbers_are_compared_a_bounded_number_of_times(rule: dict[str, Any], number: float, most: int) -> None:
    """Each comparison of exact fractions takes up to 0.2 ms, in which the process does nothing else."""
    with contextlib.suppress(InvalidInput):
        check({"items": rule}, [number] * min(most, 100))
    with pytest.raises(InvalidInput, match="too many numbers for the schema"):
        check({"items": rule}, [number] * (most + 1))


def test_many_numbers_within_bounds_are_taken() -> None:
    check({"items": {"minimum": -1, "maximum": 1, "type": "number"}}, [0.25] * 150_000)
    size = {"enum": [256, 512, 768, 1024], "multipleOf": 0.5}
    once = {"$defs": {"size": size}, "properties": {name: {"$ref": "#/$defs/size"} for name in ("width", "height")}}
    check(once, {"width": 512, "height": 256, "embedding": [0.25] * 100_000})


def test_numbers_in_a_recursive_schema_are_compared_as_often_as_it_is_met() -> None:
    tree = {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "value": {"enum": [1, 2]}}}
    with pytest.raises(InvalidInput, match="too many numbers for the schema"):
        check(tree, {"left": {"left": {"value": 1}}, "values": [TINY] * 2_501})


def test_references_by_dynamic_anchor_count_like_others() -> None:
    levels = {f"d{n}": {"$dynamicAnchor": f"a{n}", "allOf": [{"$dynamicRef": f"#a{n + 1}"}] * 2} for n in range(30)}
    assert "schemas to one value" in refusal({"$defs": levels | {"d30": {"$dynamicAnchor": "a30"}}})


def test_unevaluated_keywords_around_each_other_are_few() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(3):
        schema = {"anyOf": [schema, {"required": ["z"]}], "unevaluatedProperties": {"type": "integer"}}
    check(schema, {"a": 1})
    assert "around each other" in refusal({"allOf": [schema], "unevaluatedProperties": False})


def test_only_the_first_error_of_a_large_payload_is_made() -> None:
    for schema, payload in (
        ({"items": {"type": "string"}}, list(range(100_000))),
        ({"maxProperties": 1}, {str(n): "x" for n in range(50_000)}),
    ):
        with pytest.raises(InvalidInput) as caught:
            check(schema, payload)
        assert len(str(caught.value)) < 200
    with pytest.raises(InvalidInput) as caught:
        check({"items": {"type": "string"}}, list(range(1_000)))
    assert caught.value.path == "$.payload[0]"


def test_words_in_data_and_names_of_properties_are_no_patterns() -> None:
    check({"const": {"pattern": "(?=a)"}, "default": {"pattern": "(?=a)"}}, {"pattern": "(?=a)"})
    check({"properties": {"pattern": {"type": "string"}, "enum": {"type": "integer"}}}, {"pattern": "x", "enum": 1})


KEYS = st.sampled_from(
    ["$ref", "allOf", "enum", "items", "properties", "pattern", "patternProperties", "not", "$defs", "$anchor", "$id"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
REFERENCES = st.fixed_dictionaries(
    {"$ref": st.sampled_from(["#", "#/$defs", "#/allOf/0", "#/allOf/\u0661", "#x", "/", "#/~2"])}
)


@given(schema=st.dictionaries(KEYS, JSON | REFERENCES, max_size=5), payload=JSON)
def test_any_object_is_a_schema_or_refused_and_nothing_else(schema: dict[str, Any], payload: Any) -> None:
    with contextlib.suppress(InvalidInput):
        check(schema, payload)
