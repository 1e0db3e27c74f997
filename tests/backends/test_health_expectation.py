"""What a registration may expect of the answer to a health check."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.backends.health_expectation import read_health
from taskstream.events.server import HealthExpectation, Scalar

BODY = b'{"status":"ok","ready":true,"load":1,"workers":[{"up":true},null],"":0}'


def found(status: int, body: bytes, *statuses: int, **values: Any) -> tuple[bool, str]:
    probe = read_health(HealthExpectation(status=statuses, json=values.get("json", {})), status, body)
    return probe.well, probe.reason


@pytest.mark.parametrize(
    ("answered", "wanted", "well", "reason"),
    [
        (200, (), True, "health check answered 200 as expected"),
        (404, (), False, "health check answered 404"),
        (404, (404,), True, "health check answered 404 as expected"),
        (200, (204, 404), False, "health check answered 200, not 204 or 404"),
    ],
)
def test_a_status_is_as_expected(answered: int, wanted: tuple[int, ...], well: bool, reason: str) -> None:
    assert found(answered, b"", *wanted) == (well, reason)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.status", "ok"),
        ("$.ready", True),
        ("$.load", 1),
        ("$.load", 1.0),
        ("$.workers[0].up", True),
        ("$.workers[1]", None),
    ],
)
def test_a_value_is_as_expected(path: str, value: Scalar) -> None:
    assert found(200, BODY, json={path: value})[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.status", "OK"), ("$.ready", 1), ("$.load", True), ("$.workers", None), ("$.workers[2]", None),
        ("$.workers[0]", None), ("$.missing", None), ("$.status.ok", None), ("$[0]", None), ("$.workers.0", None),
    ],
)  # fmt: skip
def test_a_value_is_not_as_expected(path: str, value: Scalar) -> None:
    wanted = msgspec.json.encode(value).decode()
    assert found(200, BODY, json={path: value}) == (False, f"health check answered 200, but `{path}` is not {wanted}")


@given(st.binary(max_size=60) | st.just(b"[" * 60_000))
def test_no_answer_breaks_a_check_and_the_reason_is_ours(body: bytes) -> None:
    well, reason = found(200, body, json={"$.a[0]": "b"})

    assert not well
    assert reason in ("health check answered 200 without JSON", 'health check answered 200, but `$.a[0]` is not "b"')
