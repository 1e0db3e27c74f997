"""One table of event kinds: what other modules must know of an event without asking for its fields."""

from __future__ import annotations

import re
from typing import Literal, get_args

from msgspec import Struct

from . import task
from .batch_job import BatchJobEvent
from .envelope import Event
from .file import FileEvent
from .key import KeyEvent
from .operation import OperationEvent
from .owner import OwnerEvent
from .pool import PoolEvent
from .schedule import ScheduleEvent
from .server import ServerEvent
from .task import TaskEvent
from .task_type import TypeEvent
from .webhook import WebhookEvent


class TaskEventKind(Struct, frozen=True, kw_only=True):
    """The properties that all events of one class share."""

    word: str
    """Token of the subject that names the kind, and the name of the event for webhooks."""
    follows: Literal["", "server", "queue"] = ""
    """Tokens after the word: none; the server; the pool and priority (of a submission perhaps `held` as well)."""
    activates: bool = False
    """Submits a task, or may retry one that has ended: the task is active afterwards."""
    moves: bool = False
    """Changes whether the task is held, queued, running, between two attempts or ended; the scheduler counts these."""
    frees_slot: bool = False
    """The server that the event names has one attempt less. A task that ends before its first attempt names none."""
    ends: bool = False
    """The task has ended."""
    follows_end: bool = False
    """Comes after the end of the task, which stays ended."""
    of_attempt: bool = False
    """Tells how an attempt of a task that has not ended goes."""
    quiet: bool = False
    """No worker acts on it at once: the task is in its queue, or an attempt runs. Not so if it holds the task."""
    live: bool = False
    """Pushed to subscribers as it comes, before the log has it."""


TASK_EVENTS: dict[type[Event], TaskEventKind] = {
    task.TaskSubmitted: TaskEventKind(word="submitted", follows="queue", activates=True, moves=True, quiet=True),
    task.TaskHeld: TaskEventKind(word="held", activates=True, moves=True),
    task.TaskQueued: TaskEventKind(word="queued", follows="queue", activates=True, moves=True),
    task.AttemptStarted: TaskEventKind(word="started", follows="server", moves=True, of_attempt=True, quiet=True),
    task.AttemptAccepted: TaskEventKind(word="accepted", of_attempt=True),
    task.ProgressReported: TaskEventKind(word="progressed", live=True, quiet=True),
    task.AttemptFailed: TaskEventKind(
        word="attempt_failed", follows="server", moves=True, frees_slot=True, of_attempt=True
    ),
    task.AttemptReturned: TaskEventKind(
        word="attempt_returned", follows="server", moves=True, frees_slot=True, of_attempt=True
    ),
    task.TaskSucceeded: TaskEventKind(word="succeeded", follows="server", moves=True, frees_slot=True, ends=True),
    task.TaskFailed: TaskEventKind(word="failed", follows="server", moves=True, frees_slot=True, ends=True),
    task.TaskCancelled: TaskEventKind(word="cancelled", follows="server", moves=True, frees_slot=True, ends=True),
    task.CancelReported: TaskEventKind(word="cancel_reported", follows_end=True, quiet=True),
    task.TaskDeleted: TaskEventKind(word="deleted", follows_end=True),
}
"""In the order in which they first happen to a task."""


def _words(attribute: str) -> tuple[str, ...]:
    return tuple(kind.word for kind in TASK_EVENTS.values() if getattr(kind, attribute))


TASK_WORDS = _words("word")
ATTEMPT_WORDS = _words("of_attempt")
LIVE_WORDS = _words("live")
QUIET_WORDS = frozenset(_words("quiet"))
ENDING_WORDS = frozenset(_words("ends"))
FOLLOWING_WORDS = frozenset(_words("follows_end"))
OVER_WORDS = ENDING_WORDS | FOLLOWING_WORDS
"""Kinds of the last event of a task that has ended."""
REPLACED_WORDS = ENDING_WORDS | frozenset(LIVE_WORDS)
"""Kinds of which the state of a task depends on the last event on each subject alone: reports, and ends, between which
the task was retried."""
MOVING_WORDS = frozenset(_words("moves"))
FREEING_WORDS = frozenset(_words("frees_slot"))

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")
_WORDS: dict[type[Event], str] = {
    event: _CAPITAL.sub("_", event.__name__).lower()
    for vocabulary in (
        ServerEvent,
        TypeEvent,
        PoolEvent,
        OwnerEvent,
        WebhookEvent,
        ScheduleEvent,
        OperationEvent,
        BatchJobEvent,
        FileEvent,
        KeyEvent,
    )
    for event in get_args(vocabulary)
} | {event: kind.word for event, kind in TASK_EVENTS.items()}
EVENT_WORDS = {event.__name__: word for event, word in _WORDS.items()}
"""The word of each class of events, by its name."""


def kind_of(event: TaskEvent) -> TaskEventKind:
    """Return the row of an event."""
    return TASK_EVENTS[type(event)]


def word_of(event: type[Event]) -> str:
    """Return the token that names a class of events in its subjects: `circuit_opened` for CircuitOpened."""
    return _WORDS[event]
