"""Paths and conditions of registrations, and what they may cost."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskstream.backends.dialects.dialect import BadAnswer
from taskstream.backends.dialects.json_paths import LARGEST_SEARCHED, json_condition, json_path

ANSWER: Any = {"status": "failed", "jobs": [{"id": 7, "ok": True}, {"id": 8}], "none": None, "n": 1}
SMALL = 100


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", ANSWER),
        ("$.status", "failed"),
        ("$.jobs[1].id", 8),
        ("$['jobs'][-1]['id']", 8),
        ("$.missing", None),
        ("$.none", None),
        ("$.jobs[*].id", [7, 8]),
        ("$.jobs[?@.ok == true].id", [7]),
        ("$..id", [7, 8]),
        ("$..missing", None),
    ],
)
def test_a_path_finds_a_value_or_with_a_search_a_list(path: str, value: Any) -> None:
    assert json_path(path).value(ANSWER, SMALL) == value


def test_null_is_found_and_nothing_is_not() -> None:
    assert json_path("$.none").find(ANSWER, SMALL) == [None]
    assert json_path("$.missing").find(ANSWER, SMALL) == []


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('$.status == "failed"', True),
        ('@.status == "failed"', True),
        ('$.status == "done"', False),
        ('$.status == "done" || $.n == 1', True),
        ("$.none", True),
        ("$.missing", False),
        ("!$.missing", True),
        ("$.n == true", False),
        ("$.missing == null", False),
        ("count($.jobs[*]) == 2", True),
        ("length($.status) > 10", False),
        ("$.jobs[?@.id == 8]", True),
    ],
)
def test_a_condition_is_about_the_whole_answer(condition: str, holds: bool) -> None:
    assert json_condition(condition).holds(ANSWER, SMALL) is holds


def test_a_condition_may_be_about_a_text() -> None:
    assert json_condition('$ == "[DONE]"').holds("[DONE]", SMALL)


WRONG = [
    "",
    "status",
    "$.",
    "$[",
    "$.a b",
    "$['a', 'b']",
    "$..a..b",
    "$[?match(@.a, 'x')]",
    "$" + ".a" * 128,
    "$[?$..a]",
]
WRONG_CONDITIONS = [
    "", "$.a ==", "true", '"x"', "$.a == 1] , $[?$.b", '$.a == 1]["x"', "match($.a, '(a+)+')", "search($.a, 'b')",
    "$..a || $..b", "$[?$.a[*]]", "$.a == 1e999", "$['a', 'b']", "$.a == " + "1" * 300,
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_path_that_is_wrong_or_costly_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|must) "):
        json_path(text)


@pytest.mark.parametrize("text", WRONG_CONDITIONS)
def test_a_condition_that_is_wrong_or_costly_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|must) "):
        json_condition(text)


def test_an_answer_that_is_large_is_looked_into_and_not_searched() -> None:
    assert json_path("$.status").value(ANSWER, LARGEST_SEARCHED + 1) == "failed"
    assert json_condition('$.status == "failed"').holds(ANSWER, LARGEST_SEARCHED + 1)
    for search in (json_path("$..id").find, json_condition("$.jobs[*]").holds):
        with pytest.raises(BadAnswer, match="too large"):
            search(ANSWER, LARGEST_SEARCHED + 1)


def test_an_answer_that_is_nested_deep_is_a_bad_answer() -> None:
    deep = msgspec.json.decode(b"[" * 200 + b"]" * 200)

    with pytest.raises(BadAnswer, match="nested too deep"):
        json_path("$..id").find(deep, SMALL)
