"""The tasks of the fake: what becomes of them, and their events."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import msgspec

from ..models import NewTask
from ..server.jobs import Busy, Failed, Reject

OPTIONS = {field.encode_name for field in msgspec.structs.fields(NewTask)}
DEFAULT_ATTEMPTS = 3
MOST_IN_BATCH = 1000
PARENT_FAILED = "parent_failed"


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, detail: str, path: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.path = path


class FakeJob:
    """An attempt, as the function of a test sees it: the same as a Job of `taskstream_client.server`."""

    def __init__(self, task: FakeTask, report: Callable[[dict[str, Any]], None]) -> None:
        self.id = task.id
        self.type = task.type
        self.payload = task.payload
        self.attempt = task.attempt
        self.cancelled = False
        self._report = report

    def check(self) -> None:
        """Do nothing: a task of the fake runs in one go, so nobody cancels it meanwhile."""

    def report(
        self,
        progress: float | None = None,
        message: str | None = None,
        *,
        output: str = "",
        log: str | None = None,
        custom_data: Any = None,
        data: Any = None,
    ) -> None:
        """Report progress to whoever follows the task."""
        lines = [log] if log else []
        event = {"progress": progress, "message": message, "output": output, "lines": lines, "custom_data": custom_data}
        self._report(event | ({"data": {"inline": data}} if data is not None else {}))


Work = Callable[[FakeJob], Any]


class FakeEvent(msgspec.Struct):
    """An event of a task."""

    sequence: int
    at: float
    event: dict[str, Any]

    def recorded(self) -> dict[str, Any]:
        """Return it as histories have it."""
        at = datetime.datetime.fromtimestamp(self.at, datetime.timezone.utc).isoformat()
        by = {"kind": "system", "id": "fake"}
        about = {"sequence": self.sequence, "id": f"event-{self.sequence}", "at": at, "by": by, "cause": ""}
        return {**about, "event": self.event}

    def pushed(self, task_id: str) -> dict[str, Any]:
        """Return it as streams have it."""
        return {"type": self.event["type"], "taskId": task_id, **self.recorded()}


class FakeTask(msgspec.Struct, kw_only=True):
    """A task."""

    id: str
    owner: str
    type: str
    payload: Any
    created_at: float
    attempts: int
    options: dict[str, Any]
    parents: list[str]
    due: float
    """When it may start."""
    batch: str | None = None
    index: int | None = None
    status: str = "WAITING"
    attempt: int = 0
    error: str | None = None
    failure_kind: str | None = None
    result: dict[str, Any] | None = None
    progress: float | None = None
    message: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    events: list[FakeEvent] = []

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.status in ("FINISHED", "FAILED", "CANCELLED")

    def details(self, *, bodies: bool) -> dict[str, Any]:
        """Return it as the API shows it."""
        shown = {
            "id": self.id,
            "status": self.status,
            "type": self.type,
            "priority": self.options.get("priority") or "normal",
            "owner": self.owner,
            "serverId": "fake" if self.attempt else None,
            "error": self.error,
            "failureKind": self.failure_kind,
            "progress": self.progress,
            "message": self.message,
            "attempt": self.attempt,
            "attempts": self.attempts,
            "createdAt": round(self.created_at * 1000),
            "updatedAt": round((self.ended_at or self.created_at) * 1000),
            "startedAt": None if self.started_at is None else round(self.started_at * 1000),
            "endedAt": None if self.ended_at is None else round(self.ended_at * 1000),
            "batchId": self.batch,
            "concurrencyKey": self.options.get("concurrencyKey"),
        }
        if bodies:
            shown |= {
                "request": self.payload,
                "result": self.result,
                "dependsOn": self.parents,
                "onParentFailure": self.options.get("onParentFailure", "fail"),
                "require": self.options.get("require", {}),
                "prefer": self.options.get("prefer", {}),
            }
        return shown


class Tasks:
    """All tasks of a fake."""

    def __init__(self, now: Callable[[], float], advance: Callable[[float], None]) -> None:
        self._now = now
        self._advance = advance
        self._sequence = 0
        self._made: dict[tuple[str, str, str], tuple[Any, Any]] = {}
        self.works: dict[str, Work] = {}
        self.all: dict[str, FakeTask] = {}

    def find(self, user: str, task_id: str) -> FakeTask:
        """Return a task of a user. Raises Refusal."""
        task = self.all.get(task_id)
        if task is None or task.owner != user:
            raise Refusal(404, f"there is no task {task_id}")
        return task

    def of_batch(self, user: str, batch_id: str) -> list[FakeTask]:
        """Return the tasks of a batch. Raises Refusal."""
        found = [task for task in self.all.values() if task.batch == batch_id and task.owner == user]
        if not found:
            raise Refusal(404, f"there is no batch {batch_id}")
        return found

    # Submit

    def submit(self, user: str, body: Any, key: str | None) -> FakeTask:
        """Add a task, unless the key has made it."""
        before = self._repeated("task", user, key, body)
        if before is not None:
            return self.all[before]
        task = self._add(user, self._checked(user, body, ""), None, None)
        self._remember("task", user, key, body, task.id)
        return task

    def submit_batch(self, user: str, body: Any, key: str | None) -> dict[str, Any]:
        """Add the tasks of a batch, all or none."""
        if not isinstance(body, list) or not 0 < len(body) <= MOST_IN_BATCH:
            raise Refusal(400, f"a batch has 1 to {MOST_IN_BATCH} tasks")
        before = self._repeated("batch", user, key, body)
        if before is not None:
            return {**before, "repeated": True}
        checked = [self._checked(user, each, f"item {index}: ", len(body)) for index, each in enumerate(body)]
        batch_id = f"fake-batch-{self._sequence + 1}~{user}"
        ids = [self._add(user, {**each, "dependsOn": []}, batch_id, index).id for index, each in enumerate(checked)]
        for task_id, given in zip(ids, checked, strict=True):
            parents = given.get("dependsOn", [])
            self.all[task_id].parents = [ids[parent] if isinstance(parent, int) else parent for parent in parents]
        answer = {"batchId": batch_id, "taskIds": ids, "repeated": False, "refused": []}
        self._remember("batch", user, key, body, answer)
        return answer

    def _repeated(self, kind: str, user: str, key: str | None, body: Any) -> Any:
        if key is None or (kind, user, key) not in self._made:
            return None
        earlier, made = self._made[kind, user, key]
        if earlier != body:
            raise Refusal(422, "this Idempotency-Key was used with another body")
        return made

    def _remember(self, kind: str, user: str, key: str | None, body: Any, made: Any) -> None:
        if key is not None:
            self._made[kind, user, key] = (body, made)

    def _checked(self, user: str, body: Any, item: str, batch_size: int = 0) -> dict[str, Any]:
        """Return a submission in its full form. Raises Refusal."""
        if not isinstance(body, dict):
            raise Refusal(400, f"{item}a task is an object")
        if not OPTIONS & body.keys():
            return {"payload": body}
        for name in body.keys() - OPTIONS:
            raise Refusal(400, f"{item}unknown option", f"$.{name}")
        if "payload" not in body:
            raise Refusal(400, f"{item}is required", "$.payload")
        try:
            msgspec.convert(body, NewTask)
        except msgspec.ValidationError as error:
            path = str(error).partition("`")[2].partition("`")[0].replace("$.attempt_timeout", "$.timeout")
            raise Refusal(400, f"{item}{error}", path or "$") from None
        if body.get("attempts") is not None and not 1 <= body["attempts"] <= 100:
            raise Refusal(400, f"{item}must be 1 to 100", "$.attempts")
        for parent in body.get("dependsOn", []):
            if isinstance(parent, int) and 0 <= parent < batch_size:
                continue
            if parent not in self.all or self.all[parent].owner != user:
                raise Refusal(400, f"{item}there is no task {parent}", "$.dependsOn")
        return body

    def _add(self, user: str, given: dict[str, Any], batch: str | None, index: int | None) -> FakeTask:
        run_at = given.get("runAt")
        due = datetime.datetime.fromisoformat(run_at.replace("Z", "+00:00")).timestamp() if run_at else self._now()
        task = FakeTask(
            id=f"fake-{self._sequence + 1}~{user}",
            owner=user,
            type=given.get("type", "default"),
            payload=given["payload"],
            created_at=self._now(),
            attempts=given.get("attempts") or DEFAULT_ATTEMPTS,
            options=given,
            parents=list(given.get("dependsOn", [])),
            due=due + (given.get("delay") or 0.0),
            batch=batch,
            index=index,
        )
        self.all[task.id] = task
        self._record(task, "TaskSubmitted", task_type=task.type, payload=task.payload)
        return task

    # Run

    def wait(self, task: FakeTask, seconds: float) -> None:
        """Run a task, and those it depends on; if it cannot run yet, move the clock by so many seconds at most."""
        if seconds <= 0 or task.ended:
            return
        self._run(task)
        if not task.ended:
            left = task.due - self._now()
            self._advance(min(seconds, left) if left > 0 else seconds)
            self._run(task)

    def run_all(self) -> None:
        """Run every task that can run now."""
        for task in list(self.all.values()):
            self._run(task)

    def _run(self, task: FakeTask) -> None:
        for parent_id in task.parents:
            parent = self.all[parent_id]
            self._run(parent)
            if not parent.ended:
                return
            if parent.status != "FINISHED" and not task.ended:
                self._lose_parent(task, parent)
        work = self.works.get(task.type) or self.works.get("")
        if task.ended or work is None or task.due > self._now():
            return
        task.status = "PROCESSING"
        task.started_at = self._now()
        while not task.ended:
            task.attempt += 1
            self._attempt(task, work)

    def _lose_parent(self, task: FakeTask, parent: FakeTask) -> None:
        rule = task.options.get("onParentFailure", "fail")
        text = f"task {parent.id}, which it depends on, is {parent.status}"
        if rule == "fail":
            self._fail(task, PARENT_FAILED, text)
        elif rule == "skip":
            self.cancel(task, text)

    def _attempt(self, task: FakeTask, work: Work) -> None:
        self._record(task, "AttemptStarted", attempt=task.attempt, server_id="fake")

        def report(event: dict[str, Any]) -> None:
            task.progress = task.progress if event["progress"] is None else event["progress"]
            task.message = event["message"] or task.message
            self._record(task, "ProgressReported", attempt=task.attempt, **event)

        try:
            data = msgspec.json.decode(msgspec.json.encode(work(FakeJob(task, report))))
        except Reject as error:
            self._fail(task, "rejected", str(error))
        except Busy:
            task.attempt -= 1
            self._advance(1.0)
        except Exception as error:
            text = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            if task.attempt >= task.attempts:
                self._fail(task, "error", text)
            else:
                at = datetime.datetime.fromtimestamp(self._now(), datetime.timezone.utc).isoformat()
                self._record(task, "AttemptFailed", attempt=task.attempt, kind="error", error=text, retry_at=at)
        else:
            task.result = {"data": data, "metadata": {"status": "FINISHED", "server_id": "fake"}}
            self._end(task, "FINISHED")
            self._record(task, "TaskSucceeded", attempt=task.attempt, result={"inline": task.result})

    def _fail(self, task: FakeTask, kind: str, error: str) -> None:
        task.failure_kind, task.error = kind, error
        self._end(task, "FAILED")
        self._record(task, "TaskFailed", attempt=task.attempt, kind=kind, error=error)

    # Commands

    def cancel(self, task: FakeTask, reason: str) -> None:
        """Cancel a task. Raises Refusal if it has ended otherwise."""
        if task.status == "CANCELLED":
            return
        if task.ended:
            raise Refusal(409, f"task {task.id} has ended: it is {task.status}")
        self._end(task, "CANCELLED")
        self._record(task, "TaskCancelled", attempt=task.attempt, reason=reason)

    def retry(self, task: FakeTask) -> None:
        """Let a failed or cancelled task run again. Raises Refusal if it has finished."""
        if task.status == "FINISHED":
            raise Refusal(409, f"task {task.id} has finished")
        if task.ended:
            task.status, task.attempt, task.due, task.ended_at = "WAITING", 0, self._now(), None
            task.error = task.failure_kind = None
            self._record(task, "TaskQueued", renewed=True)

    def _end(self, task: FakeTask, status: str) -> None:
        task.status = status
        task.ended_at = self._now()

    def _record(self, task: FakeTask, kind: str, /, **fields: Any) -> None:
        self._sequence += 1
        task.events = [*task.events, FakeEvent(self._sequence, self._now(), {"type": kind, **fields})]
