"""The body of a batch: one event for each task, parents by their places, and every invalid task by its place."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.errors import InvalidInput, InvalidItems
from taskstream.events.ids import BatchRef, nth
from taskstream.events.task import Plan, RetryPolicy, TaskSubmitted
from taskstream.settings import Settings
from taskstream.submission.batch_body import BatchParser, resolve
from taskstream.submission.body import TypeRules, fingerprint

from ..deciders.support import NOW, defined, seconds
from ..folds.test_fleet import fleet_of

BATCH = BatchRef("alice", "0" * 26)
SETTINGS = Settings(max_json_depth=5, max_body=1_024)
ARRAY, LINES = "application/json", "application/x-ndjson"
STRICT = defined("strict", "text", payload_schema=Raw(b'{"type": "integer"}'))


def parse(body: bytes, media_type: str = ARRAY, *, repeatable: bool = False) -> list[TaskSubmitted]:
    rules = TypeRules(SETTINGS, fleet_of(STRICT), now=lambda: NOW)
    return BatchParser(SETTINGS, rules).parse(body, media_type, BATCH, "alice", repeatable=repeatable)


def refused(body: bytes, media_type: str = ARRAY) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parse(body, media_type)
    assert not isinstance(caught.value, InvalidItems)
    return caught.value.path, caught.value.detail


def found(body: bytes, media_type: str = ARRAY) -> dict[int, str]:
    """Return what is wrong with each invalid task."""
    with pytest.raises(InvalidItems) as caught:
        parse(body, media_type)
    return {place: str(error) for place, error in caught.value.found.items()}


def task_id(place: int) -> str:
    return nth(BATCH, place).id


def test_each_task_of_a_batch_is_an_event_with_every_field() -> None:
    body = b'[{"payload": [1 ], "priority": "high", "dependsOn": [1]}, {"a": 2}]'
    policy = RetryPolicy(
        attempts=3,
        backoff_base=seconds(1),
        backoff_cap=seconds(30),
        timeout=seconds(300),
        callback_timeout=seconds(3600),
    )
    first = TaskSubmitted(
        owner="alice",
        task_type="default",
        payload=Raw(b"[1 ]"),
        pool="default",
        priority="high",
        policy=policy,
        fingerprint=fingerprint(body),
        plan=Plan(depends_on=(task_id(1),)),
        batch=BATCH.id,
        batch_size=2,
    )

    assert parse(body, repeatable=True) == [
        first,
        msgspec.structs.replace(first, payload=Raw(b'{"a": 2}'), priority="normal", plan=None),
    ]


@pytest.mark.parametrize("media_type", [LINES, "application/ndjson", "application/jsonl"])
def test_a_batch_on_lines_leaves_empty_lines_out(media_type: str) -> None:
    found = parse(b'\n{"payload": 1}\r\n  \n{"a": 2}\n', media_type)

    assert [bytes(each.payload) for each in found] == [b"1", b'{"a": 2}']
    assert [each.batch_size for each in found] == [2, 2]


def test_a_batch_has_one_to_a_thousand_tasks() -> None:
    assert len(parse(b'[{"a":1}]')) == 1
    assert len(parse(b"[" + b'{"a":1},' * 999 + b'{"a":1}]')) == 1_000
    assert refused(b"[" + b'{"a":1},' * 1_000 + b'{"a":1}]')[1] == "a batch has 1 to 1,000 tasks; this one has 1,001"
    assert refused(b"[]")[1] == "a batch has 1 to 1,000 tasks; this one has 0"
    assert refused(b"\n\n", LINES)[1] == "a batch has 1 to 1,000 tasks; this one has 0"


def test_a_body_that_is_no_batch_is_refused_as_a_whole() -> None:
    assert refused(b' {"payload": 1}')[0] == "$"
    assert refused(b'[{"payload": 1}')[1].startswith("the body is not valid JSON")
    assert "deeper than 5 levels" in refused(b"[" * 10_000)[1]


def test_every_invalid_task_is_named_by_its_place_and_the_valid_ones_are_not() -> None:
    body = [{"a": 1}, 2, {"payload": 1, "attempts": 0}, {"priority": "low"}, {"payload": "x", "type": "strict"}]

    errors = found(json.dumps(body).encode())

    assert sorted(errors) == [1, 2, 3, 4]
    assert errors[1] == "$: a task must be a JSON object"
    assert errors[2].startswith("$.attempts: ")
    assert "no `payload`" in errors[3]
    assert errors[4].startswith("$.payload: ")


def test_the_place_in_a_task_of_the_short_form_begins_at_the_whole() -> None:
    schema = Raw(b'{"properties": {"width": {"type": "integer"}}}')
    rules = TypeRules(SETTINGS, fleet_of(defined("default", "default", payload_schema=schema)), now=lambda: NOW)

    with pytest.raises(InvalidItems) as caught:
        BatchParser(SETTINGS, rules).parse(b'[{"width": "x"}]', ARRAY, BATCH, "alice", repeatable=False)

    assert caught.value.found[0].path == "$.width"


def test_an_error_of_our_own_is_no_invalid_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(TypeRules, "submitted", broken)

    with pytest.raises(RuntimeError, match="ours"):
        parse(b'[{"a": 1}]')


def test_an_invalid_line_is_named_beside_the_invalid_tasks() -> None:
    errors = found(b'{"a": 1}\n{"a"\n[]\n{"a": 2}', LINES)

    assert sorted(errors) == [1, 2]
    assert errors[1].startswith("the line is not valid JSON")
    assert errors[2] == "$: a task must be a JSON object"


def test_a_task_of_a_batch_is_as_large_and_as_deep_as_a_single_one_may_be() -> None:
    largest = b'{"a": "' + b"x" * (1_024 - 9) + b'"}'
    assert len(largest) == 1_024
    deepest = b'{"a": [[[[1]]]]}'

    assert len(parse(b"[" + largest + b"," + deepest + b"]")) == 2
    assert found(b"[" + largest.replace(b"x", b"xx", 1) + b', {"a": [[[[[1]]]]]}]') == {
        0: "a task has 1024 bytes at most; send a reference to large inputs",
        1: "the task is nested deeper than 5 levels",
    }


# Parents by their places


def test_places_become_ids_and_ids_stay() -> None:
    wrong: dict[int, InvalidInput] = {}

    assert resolve({2: [0, "x~alice", task_id(1)], 1: [0]}, BATCH, 3, wrong) == {
        2: [task_id(0), "x~alice", task_id(1)],
        1: [task_id(0)],
    }
    assert wrong == {}
    assert resolve({}, BATCH, 3, wrong) == {}


def test_a_place_that_the_batch_has_not_is_named() -> None:
    wrong: dict[int, InvalidInput] = {}

    assert resolve({0: [1, 2, 3], 1: [2]}, BATCH, 3, wrong) == {1: [task_id(2)]}
    assert [(place, error.path, error.detail) for place, error in wrong.items()] == [
        (0, "$.dependsOn[2]", "there is no task 3 in this batch of 3; places are counted from 0")
    ]


def test_a_place_is_a_whole_number_from_0_to_999() -> None:
    task = b'[{"payload": 1}, {"payload": 2, "dependsOn": [%s]}]'

    assert parse(task % b"0")[1].plan == Plan(depends_on=(task_id(0),))
    for place in (b"-1", b"1000", b"0.5"):
        [(at, error)] = found(task % place).items()
        assert at == 1
        assert error.startswith("$.dependsOn[0]: ")
        assert "there is no task" not in error
    assert "there is no task 999" in found(task % b"999")[1]


def cycles(parents: dict[int, list[str | int]], count: int) -> dict[int, str]:
    wrong: dict[int, InvalidInput] = {}
    resolve(parents, BATCH, count, wrong)
    assert {error.path for error in wrong.values()} <= {"$.dependsOn"}
    return {place: error.detail.rpartition(": ")[2] for place, error in wrong.items()}


def test_tasks_that_wait_for_each_other_are_named_in_the_order_of_waiting() -> None:
    assert cycles({0: [1], 1: [2], 2: [0], 3: [0]}, 4) in [
        dict.fromkeys([0, 1, 2], shown) for shown in ("0 → 1 → 2 → 0", "1 → 2 → 0 → 1", "2 → 0 → 1 → 2")
    ]
    assert cycles({1: [task_id(1)]}, 2) == {1: "1 → 1"}
    assert cycles({0: [1], 1: [2]}, 3) == {}


def test_of_a_long_cycle_ten_places_are_shown() -> None:
    ten = cycles({place: [(place + 1) % 10] for place in range(10)}, 10)
    eleven = cycles({place: [(place + 1) % 11] for place in range(11)}, 11)

    assert (len(ten), len(eleven)) == (10, 11)
    assert [(shown.count("→"), "…" in shown) for shown in set(ten.values())] == [(10, False)]
    assert [(shown.count("→"), "…" in shown) for shown in set(eleven.values())] == [(11, True)]
    assert not next(iter(eleven.values())).startswith("…")


def test_of_many_cycles_ten_are_named() -> None:
    parents: dict[int, list[str | int]] = {place: [place ^ 1] for place in range(24)}

    assert len(cycles(parents, 24)) == 20


def test_a_task_that_is_wrong_already_keeps_its_error_in_a_cycle() -> None:
    wrong = {0: InvalidInput("first")}

    resolve({0: [1], 1: [0]}, BATCH, 2, wrong)

    assert (wrong[0].detail, sorted(wrong)) == ("first", [0, 1])


@settings(max_examples=50)
@given(st.dictionaries(st.integers(0, 5), st.lists(st.integers(0, 5), min_size=1, max_size=3), max_size=6))
def test_a_batch_is_refused_if_and_only_if_some_task_waits_for_itself(parents: dict[int, list[int]]) -> None:
    def reach(place: int) -> set[int]:
        seen: set[int] = set()
        todo = list(parents.get(place, []))
        while todo:
            if (each := todo.pop()) not in seen:
                seen.add(each)
                todo += parents.get(each, [])
        return seen

    graph: dict[int, Any] = dict(parents)
    assert bool(cycles(graph, 6)) == any(place in reach(place) for place in parents)
