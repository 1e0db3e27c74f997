"""Streams of a user's tasks for older clients: the list of active tasks at each change, and progress and log lines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ...container import Container
from ...errors import StoreError
from ...events.chapters import read_chapter
from ...events.ids import TaskRef, owner_token
from ...events.task import (
    AttemptStarted,
    ProgressReported,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskHeld,
    TaskQueued,
    TaskSucceeded,
)
from ...index.query import TaskQuery
from ...instants import milliseconds
from ...projections.task_view import ACTIVE, Listed, TaskView, fold
from ...push.feed import FeedPosition
from ...push.listeners import Scope
from ...push.subscription_filter import SubscriptionFilter
from ...push.updates import LiveEvent, LoggedEvent
from ..schemas.legacy_queue import COMPLETED, QUEUE_TYPES, STATUS, ActiveTask, active_task, percent
from ..sse import HEARTBEAT, block

HEARTBEAT_SECONDS = 15.0
PAUSE_SECONDS = 0.25
"""Between two lists: changes in between are one."""
MOST_PRESENT = 200
"""Tasks whose present state a stream of events starts with."""

_encode = msgspec.json.Encoder().encode


class StartingTasks(NamedTuple):
    """The active tasks of a user, and the position in the log from which events follow."""

    scope: Scope
    tasks: list[Listed]
    """Newest first."""
    place: FeedPosition


async def begin(container: Container, subject: str) -> StartingTasks:
    """Return where a stream of a user's tasks starts. Raises StoreUnavailable."""
    owner = owner_token(subject)
    scope = Scope(owner=owner, choice=SubscriptionFilter(types=QUEUE_TYPES))
    start = await container.feeds.start(None)
    newest = await container.snapshots.get(TaskQuery(owner=owner, types=QUEUE_TYPES, in_project=True))
    return StartingTasks(scope, newest.tasks, start.at(start.extent.last))  # the tasks were read after the extent


class ActiveTasks:
    """A user's active tasks, kept up to date by events, without reads."""

    def __init__(self, tasks: Iterable[Listed]) -> None:
        self._views: dict[TaskRef, TaskView] = dict(tasks)

    def shown(self) -> list[ActiveTask]:
        """Return the tasks, newest first."""
        tasks = sorted(self._views.items(), key=lambda entry: entry[1].created_sequence, reverse=True)
        return [active_task(Listed(ref, view)) for ref, view in tasks]

    def apply(self, update: LoggedEvent) -> bool:
        """Apply an event; return True if it changes the list. Repeating is safe."""
        before = self._views.get(update.ref)
        view = fold(before, update.stored)
        if view is None or not view.project or view is before:
            return False
        return self._put(update.ref, view)

    def returns(self, update: LoggedEvent) -> bool:
        """Return True if an event may make a task active again that is not in the list: its view must be read."""
        return update.ref not in self._views and isinstance(update.event, TaskQueued | TaskHeld)

    def put(self, listed: Listed) -> bool:
        """Add a task that was read; return True if it is active."""
        return bool(listed.view.project) and self._put(*listed)

    def _put(self, ref: TaskRef, view: TaskView) -> bool:
        if view.status in ACTIVE and not view.deleted:
            self._views[ref] = view
            return True
        return self._views.pop(ref, None) is not None


async def active_lines(container: Container, start: StartingTasks) -> AsyncGenerator[bytes, None]:
    """Yield the list of active tasks, and again at each change.

    A client that reads slowly gets fewer lists, always the latest. Ends when the log cannot be read.
    """
    tasks = ActiveTasks(start.tasks)
    changed = asyncio.Event()
    follower = asyncio.create_task(_follow(container, start, tasks, changed), name="active-tasks")
    follower.add_done_callback(lambda _: changed.set())
    is_first = True
    try:
        while True:
            yield block(_encode({"type": "active_tasks", "tasks": tasks.shown()}), is_first=is_first)
            is_first = False
            await asyncio.sleep(PAUSE_SECONDS)
            while not changed.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await changed.wait()
                        break
                yield HEARTBEAT
            if follower.done():
                return
            changed.clear()
    finally:
        follower.cancel()
        await asyncio.wait([follower])


async def _follow(container: Container, start: StartingTasks, tasks: ActiveTasks, changed: asyncio.Event) -> None:
    with contextlib.suppress(StoreError):
        async for item in container.feeds.feed(start.scope, start.place, HEARTBEAT_SECONDS, in_log=True):
            if item is None or not isinstance(item.what, LoggedEvent):
                continue
            has_changed = tasks.apply(item.what)
            if tasks.returns(item.what):
                for listed in await container.tasks.views([item.what.ref]):
                    has_changed |= tasks.put(listed)
            if has_changed:
                changed.set()


async def event_lines(container: Container, start: StartingTasks) -> AsyncGenerator[bytes, None]:
    """Yield progress and log lines of a user's tasks, first the progress of those that are active."""
    for listed in reversed(start.tasks[:MOST_PRESENT]):
        yield _line(_present(listed))
    yield HEARTBEAT
    with contextlib.suppress(StoreError):
        async for item in container.feeds.feed(start.scope, start.place, HEARTBEAT_SECONDS, in_log=True):
            if item is None:
                yield HEARTBEAT
            elif item.what is not None:
                about = await container.task_attributes.of(item.what)
                if about.project:
                    task = {"taskId": item.what.ref.id, "taskType": about.task_type, "projectName": about.project}
                    for message in _messages(item.what):
                        yield _line(message | task)


def _present(listed: Listed) -> dict[str, Any]:
    ref, view = listed
    about = {"taskId": ref.id, "taskType": view.task_type, "projectName": view.project}
    return _progress(STATUS[view.status], percent(view), view.message, milliseconds(view.updated_at)) | about


def _messages(update: LoggedEvent | LiveEvent) -> Iterator[dict[str, Any]]:
    about = update.stored.recorded if isinstance(update, LoggedEvent) else update.report
    at, event = milliseconds(about.at), about.event
    match event:
        case ProgressReported():
            chapter = read_chapter(event.custom_data)
            reached = None if event.progress is None else int(event.progress)
            numbered = {} if chapter is None else {"chapterIndex": chapter.number}
            yield _progress("processing", reached, event.message, at) | numbered
            for line in event.lines:
                yield _log("info", line, at)
        case AttemptStarted():
            yield _progress("processing", None, None, at)
            yield _log("info", "Task started", at)
        case _:
            yield from _end(event, at)


def _end(event: TaskEvent, at: int) -> Iterator[dict[str, Any]]:
    match event:
        case TaskSucceeded():
            yield _progress("completed", 100, COMPLETED, at)
            yield _log("info", COMPLETED, at)
        case TaskFailed():
            yield _progress("failed", None, None, at) | {"error": event.error}
            yield _log("error", event.error, at)
        case TaskCancelled():
            yield _progress("failed", None, None, at) | {"error": event.reason}
            yield _log("error", event.reason, at)
        case _:
            pass


def _progress(status: str, reached: int | None, message: str | None, at: int) -> dict[str, Any]:
    """Return a message about progress; of what is not known, null."""
    return {"type": "progress", "status": status, "progress": reached, "message": message, "timestamp": at}


def _log(level: str, message: str, at: int) -> dict[str, Any]:
    return {"type": "log", "level": level, "message": message, "timestamp": at}


def _line(message: dict[str, Any]) -> bytes:
    return block(_encode(message))
