"""Every event has a subject that NATS takes and that leads back to what it is about."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskstream.events.codec import owner_codec, schedule_codec, server_codec, task_codec, type_codec, webhook_codec
from taskstream.events.ids import ScheduleRef, TaskRef, WebhookRef, owner_token, token
from taskstream.events.owner import OwnerEvent, OwnerLimitsRemoved
from taskstream.events.schedule import ScheduleEvent
from taskstream.events.server import CircuitHalfOpened, ServerEvent
from taskstream.events.subjects import (
    ENDINGS,
    NO_SERVER,
    TASK_KINDS,
    dispatched_ref,
    owner_root,
    owner_subject,
    schedule_ref,
    schedule_root,
    schedule_subject,
    server_root,
    server_subject,
    server_token,
    task_ref,
    task_root,
    task_subject,
    type_root,
    type_subject,
    webhook_ref,
    webhook_root,
    webhook_subject,
)
from taskstream.events.task import TaskEvent, TaskHeld
from taskstream.events.task_type import TypeEvent
from taskstream.events.webhook import WebhookEvent

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
from .test_golden import GOLDEN

REF = TaskRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRS")
HOOK = WebhookRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRT")
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


def golden(vocabulary: Any, codec: Any) -> list[Any]:
    names = [event.__name__ for event in get_args(vocabulary)]
    return [codec.decode((GOLDEN / f"{name}.json").read_bytes()).event for name in names]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (submitted(pool="text", priority="high"), "submitted.text.high"),
        (queued(), "queued.text.normal"),
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
    assert task_subject(REF, event) == f"task.{REF.owner}.{REF.unique}.{expected}"


@pytest.mark.parametrize("event", golden(TaskEvent, task_codec), ids=lambda event: type(event).__name__)
def test_every_task_event_has_a_subject_of_its_task(event: TaskEvent) -> None:
    subject = task_subject(REF, event)

    check(subject)
    assert subject.startswith(task_root(REF) + ".")
    assert task_ref(subject) == REF


@pytest.mark.parametrize("event", golden(ServerEvent, server_codec), ids=lambda event: type(event).__name__)
def test_every_server_event_has_a_subject_of_its_server(event: ServerEvent) -> None:
    subject = server_subject(event)

    assert check(subject)[:2] == ["server", "gpu=201"]
    assert subject.startswith(server_root("gpu 1") + ".")


@pytest.mark.parametrize("event", golden(TypeEvent, type_codec), ids=lambda event: type(event).__name__)
def test_every_type_event_has_a_subject_of_its_type(event: TypeEvent) -> None:
    subject = type_subject(event)

    assert check(subject)[:2] == ["type", "chapter"]
    assert subject.startswith(type_root("chapter") + ".")


@pytest.mark.parametrize("event", golden(OwnerEvent, owner_codec), ids=lambda event: type(event).__name__)
def test_every_owner_event_has_a_subject_of_its_owner(event: OwnerEvent) -> None:
    subject = owner_subject(event)

    assert check(subject)[:2] == ["owner", "alice=40example=2Ecom"]
    assert subject.startswith(owner_root("alice@example.com") + ".")


@pytest.mark.parametrize(
    "subjects",
    [
        [task_subject(REF, event).split(".")[3] for event in golden(TaskEvent, task_codec)],
        [server_subject(event).split(".")[2] for event in golden(ServerEvent, server_codec)],
        [type_subject(event).split(".")[2] for event in golden(TypeEvent, type_codec)],
        [owner_subject(event).split(".")[2] for event in golden(OwnerEvent, owner_codec)],
        [webhook_subject(HOOK, event).split(".")[3] for event in golden(WebhookEvent, webhook_codec)],
    ],
    ids=["task", "server", "type", "owner", "webhook"],
)
def test_two_kinds_of_event_never_have_the_same_subject(subjects: list[str]) -> None:
    assert len(set(subjects)) == len(subjects)


@pytest.mark.parametrize("event", golden(WebhookEvent, webhook_codec), ids=lambda event: type(event).__name__)
def test_every_webhook_event_has_a_subject_of_its_webhook(event: WebhookEvent) -> None:
    subject = webhook_subject(HOOK, event)

    check(subject)
    assert subject.startswith(webhook_root(HOOK) + ".")
    assert webhook_ref(subject) == HOOK


def test_the_kinds_of_task_events_are_those_of_their_subjects() -> None:
    kinds = {task_subject(REF, event).split(".")[3] for event in golden(TaskEvent, task_codec)}

    assert set(TASK_KINDS) == kinds
    assert kinds > ENDINGS


def test_the_names_of_server_events_are_in_words() -> None:
    assert server_subject(CircuitHalfOpened(server_id="gpu 1")) == "server.gpu=201.circuit_half_opened"


@given(texts | hostile)
def test_text_of_users_never_adds_a_token_to_a_subject(text: str) -> None:
    ref = TaskRef(owner_token(text), REF.unique)

    assert len(check(task_subject(ref, submitted(pool=text)))) == 6
    assert len(check(task_subject(ref, queued()))) == 6
    for event in (started(1, text), attempt_failed(1, text), returned(1, text), succeeded(1, text), failed(1, text)):
        assert len(check(task_subject(ref, event))) == 5
    assert len(check(server_subject(registered(text)))) == 3
    assert len(check(type_subject(defined(text)))) == 3
    assert len(check(owner_subject(OwnerLimitsRemoved(owner=text)))) == 3
    assert task_ref(task_subject(ref, submitted())) == ref


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


@pytest.mark.parametrize("event", golden(ScheduleEvent, schedule_codec), ids=lambda event: type(event).__name__)
def test_every_schedule_event_has_a_subject_of_its_schedule(event: ScheduleEvent) -> None:
    ref = ScheduleRef("alice", "01JGXQ0000ABCDEFGHJKMNPQRV")

    subject = schedule_subject(ref, event)

    check(subject)
    assert subject.startswith(schedule_root(ref) + ".")
    assert schedule_ref(subject) == ref
