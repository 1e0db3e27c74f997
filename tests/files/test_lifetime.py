"""When a file ends: at its time, with the last task that refers to it, or by age; never while a task may need it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskstream.commands.file import FilePresent
from taskstream.events.file import FileCreated, FileEnd
from taskstream.files.lifetime import Standing, ending_of

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def aged(age: timedelta, expires_at: datetime | None = None) -> FilePresent:
    created = FileCreated(
        owner="alice",
        name="",
        media_type="a/b",
        size_bytes=1,
        sha256="",
        object_name="alice.f.1",
        expires_at=expires_at,
    )
    return FilePresent(created=created, created_at=NOW - age)


@pytest.mark.parametrize(
    ("file", "maker", "tasks", "expected"),
    [
        (aged(DAY), None, (), None),
        (aged(30 * DAY), None, (), "age"),
        (aged(30 * DAY), None, ("ended", "gone"), "age"),
        (aged(30 * DAY), None, ("unfinished", "gone"), None),
        (aged(DAY), None, ("gone", "ended"), None),
        (aged(DAY), None, ("gone", "gone"), "tasks"),
        (aged(DAY, NOW), None, (), "expired"),
        (aged(DAY, NOW), None, ("ended",), "expired"),
        (aged(DAY, NOW), None, ("unfinished",), None),
        (aged(90 * DAY, NOW + DAY), None, ("gone",), None),
        (aged(90 * DAY), "ended", (), None),
        (aged(DAY), "gone", (), "tasks"),
        (aged(DAY), "gone", ("ended",), None),
        (aged(DAY, NOW), "unfinished", (), None),
    ],
)
def test_a_file_ends_for_one_reason_and_only_if_no_task_may_need_it(
    file: FilePresent, maker: Standing | None, tasks: tuple[Standing, ...], expected: FileEnd | None
) -> None:
    assert ending_of(file, maker, tasks, 30 * DAY, NOW) == expected


def test_without_a_retention_age_ends_no_file() -> None:
    assert ending_of(aged(9_000 * DAY), None, (), timedelta(0), NOW) is None
