"""Tasks: submitted, waited for, followed, commanded, found."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from ..core import Core, as_list, given, path_of
from ..errors import ApiError, BadAnswer, TaskCancelled, TaskFailed, WaitTimeout
from ..flow import Emit, Flow
from ..models import (
    BulkDone,
    Count,
    NewTask,
    Priority,
    RecordedEvent,
    RefusedTasks,
    Status,
    Task,
    Why,
    convert,
)
from ..progress import Bar, bar_of
from ..updates import Update
from .call import Async, Part, Sync, call, emits_updates, iterates

WAIT_SECONDS = 30
"""How long the service holds one request of a wait open."""
CANCEL_SECONDS = 5.0
"""How long leaving `run` may take to cancel its task."""

Instants = datetime.datetime
Progressed = bool | Callable[[Update], object]
"""True: a bar in the terminal or notebook. A function gets each update."""


def submit(core: Core, task: NewTask, key: str | None, timeout: float | None) -> Flow[Task]:
    """Submit a task. The key is the same for all tries, so that it is submitted once."""
    headers = {"Idempotency-Key": core.new_key() if key is None else key}
    answer = yield from core.ask("POST", "/api/task", body=task, headers=headers, timeout=timeout)
    return task_of(answer)


def wait(core: Core, task_id: str, timeout: float | None) -> Flow[Task]:
    """Wait for the end of a task, over outages of the service. Raises WaitTimeout and ApiError."""
    give_up_at = math.inf if timeout is None else core.clock() + timeout
    path = path_of("task", task_id)
    while True:
        left = max(0.0, give_up_at - core.clock())
        seconds = min(WAIT_SECONDS, math.ceil(left)) if timeout is not None else WAIT_SECONDS
        task = task_of(
            (
                yield from core.ask(
                    "GET",
                    path,
                    query={"wait": seconds},
                    timeout=max(min(core.patience, left), core.timeout),
                    seconds=seconds + 15.0,
                )
            )
        )
        if task.ended:
            return task
        if core.clock() >= give_up_at:
            raise WaitTimeout(task_id, timeout or 0.0, task.status)


def watch(core: Core, task_id: str, timeout: float | None, shown: Callable[[Update], object]) -> Flow[Task]:
    """Wait for the end of a task, and show each update since its submission. Raises WaitTimeout and ApiError."""
    give_up_at = math.inf if timeout is None else core.clock() + timeout
    updates = core.follow(path_of("task", task_id, "stream"), task_id, query={}, after="0", ends=True, until=give_up_at)
    outcome: Any = None
    error: BaseException | None = None
    status = "WAITING"
    while True:
        try:
            effect = updates.send(outcome) if error is None else updates.throw(error)
        except StopIteration:
            break
        outcome = error = None
        if isinstance(effect, Emit):
            status = getattr(effect.item, "status", status)
            shown(effect.item)
        else:
            try:
                outcome = yield effect
            except GeneratorExit:
                updates.close()
                raise
            except BaseException as raised:
                error = raised
        if core.clock() >= give_up_at:
            updates.close()
            raise WaitTimeout(task_id, timeout or 0.0, status)
    return task_of((yield from core.ask("GET", path_of("task", task_id), timeout=core.patience)))


def cancel_quietly(core: Core, task_id: str, reason: str) -> Flow[None]:
    """Cancel a task if that is possible at once: for callers that are leaving."""
    try:
        yield from core.ask(
            "POST",
            path_of("task", task_id, "cancel"),
            body={"reason": reason},
            timeout=CANCEL_SECONDS,
            seconds=CANCEL_SECONDS,
            shielded=True,
        )
    except (ApiError, BadAnswer):
        return


def command(core: Core, task_id: str, name: str, reason: str, timeout: float | None) -> Flow[Task]:
    answer = yield from core.ask("POST", path_of("task", task_id, name), body={"reason": reason}, timeout=timeout)
    return task_of(answer)


def task_of(answer: Any) -> Task:
    """Return the task of an answer. Raises BadAnswer."""
    if not isinstance(answer, dict) or "taskDetails" not in answer:
        raise BadAnswer("the answer has no `taskDetails`: does TASKSTREAM_URL lead to Taskstream?")
    return convert(answer["taskDetails"], Task)


def succeeded(task: Task) -> Task:
    """Return a task that has succeeded. Raises TaskFailed and TaskCancelled."""
    if task.status == "FINISHED":
        return task
    if task.status == "CANCELLED":
        raise TaskCancelled(f"task {task.id} was cancelled{f': {task.error}' if task.error else ''}", task)
    kind = f" ({task.failure_kind})" if task.failure_kind else ""
    raise TaskFailed(
        f"task {task.id} failed{kind} in attempt {task.attempt} of {task.attempts}: {task.error or 'no reason given'}. "
        f"tasks.events({task.id!r}) has its history, retry({task.id!r}) runs it again",
        task,
    )


def new_task(  # the options of a submission, in one place
    type: str,  # noqa: A002 - as the service has it
    payload: Any,
    *,
    priority: Priority | None,
    attempt_timeout: float | None,
    attempts: int | None,
    run_at: Instants | None,
    delay: float | None,
    expires_at: Instants | None,
    deadline: Instants | None,
    depends_on: Sequence[str],
    on_parent_failure: Literal["fail", "skip", "run"],
    concurrency_key: str | None,
    require: Mapping[str, str] | None,
    prefer: Mapping[str, str] | None,
) -> NewTask:
    return NewTask(
        type=type,
        payload=payload,
        priority=priority,
        attempt_timeout=attempt_timeout,
        attempts=attempts,
        run_at=run_at,
        delay=delay,
        expires_at=expires_at,
        deadline=deadline,
        depends_on=list(depends_on),
        on_parent_failure=on_parent_failure,
        concurrency_key=concurrency_key,
        require=dict(require or {}),
        prefer=dict(prefer or {}),
    )


class RunCalls(Part):
    """The calls that most programs need."""

    @call
    def submit(
        self,
        type: str,  # noqa: A002
        payload: Any,
        *,
        priority: Priority | None = None,
        attempt_timeout: float | None = None,
        attempts: int | None = None,
        run_at: Instants | None = None,
        delay: float | None = None,
        expires_at: Instants | None = None,
        deadline: Instants | None = None,
        depends_on: Sequence[str] = (),
        on_parent_failure: Literal["fail", "skip", "run"] = "fail",
        concurrency_key: str | None = None,
        require: Mapping[str, str] | None = None,
        prefer: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Flow[Task]:
        """Submit a task and return it as soon as it is on disk.

        The request has an `Idempotency-Key`, so a retry never submits twice. With a key of your own, the same call in
        another process, or after a crash, returns the same task.

        Args:
            type: The kind of work.
            payload: Any JSON. Dataclasses and msgspec Structs are encoded, too.
            priority: `high`, `normal` or `low`; default: the type's.
            attempt_timeout: Seconds that one attempt may take.
            attempts: Attempts in all, the first included.
            run_at: Earliest start. Instants need a time zone.
            delay: Seconds from now to the earliest start.
            expires_at: Latest start.
            deadline: Latest end.
            depends_on: Ids of tasks that must end first.
            on_parent_failure: What happens if one of them does not succeed.
            concurrency_key: Tasks of one type and key share a limit.
            require: Labels that a server must have.
            prefer: Labels that a server should have.
            idempotency_key: 1 to 255 printable characters.
            timeout: Seconds for this call with its retries; default: the client's.

        Raises:
            Refused: The task is invalid; `path` of the error says where.
            RateLimited: A quota is used up, and stayed so for the whole timeout.
            Unavailable: The service is away. The task may have been submitted: repeat the call with the same key.
        """
        task = new_task(
            type,
            payload,
            priority=priority,
            attempt_timeout=attempt_timeout,
            attempts=attempts,
            run_at=run_at,
            delay=delay,
            expires_at=expires_at,
            deadline=deadline,
            depends_on=depends_on,
            on_parent_failure=on_parent_failure,
            concurrency_key=concurrency_key,
            require=require,
            prefer=prefer,
        )
        return (yield from submit(self._core, task, idempotency_key, timeout))

    @call
    def run(
        self,
        type: str,  # noqa: A002
        payload: Any,
        *,
        timeout: float | None = None,
        progress: Progressed = False,
        cancel_on_exit: bool = False,
        priority: Priority | None = None,
        attempt_timeout: float | None = None,
        attempts: int | None = None,
        run_at: Instants | None = None,
        delay: float | None = None,
        expires_at: Instants | None = None,
        deadline: Instants | None = None,
        depends_on: Sequence[str] = (),
        on_parent_failure: Literal["fail", "skip", "run"] = "fail",
        concurrency_key: str | None = None,
        require: Mapping[str, str] | None = None,
        prefer: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[Any]:
        """Submit a task, wait for its end, and return the data of its result.

        Args:
            type: The kind of work.
            payload: Any JSON.
            timeout: Seconds to wait for the end; None: without limit.
            progress: True shows a bar in the terminal or notebook; a function is called with each update since the
                submission.
            cancel_on_exit: What happens to the task if this call is left before its end: by Ctrl-C, by the
                cancellation of the asyncio task, by `timeout` or another error. False: it goes on. True: it is
                cancelled; that takes up to 5 s.
            priority, attempt_timeout, attempts, run_at, delay, expires_at, deadline, depends_on, on_parent_failure,
                concurrency_key, require, prefer, idempotency_key: As in `submit`.

        Raises:
            TaskFailed: The task failed for good; `task` of the error has all of it.
            TaskCancelled: Somebody cancelled it.
            WaitTimeout: It has not ended in time; `task_id` of the error is its id.
            ApiError: As `submit`.
        """
        core = self._core
        task = new_task(
            type,
            payload,
            priority=priority,
            attempt_timeout=attempt_timeout,
            attempts=attempts,
            run_at=run_at,
            delay=delay,
            expires_at=expires_at,
            deadline=deadline,
            depends_on=depends_on,
            on_parent_failure=on_parent_failure,
            concurrency_key=concurrency_key,
            require=require,
            prefer=prefer,
        )
        submitted = yield from submit(core, task, idempotency_key, None)
        bar: Bar | None = None
        try:
            if submitted.ended:
                return succeeded(submitted).data
            if progress is False:
                return succeeded((yield from wait(core, submitted.id, timeout))).data
            bar = bar_of(type) if progress is True else None
            shown = bar.show if bar is not None else progress
            ended = yield from watch(core, submitted.id, timeout, shown)  # type: ignore[arg-type]
            return succeeded(ended).data
        except (GeneratorExit, TaskFailed, TaskCancelled):
            raise
        except BaseException:
            if cancel_on_exit:
                yield from cancel_quietly(core, submitted.id, "its caller has left")
            raise
        finally:
            if bar is not None:
                bar.close()

    @call
    def wait(self, task_id: str, *, timeout: float | None = None) -> Flow[Task]:
        """Wait for the end of a task and return it, whatever its end is.

        The wait outlasts restarts of the service of up to `patience` seconds of the client.

        Raises:
            WaitTimeout: It has not ended after `timeout` seconds.
        """
        return (yield from wait(self._core, task_id, timeout))

    @emits_updates
    def stream(self, task_id: str, *, after: str | None = None) -> Flow[None]:
        """Iterate over the updates of a task: first its State, then what happens, up to its Ended.

        A connection that is cut is opened again after the last update: none comes twice, and none is missing. `after`
        is the `id` of an update: the stream goes on after it, without a State; `"0"`: the whole history.
        """
        path = path_of("task", task_id, "stream")
        yield from self._core.follow(path, task_id, query={}, after=after, ends=True)

    @call
    def cancel(self, task_id: str, *, reason: str = "", timeout: float | None = None) -> Flow[Task]:
        """Cancel a task and return it; one that is cancelled stays so. Raises Refused if it has ended otherwise."""
        return (yield from command(self._core, task_id, "cancel", reason, timeout))

    @call
    def retry(self, task_id: str, *, reason: str = "", timeout: float | None = None) -> Flow[Task]:
        """Run a failed or cancelled task again, with all its attempts, and return it."""
        return (yield from command(self._core, task_id, "retry", reason, timeout))


class TaskCalls(Part):
    """Tasks: read, found, commanded in bulk."""

    @call
    def get(self, task_id: str, *, timeout: float | None = None) -> Flow[Task]:
        """Return a task as it is now, with its payload and result."""
        return task_of((yield from self._core.ask("GET", path_of("task", task_id), timeout=timeout)))

    @iterates(Task)
    def list(
        self,
        *,
        status: Status | Iterable[Status] | None = None,
        type: str | Iterable[str] | None = None,  # noqa: A002
        pool: str | Iterable[str] | None = None,
        server: str | Iterable[str] | None = None,
        owner: str | None = None,
        batch: str | None = None,
        schedule: str | None = None,
        created_since: Instants | str | None = None,
        created_before: Instants | str | None = None,
        ended_since: Instants | str | None = None,
        ended_before: Instants | str | None = None,
        error: str | None = None,
        labels: Mapping[str, str] | None = None,
        payload: Mapping[str, str] | None = None,
        sort: str | None = None,
        limit: int | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Flow[None]:
        """Iterate over tasks, newest first. All filters must hold; `limit` ends the iteration.

        Pages are read one at a time, when their first task is wanted. `where` has further filters as the service
        names them, such as `{"kind": "timeout", "minRun": "5m"}`. Times may be relative: `"1h"` is an hour ago.
        """
        query = selection(
            status=status, type=type, pool=pool, server=server, owner=owner, batch=batch, schedule=schedule,
            createdSince=created_since, createdBefore=created_before, endedSince=ended_since, endedBefore=ended_before,
            error=error, sort=sort,
        )  # fmt: skip
        query |= {f"label.{name}": value for name, value in (labels or {}).items()}
        query |= {f"payload.{name}": value for name, value in (payload or {}).items()}
        yield from self._core.items("/api/tasks", "tasks", Task, {**query, **(where or {})}, limit=limit)

    @call
    def count(self, *, by: str | None = None, where: Mapping[str, Any] | None = None) -> Flow[Count]:
        """Return the number of tasks that match the filters in `where`; with `by`, also for each value of it."""
        answer = yield from self._core.ask("GET", "/api/tasks/count", query={"by": by, **(where or {})})
        return convert(answer, Count)

    @call
    def why(self, task_id: str) -> Flow[Why]:
        """Return why a task waits, or what became of it."""
        return convert((yield from self._core.ask("GET", path_of("task", task_id, "why"))), Why)

    @iterates(RecordedEvent)
    def events(self, task_id: str, *, bodies: bool = True) -> Flow[None]:
        """Iterate over a task's history, oldest event first. Without `bodies` it lacks payloads, results and output."""
        after: int | None = None
        while True:
            query = {"limit": 200, "after": after, "bodies": bodies}
            page = yield from self._core.ask("GET", path_of("task", task_id, "events"), query=query)
            for event in page["events"]:
                yield Emit(convert(event, RecordedEvent))
            after = page["nextAfter"]
            if after is None:
                return

    @emits_updates
    def stream(
        self,
        *,
        type: str | Iterable[str] | None = None,  # noqa: A002
        event: str | Iterable[str] | None = None,
        owner: str | None = None,
        after: str | None = None,
    ) -> Flow[None]:
        """Iterate over the updates of all your tasks, without end: first the States of those that have not ended.

        Cuts and restarts are handled as by `stream` of a task.
        """
        query = selection(type=type, event=event, owner=owner)
        yield from self._core.follow("/api/tasks/stream", "", query=query, after=after, ends=False)

    @call
    def cancel_many(
        self, ids: Iterable[str] | None = None, *, where: Mapping[str, Any] | None = None, reason: str = "",
        dry_run: bool = False,
    ) -> Flow[BulkDone]:  # fmt: skip
        """Cancel tasks by id, or all that match a filter, however many."""
        return (yield from bulk(self._core, "cancel", ids, where, reason, dry_run))

    @call
    def retry_many(
        self, ids: Iterable[str] | None = None, *, where: Mapping[str, Any] | None = None, reason: str = "",
        dry_run: bool = False,
    ) -> Flow[BulkDone]:  # fmt: skip
        """Run failed and cancelled tasks again, by id, or all that match a filter."""
        return (yield from bulk(self._core, "retry", ids, where, reason, dry_run))

    @call
    def delete_many(
        self, ids: Iterable[str] | None = None, *, where: Mapping[str, Any] | None = None, reason: str = "",
        dry_run: bool = False,
    ) -> Flow[BulkDone]:  # fmt: skip
        """Remove ended tasks from lists, by id, or all that match a filter."""
        return (yield from bulk(self._core, "delete", ids, where, reason, dry_run))


AT_ONCE = 1000
"""Tasks of one bulk command."""


def bulk(
    core: Core, name: str, ids: Iterable[str] | None, where: Mapping[str, Any] | None, reason: str, dry_run: bool
) -> Flow[BulkDone]:
    """Give a command to many tasks, in as many requests as it takes. Raises ValueError without tasks."""
    if (ids is None) == (where is None):
        raise ValueError("give `ids`, or a filter in `where`: one of the two")
    chosen = as_list(ids) or []
    bodies: list[dict[str, Any]] = (
        [{"ids": chosen[at : at + AT_ONCE]} for at in range(0, len(chosen), AT_ONCE)]
        if where is None
        else [{"filter": dict(where)}]
    )
    total = BulkDone(matched=0, done=0, unchanged=0, dry_run=dry_run)
    for body in bodies:
        cursor: str | None = None
        while True:
            asked = {**body, "reason": reason, "dryRun": dry_run, **given(cursor=cursor)}
            answer = yield from core.ask("POST", f"/api/tasks/{name}", body=asked)
            total = added(total, convert(answer, BulkDone))
            cursor = answer.get("nextCursor")
            if cursor is None:
                break
    return total


def added(one: BulkDone, other: BulkDone) -> BulkDone:
    """Return the sum of two answers."""
    refused = {each.reason: each for each in one.refused}
    for each in other.refused:
        before = refused.get(each.reason)
        refused[each.reason] = each if before is None else RefusedTasks(
            reason=each.reason, count=before.count + each.count, ids=before.ids + each.ids
        )  # fmt: skip
    return BulkDone(
        matched=one.matched + other.matched,
        done=one.done + other.done,
        unchanged=one.unchanged + other.unchanged,
        refused=list(refused.values()),
        dry_run=one.dry_run,
    )


def selection(**filters: Any) -> dict[str, Any]:
    """Return filters as parameters: what has several values as a list."""
    return {
        name: list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
        for name, value in filters.items()
        if value is not None
    }


class Tasks(TaskCalls, Sync):
    """Tasks: read, found, commanded in bulk."""


class AsyncTasks(TaskCalls, Async):
    """Tasks: read, found, commanded in bulk."""
