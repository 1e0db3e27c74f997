"""The body of a submission: when, after what and where the task may run, and what the settings of its type add."""

from __future__ import annotations

import json
import socket
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from taskstream.errors import InvalidInput
from taskstream.events.task import ModelChoice, Plan, RetryPolicy, TaskSubmitted
from taskstream.instants import milliseconds
from taskstream.settings import Settings
from taskstream.submission import body as body_module
from taskstream.submission.body import (
    OPTIONS,
    Submission,
    TaskRequest,
    TypeRules,
    as_object,
    fingerprint,
    indexed_values,
    parse_json,
    parse_json_object,
    read_submission,
    read_task,
)
from taskstream.submission.payload_schema import PayloadSchema

from ..deciders.support import NOW, defined, seconds
from ..folds.test_fleet import fleet_of, positions

SETTINGS = Settings(attempts=4, retry_base=2.0, retry_cap=20.0, attempt_timeout=200.0)


def at(number: float) -> datetime:
    return NOW + seconds(number)


def ms(number: float) -> int:
    """Return an instant as a submission may name it: milliseconds since the epoch."""
    return milliseconds(at(number))


def plan(**options: Any) -> Plan | None:
    return Submission(payload=Raw(b"1"), **options).plan(NOW)


def refused(**options: Any) -> tuple[str, str]:
    """Return path and detail of the refusal of options."""
    with pytest.raises(InvalidInput) as caught:
        plan(**options)
    return caught.value.path, caught.value.detail


# Plans


def test_a_task_without_conditions_has_no_plan() -> None:
    assert plan() is None
    assert plan(run_at=ms(0)) is None
    assert plan(run_at=ms(-5)) is None
    assert plan(delay=0.0) is None


def test_a_start_and_the_last_instants_stand_beside_each_other() -> None:
    assert plan(run_at=ms(10), expires_at=ms(20), deadline=ms(30)) == Plan(
        not_before=at(10), expires_at=at(20), ends_by=at(30)
    )
    assert plan(delay=10.0, expires_at=ms(20)) == Plan(not_before=at(10), expires_at=at(20))
    assert plan(run_at=ms(-10), expires_at=ms(20)) == Plan(expires_at=at(20))


def test_every_other_condition_passes_into_the_plan() -> None:
    assert plan(
        depends_on=["b", "a", "b"],
        on_parent_failure="skip",
        concurrency_key="k",
        prefer={"zone": "eu"},
        require={"gpu": "yes"},
    ) == Plan(
        depends_on=("b", "a"),
        on_parent_failure="skip",
        concurrency_key="k",
        prefer={"zone": "eu"},
        require={"gpu": "yes"},
    )


@pytest.mark.parametrize("name", ["expiresAt", "deadline"])
def test_a_last_instant_is_later_than_now_and_than_the_start(name: str) -> None:
    field = {"expiresAt": "expires_at", "deadline": "deadline"}[name]
    path = f"$.{name}"

    assert refused(**{field: ms(0)}) == (path, "must be later than now")
    assert refused(**{field: ms(0), "run_at": ms(-5)}) == (path, "must be later than now")
    assert refused(**{field: ms(0), "run_at": ms(0)}) == (path, "must be later than now")
    assert refused(**{field: ms(-1), "run_at": ms(-5)}) == (path, "must be later than now")
    assert refused(**{field: ms(10), "run_at": ms(10)}) == (path, "must be later than the earliest start")
    assert refused(**{field: ms(10), "delay": 10.0}) == (path, "must be later than the earliest start")
    assert plan(**{field: ms(10.001), "run_at": ms(10)}) is not None
    assert plan(**{field: ms(0.001)}) is not None


def test_a_start_is_an_instant_or_a_delay_not_both() -> None:
    assert refused(run_at=ms(1), delay=1.0) == ("$.delay", "send `runAt` or `delay`, not both")
    assert refused(run_at=ms(1), delay=0.0) == ("$.delay", "send `runAt` or `delay`, not both")


# The event


def request(body: bytes = b'{"payload": 1}', **more: Any) -> TaskRequest:
    submission, payload, path = read_submission(parse_json(body, "body", 10), body)
    values: dict[str, Any] = {
        "owner": "alice",
        "submission": submission,
        "payload": payload,
        "payload_path": path,
        "fingerprint": "f",
        "repeatable": True,
    }
    return TaskRequest(**(values | more))


def event(request: TaskRequest, *definitions: Any, settings: Settings = SETTINGS) -> TaskSubmitted:
    return TypeRules(settings, fleet_of(*definitions), now=lambda: NOW).submitted(request)


OWN = defined(
    "chapter",
    "text",
    attempts=7,
    backoff_base=seconds(3),
    backoff_cap=seconds(33),
    timeout=seconds(99),
    priority="low",
    busy_for=seconds(60),
)


def test_a_task_of_no_type_gets_the_settings_of_the_service() -> None:
    assert event(request()) == TaskSubmitted(
        owner="alice",
        task_type="default",
        payload=Raw(b"1"),
        pool="default",
        priority="normal",
        policy=RetryPolicy(
            attempts=4,
            backoff_base=seconds(2),
            backoff_cap=seconds(20),
            timeout=seconds(200),
            callback_timeout=seconds(3600),
        ),
        fingerprint="f",
    )


def test_a_task_gets_the_settings_of_its_type() -> None:
    found = event(request(b'{"payload": {"a": [1 ]}, "type": "chapter"}'), OWN)

    assert found == TaskSubmitted(
        owner="alice",
        task_type="chapter",
        payload=Raw(b'{"a": [1 ]}'),
        pool="text",
        priority="low",
        policy=RetryPolicy(
            attempts=7,
            backoff_base=seconds(3),
            backoff_cap=seconds(33),
            timeout=seconds(99),
            busy_for=seconds(60),
        ),
        fingerprint="f",
    )
    assert event(request(b'{"payload": 1, "type": "chapter"}')).pool == "default"


def test_only_a_request_that_can_be_repeated_keeps_its_fingerprint() -> None:
    assert event(request(repeatable=True)).fingerprint == "f"
    assert event(request(repeatable=False)).fingerprint == ""


def test_an_option_of_the_task_comes_before_its_type() -> None:
    found = event(
        request(b'{"payload": 1, "type": "chapter", "priority": "high", "timeout": 5, "attempts": 2, "delay": 9}'), OWN
    )

    assert (found.priority, found.policy.timeout, found.policy.attempts) == ("high", seconds(5), 2)
    assert found.plan == Plan(not_before=at(9))


def test_everything_else_of_a_request_passes_into_the_event() -> None:
    model = ModelChoice(provider="p", model="m")
    more: dict[str, Any] = {
        "batch": "b~alice",
        "batch_size": 9,
        "schedule": "s~alice",
        "project": "novel",
        "model": model,
        "key_id": "key-1",
    }

    found = event(request(**more))

    assert {name: getattr(found, name) for name in more} == more


@pytest.mark.parametrize(
    ("units", "timeout"), [(1, seconds(99)), (2, seconds(198)), (100_000, timedelta(days=7))], ids=str
)
def test_an_attempt_gets_its_time_for_each_unit_of_work_and_a_week_at_most(units: int, timeout: timedelta) -> None:
    body = b'{"payload": 1, "type": "chapter"}'

    assert event(request(body, units=units), OWN).policy.timeout == timeout


@pytest.mark.parametrize(
    ("attempt", "callback", "longer"), [(300.0, 3600.0, 3600.0), (7200.0, 3600.0, None), (300.0, 60.0, None)], ids=str
)
def test_a_callback_server_has_an_hour_unless_type_or_task_say_otherwise(
    attempt: float, callback: float, longer: float | None
) -> None:
    settings = Settings(attempt_timeout=attempt, callback_timeout=callback)

    def found(**body: Any) -> RetryPolicy:
        return event(request(json.dumps({"payload": 1, **body}).encode()), OWN, settings=settings).policy

    assert found(type="plain").callback_timeout == (longer and seconds(longer))
    assert found(type="plain", timeout=5).callback_timeout is None
    assert found(type="chapter").callback_timeout is None, "the type has a timeout"


def test_one_unit_of_work_keeps_a_timeout_of_more_than_a_week() -> None:
    month = defined("chapter", "text", timeout=timedelta(days=30))

    assert event(request(b'{"payload": 1, "type": "chapter"}'), month).policy.timeout == timedelta(days=30)


# Payload schemas

STRICT = defined("chapter", "text", payload_schema=Raw(b'{"properties": {"width": {"type": "integer"}}}'))


def test_a_payload_that_breaks_its_schema_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidInput) as caught:
        event(request(b'{"payload": {"width": "x"}, "type": "chapter"}'), STRICT)

    assert caught.value.path == "$.payload.width"
    assert event(request(b'{"payload": {"width": 1}, "type": "chapter"}'), STRICT).payload == Raw(b'{"width": 1}')


def test_the_place_in_a_short_form_begins_at_the_whole() -> None:
    strict = defined("default", "default", payload_schema=Raw(b'{"properties": {"width": {"type": "integer"}}}'))

    with pytest.raises(InvalidInput) as caught:
        event(request(b'{"width": "x"}'), strict)

    assert caught.value.path == "$.width"


def test_no_more_than_256_compiled_schemas_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = fleet_of()
    rules = TypeRules(SETTINGS, fleet, now=lambda: NOW)
    monkeypatch.setattr(body_module, "PayloadSchema", lambda _: SimpleNamespace(check=lambda *_: None))
    kept = []

    for number in range(258):
        schema = Raw(b'{"minimum": -%d}' % number)
        fleet.apply(positions(defined("chapter", "text", payload_schema=schema), first=fleet.sequence + 1))
        rules.submitted(request(b'{"payload": 1, "type": "chapter"}'))
        kept.append(len(rules._schemas))

    assert kept == [*range(1, 257), 1, 2]


def test_a_schema_that_is_none_and_one_that_names_another_document_are_refused() -> None:
    wrong: dict[str, Any] = {"type": 7}
    elsewhere = {"$ref": "https://example.com/schema.json"}

    for schema, says in ((wrong, "$.schema.type: must satisfy any of these"), (elsewhere, "other documents are not")):
        with pytest.raises(InvalidInput) as caught:
            PayloadSchema(schema)
        assert caught.value.path == "$.schema"
        assert caught.value.detail.startswith("not a valid JSON Schema: ")
        assert says in caught.value.detail


def test_a_document_that_a_schema_names_is_not_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]

        with pytest.raises(InvalidInput):
            PayloadSchema({"$ref": f"http://127.0.0.1:{port}/schema.json"})

        with pytest.raises(BlockingIOError):
            server.accept()


# The two forms


def test_a_body_without_an_option_is_a_payload_as_a_whole() -> None:
    body = b' {"model": "m", "video_url": "u"}\n'

    read = read_task(body, "alice", 10, repeatable=True, schedule="s~alice")

    assert (read.owner, read.repeatable, read.schedule, read.payload_path) == ("alice", True, "s~alice", "$")
    assert (read.payload, read.submission.payload) == ({"model": "m", "video_url": "u"}, Raw(body.strip()))
    assert read.fingerprint == fingerprint(body)


def test_the_fingerprint_of_a_body_is_the_same_in_every_version() -> None:
    assert fingerprint(b'{"payload": 1}') == "51cb10861fc77acf7b2b942566d425b46fa0619ffb114ec9ee2ff589459c8a51"


def test_the_names_that_make_a_body_the_full_form() -> None:
    assert sorted(OPTIONS) == [
        *("attempts", "concurrencyKey", "deadline", "delay", "dependsOn", "expiresAt", "onParentFailure"),
        *("payload", "prefer", "priority", "require", "runAt", "timeout", "type"),
    ]


def test_a_body_with_an_option_and_no_payload_is_refused_by_its_first_option() -> None:
    with pytest.raises(InvalidInput, match="has the option 'priority' but no `payload`") as caught:
        read_task(b'{"type": "chapter", "priority": "low"}', "alice", 10, repeatable=False)

    assert caught.value.path == "$.payload"


def test_an_option_that_is_none_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_task(b'{"payload": 1, "attempts": 0}', "alice", 10, repeatable=False)

    assert caught.value.path == "$.attempts"


@pytest.mark.parametrize(
    ("field", "taken", "not_taken"),
    [
        ("attempts", [1, 100], [0, 101]),
        ("delay", [0, 31_622_400], [-1, 31_622_401]),
        ("concurrencyKey", ["", "k" * 128], ["k" * 129]),
        ("dependsOn", [[], [f"{'0' * 26}~a"] * 1_000], [["x"], [f"{'0' * 26}~a"] * 1_001]),
    ],
)
def test_the_bounds_of_options(field: str, taken: list[Any], not_taken: list[Any]) -> None:
    def read(value: Any) -> None:
        read_task(msgspec.json.encode({"payload": 1, field: value}), "alice", 10, repeatable=False)

    for value in taken:
        read(value)
    for value in not_taken:
        with pytest.raises(InvalidInput, match=field):
            read(value)


# Texts that are no JSON objects


def detail(body: bytes, max_depth: int = 3) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parse_json_object(body, max_depth)
    return caught.value.path, caught.value.detail


def test_a_body_that_is_no_object_says_what_it_must_be() -> None:
    assert detail(b" \n") == ("", "the body is empty; send a JSON object")
    assert detail(b"[1]") == ("$", "the body must be a JSON object")
    assert detail(b"{")[1].startswith("the body is not valid JSON")
    assert detail(b'{"a": "\\ud800"}')[1] == (
        "the body is not valid JSON: half of a surrogate pair at byte 7; send the whole character"
    )
    assert detail(b'{"a": "\xff"}')[1] == "the body is not valid JSON: it is not UTF-8 at byte 7"


def test_a_body_is_as_deep_as_it_may_be_and_no_deeper() -> None:
    assert parse_json_object(b'{"a": [[1]]}', 3) == {"a": [[1]]}
    assert detail(b'{"a": [[[1]]]}') == ("", "the body is nested deeper than 3 levels")
    assert as_object({"a": 1}, b'{"a": 1}', 1) == {"a": 1}


def test_nesting_beyond_what_the_decoder_takes_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="the line is nested deeper than 3 levels"):
        parse_json(b"[" * 100_000 + b"]" * 100_000, "line", 3)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        ({"customer": "acme", "order": {"id": 7}}, {"customer": "acme", "order.id": "7"}),
        ({"customer": True, "order": {"id": 7.0}}, {"customer": "true", "order.id": "7"}),
        ({"customer": "", "order": {"id": 2.5}}, {"customer": "", "order.id": "2.5"}),
        ({"customer": "x" * 200, "order": {"id": -(10**30)}}, {"customer": "x" * 200, "order.id": f"-1{'0' * 30}"}),
        ({"customer": "x" * 201, "order": [{"id": 1}]}, {}),
        ({"customer": None, "order": {"id": ["7"]}}, {}),
        ({"customer": {"a": 1}, "order": "id"}, {}),
        (["customer"], {}),
        ("customer", {}),
    ],
)
def test_searchable_values_are_text_numbers_and_booleans(payload: Any, found: dict[str, str]) -> None:
    assert indexed_values(("$.customer", "$.order.id"), payload) == found
