"""Bodies of submissions: no bytes break the parser, and compiled schemas are kept in bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from taskstream.errors import InvalidInput
from taskstream.events.envelope import Event
from taskstream.events.task import TaskSubmitted
from taskstream.settings import Settings
from taskstream.submission import body as submission
from taskstream.submission.body import SCHEMA_CACHE, TypeRules, read_task
from taskstream.submission.payload_schema import PayloadSchema

from ..deciders.support import defined
from ..folds.test_fleet import fleet_of, positions

SETTINGS = Settings(max_json_depth=10)


def schema(content: Any) -> Event:
    return defined("chapter", payload_schema=Raw(json.dumps(content).encode()))


def submitted(rules: TypeRules, body: bytes = b'{"type": "chapter", "payload": 1}') -> TaskSubmitted:
    return rules.submitted(read_task(body, "alice", SETTINGS.max_json_depth, repeatable=False))


@given(st.binary(max_size=200))
def test_no_bytes_break_anything(body: bytes) -> None:
    try:
        found = submitted(TypeRules(SETTINGS, fleet_of()), body)
    except InvalidInput:
        return
    assert isinstance(json.loads(body), dict)
    json.loads(bytes(found.payload))


def test_a_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def counting(content: Any) -> Any:
        compiled.append(content)
        return PayloadSchema(content)

    monkeypatch.setattr(submission, "PayloadSchema", counting)
    rules = TypeRules(SETTINGS, fleet_of(schema({"type": "integer"})))

    for _ in range(3):
        submitted(rules)

    assert compiled == [{"type": "integer"}]


def test_compiled_schemas_do_not_pile_up() -> None:
    fleet = fleet_of()
    rules = TypeRules(SETTINGS, fleet)

    for number in range(SCHEMA_CACHE + 5):
        fleet.apply(positions(schema({"minimum": -number}), first=fleet.sequence + 1))
        submitted(rules)
        assert len(rules._schemas) <= SCHEMA_CACHE
