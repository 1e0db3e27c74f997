"""Instants in bodies: the same in the answer, in every year; one beyond the year 9999 is a 400 that names the field."""

from __future__ import annotations

from typing import Any

from testkit.service import Service

LAST = 253_402_300_799_999
BEYOND = [LAST + 1, 10**17, 10**30, -1, "9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00"]

FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("/api/task", {"payload": 1, "runAt": None}, "$.runAt"),
    ("/api/task", {"payload": 1, "expiresAt": None}, "$.expiresAt"),
    ("/api/task", {"payload": 1, "deadline": None}, "$.deadline"),
    ("/api/tasks/cancel", {"filter": {"createdAfter": None}}, "$.filter.createdAfter"),
    ("/api/tasks/cancel", {"filter": {"createdBefore": None}}, "$.filter.createdBefore"),
    ("/api/dead-letters/retry", {"filter": {"since": None}}, "$.filter.since"),
    ("/api/dead-letters/retry", {"filter": {"before": None}}, "$.filter.before"),
]


def _with(body: Any, value: int | str) -> Any:
    if isinstance(body, dict):
        return {name: _with(inner, value) for name, inner in body.items()}
    return value if body is None else body


async def test_an_instant_beyond_the_year_9999_is_refused_and_the_field_named(api: Service) -> None:
    for path, body, field in FIELDS:
        for value in BEYOND:
            answer = await api.alice.post(path, _with(body, value))

            assert (answer.status, answer["path"]) == (400, field), (value, answer.body)


async def test_the_last_instant_of_the_year_9999_is_accepted(api: Service) -> None:
    for path, body, field in FIELDS:
        answer = await api.alice.post(path, _with(body, LAST))

        assert answer.status == 200, (field, answer.body)


async def test_a_millisecond_comes_back_unchanged(api: Service) -> None:
    for number in (2_148_595_200_002, 2_158_963_200_002, 2_177_452_800_002, LAST):
        details = (await api.alice.done("POST", "/api/task", {"payload": 1, "deadline": number}))["taskDetails"]

        assert details["deadline"] == number
