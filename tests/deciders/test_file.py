"""What may be done with a file: stored once, referred to while it is there, deleted as its references were seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskstream.commands import file
from taskstream.commands.file import ABSENT, CreateFile, DeleteFile, FileGone, FilePresent, ReferToFile
from taskstream.errors import FileInUse, IdempotencyConflict, NotFound, RuleBroken
from taskstream.events.envelope import Actor, Recorded
from taskstream.events.file import FileCreated, FileDeleted, FileEvent, FileReferenced

from .support import Given

given = Given(file.decide, file.evolve, ABSENT)
CREATED = FileCreated(
    owner="alice", name="a.png", media_type="image/png", size_bytes=3, sha256="f00d", object_name="alice.f.1"
)
AGAIN = FileCreated(
    owner="alice", name="a.png", media_type="image/png", size_bytes=3, sha256="f00d", object_name="alice.f.2"
)
OTHER = FileCreated(
    owner="alice", name="a.png", media_type="image/png", size_bytes=3, sha256="beef", object_name="alice.f.3"
)
REFERENCED = FileReferenced(tasks=("t~alice",))
DELETED = FileDeleted(reason="requested", size_bytes=3)
AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


def state_after(*events: FileEvent) -> file.FileState:
    state: file.FileState = ABSENT
    for number, event in enumerate(events):
        state = file.evolve(state, Recorded(id=f"e{number}", at=AT, by=Actor("user", "alice"), event=event))
    return state


def test_a_file_is_stored_once_however_often_the_request_comes() -> None:
    given().when(CreateFile(created=CREATED, repeatable=True)).then(CREATED)
    given(CREATED).when(CreateFile(created=AGAIN, repeatable=True)).is_quiet()
    given(CREATED, REFERENCED).when(CreateFile(created=AGAIN, repeatable=True)).is_quiet()


def test_a_key_that_made_another_file_is_a_conflict() -> None:
    given(CREATED).when(CreateFile(created=OTHER, repeatable=True)).is_refused(IdempotencyConflict)


def test_a_key_whose_file_was_deleted_makes_no_other() -> None:
    given(CREATED, DELETED).when(CreateFile(created=AGAIN, repeatable=True)).is_refused(RuleBroken)


def test_a_file_can_be_referred_to_while_it_is_there() -> None:
    given(CREATED).when(ReferToFile(tasks=("t~alice",))).then(REFERENCED)
    given(CREATED, REFERENCED).when(ReferToFile(tasks=("t~alice",))).then(REFERENCED)
    given().when(ReferToFile(tasks=("t~alice",))).is_refused(NotFound)
    given(CREATED, DELETED).when(ReferToFile(tasks=("t~alice",))).is_refused(NotFound)


def test_a_file_whose_end_has_passed_is_not_referred_to_any_more() -> None:
    expiring = file.FilePresent(
        created=FileCreated(
            owner="alice",
            name="",
            media_type="a/b",
            size_bytes=0,
            sha256="",
            object_name="",
            expires_at=AT + timedelta(hours=1),
        ),
        created_at=AT,
    )
    refer = ReferToFile(tasks=("t~alice",))

    assert file.decide(refer, expiring, AT) == [REFERENCED]
    with pytest.raises(NotFound):
        file.decide(refer, expiring, AT + timedelta(hours=1))


def test_a_file_is_deleted_only_as_its_references_were_seen() -> None:
    given(CREATED).when(DeleteFile(reason="requested", last_reference="")).then(DELETED)
    given(CREATED, DELETED).when(DeleteFile(reason="age", last_reference="")).is_quiet()
    given().when(DeleteFile(reason="requested", last_reference="")).is_refused(NotFound)
    given(CREATED, REFERENCED).when(DeleteFile(reason="requested", last_reference="")).is_refused(FileInUse)

    referenced = state_after(CREATED, REFERENCED)
    assert file.decide(DeleteFile(reason="requested", last_reference="e1"), referenced, AT) == [DELETED]


def test_the_state_follows_from_the_first_and_the_last_event() -> None:
    assert state_after(CREATED, REFERENCED) == FilePresent(created=CREATED, created_at=AT, last_reference="e1")
    assert state_after(CREATED, DELETED) == FileGone(created=CREATED, reason="requested", deleted_at=AT)
    assert state_after(REFERENCED) == ABSENT
    assert state_after(CREATED, DELETED, REFERENCED) == FileGone(created=CREATED, reason="requested", deleted_at=AT)
