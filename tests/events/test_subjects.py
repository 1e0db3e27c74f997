"""Every event has a subject that NATS takes and that leads back to what it is about."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.events.batch_job import BatchJobEvent, BatchJobValidated
from taskstream.events.file import FileDeleted, FileEvent
from taskstream.events.ids import (
    BatchJobRef,
    FileRef,
    KeyRef,
    OperationRef,
    ScheduleRef,
    TaskRef,
    WebhookRef,
    owner_token,
    token,
)
from taskstream.events.key import KeyEvent, KeyRevoked
from taskstream.events.operation import OperationEvent, OperationResumed
from taskstream.events.owner import OwnerEvent, OwnerLimitsRemoved
from taskstream.events.pool import PoolEvent
from taskstream.events.schedule import ScheduleDeleted, ScheduleEvent, ScheduleFired
from taskstream.events.server import CircuitHalfOpened, ServerEvent
from taskstream.events.subjects import (
    NO_SERVER,
    READY_RETRIES,
    READY_TASKS,
    batch_job_ref,
    batch_job_root,
    batch_jobs_filter,
    dispatched_ref,
    dispatched_subject,
    due_retry_filter,
    due_subject,
    event_subject,
    file_creation_filter,
    file_deletion_subject,
    file_ref,
    file_references_filter,
    file_root,
    file_word,
    files_filter,
    freed_server,
    history_filter,
    is_quiet,
    key_ref,
    key_root,
    live_ref,
    live_subject,
    operation_ref,
    operation_root,
    operations_filter,
    owner_root,
    pool_filter,
    pool_root,
    schedule_ref,
    schedule_root,
    schedules_filter,
    server_root,
    server_token,
    submission_filter,
    task_ref,
    task_root,
    task_word,
    tasks_filter,
    timer_name,
    timer_subject,
    timers_filter,
    type_root,
    webhook_ref,
    webhook_root,
    webhooks_filter,
)
from taskstream.events.task import TaskEvent, TaskHeld
from taskstream.events.task_type import TypeEvent
from taskstream.events.webhook import WebhookDeleted, WebhookEvent

from ..deciders.support import (
    attempt_failed,
    cancelled,
    defined,
    failed,
    queued,
    registered,
    returned,
    started,
    submitted,
    succeeded,
)
from .test_golden import golden

REF = TaskRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRS")
HOOK = WebhookRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRT")
SCHEDULE = ScheduleRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRV")
JOB = BatchJobRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRY")
OPERATION = OperationRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRX")
FILE = FileRef("alice", "01HF7YAT31JZ8Q4N9P2R5S6T7W")
API_KEY = KeyRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRY")
TOKEN = re.compile(r"[A-Za-z0-9_=-]{1,64}")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100)
hostile = st.sampled_from(
    [".", "*", ">", "a.b", "a.>", " ", "\t", "\r\n", "\x00", "-", "=", "=2D", "=h", "🜚", "x" * 4096]
)


def check(subject: str) -> list[str]:
    """Fail unless a subject is one that may be published to; return its tokens."""
    tokens = subject.split(".")
    assert all(TOKEN.fullmatch(each) for each in tokens), subject
    return tokens


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (submitted(pool="text", priority="high"), "submitted.text.high"),
        (queued(), "queued.text.normal"),
        (replace(queued(), bulk=True), "queued.text.normal-bulk"),
        (started(1, "s1"), "started.s1"),
        (attempt_failed(1, "s1"), "attempt_failed.s1"),
        (returned(1, "s1"), "attempt_returned.s1"),
        (succeeded(1, "s1"), "succeeded.s1"),
        (failed(1, "s1"), "failed.s1"),
        (cancelled(1, "s1"), "cancelled.s1"),
        (submitted(pool="text", priority="high", held=True), "submitted.text.high.held"),
        (TaskHeld(reason="a limit"), "held"),
        (cancelled(), f"cancelled.{NO_SERVER}"),
        (started(1, ""), f"started.{NO_SERVER}"),
    ],
)
def test_a_task_event_is_filed_by_owner_task_and_what_happened(event: TaskEvent, expected: str) -> None:
    assert event_subject(task_root(REF), event) == f"task.{REF.owner}.{REF.unique}.{expected}"


HISTORIES: list[tuple[Any, str, str]] = [
    (TaskEvent, task_root(REF), f"task.{REF.owner}.{REF.unique}"),
    (ServerEvent, server_root("gpu 1"), "server.gpu=201"),
    (TypeEvent, type_root("chapter"), "type.chapter"),
    (PoolEvent, pool_root("text"), "pool.text"),
    (OwnerEvent, owner_root("alice@example.com"), "owner.alice=40example=2Ecom"),
    (WebhookEvent, webhook_root(HOOK), f"webhook.{HOOK.owner}.{HOOK.unique}"),
    (ScheduleEvent, schedule_root(SCHEDULE), f"schedule.{SCHEDULE.owner}.{SCHEDULE.unique}"),
    (OperationEvent, operation_root(OPERATION), f"operation.{OPERATION.owner}.{OPERATION.unique}"),
    (BatchJobEvent, batch_job_root(JOB), f"batch_job.{JOB.owner}.{JOB.unique}"),
    (FileEvent, file_root(FILE), f"file.{FILE.owner}.{FILE.unique}"),
    (KeyEvent, key_root(API_KEY), f"key.{API_KEY.owner}.{API_KEY.unique}"),
]


@pytest.mark.parametrize(("vocabulary", "root", "expected"), HISTORIES, ids=lambda each: str(each)[:8])
def test_every_event_has_a_subject_of_its_own_below_the_root_of_its_history(
    vocabulary: Any, root: str, expected: str
) -> None:
    subjects = [event_subject(root, event) for event in golden(vocabulary)]

    assert root == expected
    assert len(set(subjects)) == len(subjects)
    for subject in subjects:
        check(subject)
        assert subject.startswith(f"{root}.")


def test_a_subject_leads_back_to_what_its_event_is_about() -> None:
    assert task_ref(event_subject(task_root(REF), queued())) == REF
    assert webhook_ref(event_subject(webhook_root(HOOK), WebhookDeleted())) == HOOK
    assert schedule_ref(event_subject(schedule_root(SCHEDULE), ScheduleDeleted())) == SCHEDULE
    assert operation_ref(event_subject(operation_root(OPERATION), OperationResumed())) == OPERATION
    assert batch_job_ref(event_subject(batch_job_root(JOB), BatchJobValidated(total=3))) == JOB
    assert file_ref(event_subject(file_root(FILE), FileDeleted(reason="age", size_bytes=1))) == FILE
    assert key_ref(event_subject(key_root(API_KEY), KeyRevoked())) == API_KEY


def test_the_names_of_server_events_are_in_words() -> None:
    assert (
        event_subject(server_root("gpu 1"), CircuitHalfOpened(server_id="gpu 1"))
        == "server.gpu=201.circuit_half_opened"
    )


@given(texts | hostile)
def test_text_of_users_never_adds_a_token_to_a_subject(text: str) -> None:
    ref = TaskRef(owner_token(text), REF.unique)

    assert len(check(event_subject(task_root(ref), submitted(pool=text)))) == 6
    assert len(check(event_subject(task_root(ref), queued()))) == 6
    for event in (started(1, text), attempt_failed(1, text), returned(1, text), succeeded(1, text), failed(1, text)):
        assert len(check(event_subject(task_root(ref), event))) == 5
    assert len(check(event_subject(server_root(text), registered(text)))) == 3
    assert len(check(event_subject(type_root(text), defined(text)))) == 3
    assert len(check(event_subject(owner_root(text), OwnerLimitsRemoved(owner=text)))) == 3
    assert task_ref(event_subject(task_root(ref), submitted())) == ref


@given(texts | hostile, texts | hostile)
@example("-", "=2D")
def test_two_servers_never_share_a_token(one: str, other: str) -> None:
    assert (server_token(one) == server_token(other)) == (one == other)


@given(texts | hostile)
@example("-")
@example("=")
def test_no_server_has_the_token_that_says_there_is_none(server_id: str) -> None:
    assert server_token("") == NO_SERVER
    assert server_token(server_id) != NO_SERVER


@given(texts | hostile)
def test_a_message_of_the_queue_leads_to_its_task(owner: str) -> None:
    ref = TaskRef(owner_token(owner), REF.unique)

    assert dispatched_ref(f"dispatch.{token('a pool')}.high.{ref.owner}.{ref.unique}") == ref


# Subjects and filters word for word: processes of two versions, and the permissions of NATS users, rely on them.

UNIQUE = REF.unique


def test_the_filters_over_the_log_of_tasks() -> None:
    assert history_filter(task_root(REF)) == f"task.alice.{UNIQUE}.>"
    assert submission_filter(REF) == f"task.alice.{UNIQUE}.submitted.>"
    assert tasks_filter() == "task.*.>"
    assert tasks_filter("alice") == "task.alice.>"
    assert tasks_filter(word="submitted") == "task.*.*.submitted.>"
    assert tasks_filter("alice", "succeeded") == "task.alice.*.succeeded.>"
    assert tasks_filter("alice", "progressed") == "task.alice.*.progressed"


def test_the_filters_over_files() -> None:
    created, referenced, deleted = (event_subject(file_root(FILE), event) for event in golden(FileEvent))

    assert [file_word(each) for each in (created, referenced, deleted)] == [
        "file_created",
        "file_referenced",
        "file_deleted",
    ]
    assert created == f"file.{FILE.owner}.{FILE.unique}.file_created.batch"
    assert files_filter(None) == "file.*.*.file_created.*"
    assert files_filter("alice", "batch") == "file.alice.*.file_created.batch"
    assert files_filter("alice", "") == f"file.alice.*.file_created.{NO_SERVER}"
    assert file_creation_filter(FILE) == f"{file_root(FILE)}.file_created.*"
    assert file_references_filter(FILE) == f"{file_root(FILE)}.file_referenced.*"
    assert file_deletion_subject(FILE) == deleted


def test_the_filters_over_the_other_logs_of_owners() -> None:
    assert webhooks_filter(None) == "webhook.*.>"
    assert webhooks_filter("alice") == "webhook.alice.>"
    assert schedules_filter(None, ScheduleDeleted) == "schedule.*.*.schedule_deleted"
    assert schedules_filter("alice", ScheduleFired) == "schedule.alice.*.schedule_fired"
    assert operations_filter(None, OperationResumed) == "operation.*.*.operation_resumed"
    assert operations_filter("alice", OperationResumed) == "operation.alice.*.operation_resumed"
    assert batch_jobs_filter(None, BatchJobValidated) == "batch_job.*.*.batch_job_validated"
    assert batch_jobs_filter("alice", BatchJobValidated) == "batch_job.alice.*.batch_job_validated"


def test_a_subject_of_a_task_leads_to_its_word_and_to_the_server_whose_slot_is_free() -> None:
    subject = event_subject(task_root(REF), succeeded(1, "gpu 1"))

    assert task_word(subject) == "succeeded"
    assert task_word(event_subject(task_root(REF), TaskHeld(reason=""))) == "held"
    assert task_word("scheduler.fence") == ""
    assert freed_server(subject) == server_token("gpu 1") == "gpu=201"
    assert freed_server(event_subject(task_root(REF), cancelled())) == NO_SERVER == "="


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (submitted(), True),
        (submitted(held=True), False),
        (started(), True),
        (queued(), False),
        (succeeded(), False),
        (attempt_failed(), False),
        (TaskHeld(reason="r"), False),
    ],
)
def test_no_worker_acts_at_once_on_a_queued_submission_or_a_start(event: TaskEvent, expected: bool) -> None:
    assert is_quiet(event_subject("task.o.u", event)) is expected


def test_live_progress_leads_to_its_task() -> None:
    assert live_subject(REF) == f"progress.alice.{UNIQUE}"
    assert live_ref(live_subject(REF)) == REF


def test_the_subjects_of_timers() -> None:
    assert timer_subject("deadline", "alice", UNIQUE) == f"timer.deadline.alice.{UNIQUE}"
    assert due_subject("retry", "text", "high", "alice", UNIQUE) == f"due.retry.text.high.alice.{UNIQUE}"
    assert timers_filter("check") == "*.check.>"
    assert timer_name(timer_subject("deadline", "alice", UNIQUE)) == ("alice", UNIQUE)
    assert timer_name(due_subject("check", "s1")) == ("s1",)
    assert due_retry_filter(REF) == f"due.retry.*.*.alice.{UNIQUE}"


def test_the_subjects_of_the_queue() -> None:
    subject = dispatched_subject(REF, "a pool", "high")

    assert subject == f"dispatch.a=20pool.high.alice.{UNIQUE}"
    assert dispatched_ref(subject) == REF
    assert dispatched_ref(due_subject("retry", "text", "high", "alice", UNIQUE)) == REF
    assert pool_filter("text", "low") == "dispatch.text.low.>"


def test_jetstream_copies_what_is_ready_to_the_subject_that_the_dispatcher_reads() -> None:
    copied = "dispatch.{{wildcard(3)}}.{{wildcard(4)}}.{{wildcard(1)}}.{{wildcard(2)}}"
    retried = "dispatch.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}"

    assert (("task.*.*.submitted.*.*", copied), ("task.*.*.queued.*.*", copied)) == READY_TASKS
    assert ("due.retry.*.*.*.*", retried) == READY_RETRIES
