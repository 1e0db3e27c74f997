"""What the service answers, as values. Unknown fields of later versions are ignored."""

from __future__ import annotations

import builtins
import datetime
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct, field

from .errors import BadAnswer

T = TypeVar("T")

Status = Literal["WAITING", "PROCESSING", "FINISHED", "FAILED", "CANCELLED"]
Priority = Literal["high", "normal", "low"]
ENDED = frozenset({"FINISHED", "FAILED", "CANCELLED"})


class Instant(datetime.datetime):
    """An instant in UTC."""


class TaskResult(Struct, kw_only=True):
    """What a task returned."""

    data: Any = None
    """The result; while the task runs, the data of the last report that had some."""
    metadata: dict[str, Any] = {}
    """`status`, `progress`, `message`, `custom_data` and others."""

    @property
    def files(self) -> list[ResultFile]:
        """The files within `data`, in the order of their places."""
        return list(_files(self.data))


class ResultFile(Struct, frozen=True):
    """A file in the place of a result, or within one."""

    path: str
    """`/api/task/{id}/result/file…`: what `results.download` takes."""
    media_type: str
    bytes: int


def _files(data: Any) -> Iterator[ResultFile]:
    if isinstance(data, dict):
        ref = data.get("$ref")
        if isinstance(ref, str) and "/result/file" in ref:
            yield ResultFile(ref, str(data.get("mediaType", "application/octet-stream")), int(data.get("bytes", 0)))
            return
        data = list(data.values())
    if isinstance(data, list):
        for each in data:
            yield from _files(each)


class Task(Struct, kw_only=True, rename="camel"):
    """A task. In lists, `payload`, `result`, `depends_on`, `prefer` and `require` are not filled."""

    id: str
    status: Status
    type: str = "default"
    priority: Priority = "normal"
    owner: str = ""
    server_id: str | None = None
    """The server that runs it, or ran it last."""
    error: str | None = None
    """Why the task or its last attempt failed."""
    failure_kind: str | None = None
    """The kind of failure in `error`: `rejected`, `timeout`, `unreachable` and others."""
    progress: float | None = None
    """Percent."""
    message: str | None = None
    attempt: int = 0
    """Number of the last attempt, from 1; 0 before the first."""
    attempts: int = 0
    """Attempts it gets in all."""
    created_at: Instant
    updated_at: Instant | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    next_attempt_at: Instant | None = None
    held: bool = False
    """True while it must wait before it is queued; `tasks.why` says for what."""
    run_at: Instant | None = None
    expires_at: Instant | None = None
    deadline: Instant | None = None
    concurrency_key: str | None = None
    batch_id: str | None = None
    schedule_id: str | None = None
    cancel_outcome: str | None = None
    """What became of the attempt that ran when it was cancelled."""
    payload: Any = field(default=None, name="request")
    depends_on: list[str] = []
    on_parent_failure: str = "fail"
    prefer: dict[str, str] = {}
    require: dict[str, str] = {}
    result: TaskResult | None = None
    """The result; while the task runs, its last report."""
    withheld: str | None = None
    """Why `payload` and `result` are not shown."""
    index: int | None = None
    """In a batch: its place, from 0."""

    @property
    def ended(self) -> bool:
        """Whether it has finished, failed, or been cancelled."""
        return self.status in ENDED

    @property
    def data(self) -> Any:
        """The result's data; None without a result."""
        return self.result.data if self.result is not None else None

    def data_as(self, kind: builtins.type[T]) -> T:
        """Return the result's data as a type: a dataclass, a Struct, a TypedDict and others. Raises BadAnswer."""
        try:
            return msgspec.convert(self.data, kind)
        except msgspec.ValidationError as error:
            raise BadAnswer(f"the result of task {self.id} is no {getattr(kind, '__name__', kind)}: {error}") from None


class NewTask(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """A task to be submitted: an item of a batch, or the task of a schedule."""

    type: str = "default"
    payload: Any
    """Any JSON, and what msgspec writes as JSON: dataclasses, Structs, datetimes."""
    priority: Priority | None = None
    attempt_timeout: float | None = field(default=None, name="timeout")
    """Seconds that one attempt may take."""
    attempts: int | None = None
    """Attempts in all."""
    run_at: datetime.datetime | None = None
    """Earliest start; with a time zone, as all instants."""
    delay: float | None = None
    """Seconds from now to the earliest start."""
    expires_at: datetime.datetime | None = None
    """Latest start."""
    deadline: datetime.datetime | None = None
    """Latest end."""
    depends_on: list[str | int] = []
    """Ids of tasks that must end first; in a batch also places of other items, from 0."""
    on_parent_failure: Literal["fail", "skip", "run"] = "fail"
    concurrency_key: str | None = None
    require: dict[str, str] = {}
    """Labels that a server must have."""
    prefer: dict[str, str] = {}


class RefusedItem(Struct, frozen=True, kw_only=True):
    """A task of a batch that was cancelled at once: its concurrency key is in use."""

    index: int
    """Its place among all items, from 0."""
    error: str


class SubmittedBatch(Struct, frozen=True, kw_only=True):
    """What became of `batch`."""

    batch_ids: list[str]
    """One for each 1,000 tasks."""
    task_ids: list[str]
    """In the order of the items."""
    refused: list[RefusedItem]
    repeated: bool
    """True: an earlier call with this key had submitted all of them."""


class Batch(Struct, frozen=True, kw_only=True, rename="camel"):
    """A batch as the service knows it: up to 1,000 tasks."""

    id: str
    size: int
    owner: str = ""
    counts: dict[str, int] | None = None
    """Tasks per status; in lists only if asked for, as `held`, `progress` and `done`."""
    held: int | None = None
    progress: float | None = None
    """Percent."""
    done: bool | None = None
    created_at: Instant | None = None
    updated_at: Instant | None = None
    ended_at: Instant | None = None


class RefusedTasks(Struct, frozen=True, kw_only=True):
    """Tasks that a bulk command refused for one reason."""

    reason: str
    count: int
    ids: list[str] = []


class BulkDone(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a command for many tasks did."""

    matched: int
    done: int
    unchanged: int
    """They were in that state already."""
    refused: list[RefusedTasks] = []
    dry_run: bool = False


class Count(Struct, frozen=True, kw_only=True):
    """A number of tasks."""

    count: int
    capped: bool = False
    """True: there are, or may be, more."""
    by: list[CountOf] | None = None


class CountOf(Struct, frozen=True, kw_only=True):
    """The number of tasks with one value."""

    value: str
    count: int
    capped: bool = False


class RecordedEvent(Struct, frozen=True, kw_only=True):
    """An event of a task's history."""

    sequence: int
    id: str
    at: Instant
    by: dict[str, str]
    cause: str = ""
    event: dict[str, Any] = {}
    """Its `type`, and the fields of the type."""

    @property
    def type(self) -> str:
        """The name of the event, such as `AttemptStarted`."""
        return str(self.event.get("type", ""))


class Why(Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a task waits, or what became of it."""

    task_id: str
    status: Status
    summary: str
    """In words."""
    held: bool = False
    holds: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    """How many servers cannot take it, by reason."""
    running: dict[str, Any] | None = None
    ended: dict[str, Any] | None = None
    last_error: str | None = None


class Schedule(Struct, frozen=True, kw_only=True, rename="camel"):
    """A task that is submitted again and again. In lists `task` and `next_runs` are not filled."""

    id: str
    cron: str
    time_zone: str = "UTC"
    owner: str = ""
    name: str = ""
    description: str = ""
    missed: str = "skip"
    catch_up: int = 1
    paused: bool = False
    pause_reason: str | None = None
    held_reason: str | None = None
    next_at: Instant | None = None
    next_runs: list[Instant] = []
    last_fired: dict[str, Any] | None = None
    last_failure: dict[str, Any] | None = None
    counts: dict[str, int] = {}
    task: Any = None
    created_at: Instant | None = None
    updated_at: Instant | None = None


class Preview(Struct, frozen=True, kw_only=True, rename="camel"):
    """When a cron expression fires."""

    words: str
    next_runs: list[Instant] = []
    local_times: list[str] = []
    warnings: list[str] = []


class Webhook(Struct, frozen=True, kw_only=True, rename="camel"):
    """A URL that gets the events of tasks."""

    id: str
    url: str
    owner: str = ""
    events: list[str] = []
    types: list[str] = []
    task_id: str | None = None
    description: str = ""
    active: bool = True
    disabled_reason: str | None = None
    paused_until: Instant | None = None
    created_at: Instant | None = None
    updated_at: Instant | None = None
    counts: dict[str, Any] | None = None
    lag_seconds: float | None = None


class WebhookSecret(Struct, frozen=True, kw_only=True, rename="camel"):
    """A webhook with its secret, which is shown only once: keep it."""

    webhook: Webhook
    secret: str
    previous_until: Instant | None = None
    """Until then deliveries are signed with the previous secret, too."""

    def __repr__(self) -> str:
        return f"WebhookSecret(webhook={self.webhook!r}, secret=…)"


class Delivery(Struct, frozen=True, kw_only=True, rename="camel"):
    """A message of a webhook."""

    id: str
    message_id: str
    type: str
    status: Literal["waiting", "delivered", "failed"]
    attempts: int = 0
    task_id: str | None = None
    sequence: int | None = None
    created_at: Instant | None = None
    next_attempt_at: Instant | None = None
    paused_until: Instant | None = None
    ended_at: Instant | None = None
    last_attempt: dict[str, Any] | None = None
    tries: list[dict[str, Any]] = []


class Server(Struct, frozen=True, kw_only=True, rename="camel"):
    """A registered server."""

    id: str
    status: str
    name: str = ""
    provider: str = ""
    mode: str = "push"
    endpoints: dict[str, Any] = {}
    is_async: bool = field(default=False, name="async")
    callback: bool = False
    types: list[str] = []
    max_concurrent: int = 10
    weight: int = 1
    labels: dict[str, str] = {}
    has_api_key: bool = False
    dialect: str | None = None
    model: str | None = None
    status_reason: str = ""
    status_since: Instant | None = None
    maintenance: bool = False
    maintenance_reason: str | None = None
    circuit: str = "closed"
    circuit_reason: str | None = None
    registered_at: Instant | None = None
    last_heartbeat: Instant | None = None
    active_tasks: int = 0
    current_limit: int | None = None
    open_asks: int | None = None


class TaskType(Struct, frozen=True, kw_only=True, rename="camel"):
    """A kind of work and its settings."""

    name: str
    defined: bool = True
    description: str = ""
    schema: Any = None
    attempts: int = 3
    timeout: float = 300.0
    priority: Priority = "normal"
    pool: str = "default"
    concurrency: int | None = None
    per_second: float | None = None
    burst: int | None = None
    key_concurrency: int = 1
    on_conflict: str = "wait"
    indexed: list[str] = []
    pause: dict[str, Any] | None = None
    own: dict[str, Any] | None = None
    """The settings that an admin has set."""


class StoredFile(Struct, frozen=True, kw_only=True, rename="camel"):
    """A file that the service keeps."""

    id: str
    name: str = ""
    media_type: str = "application/octet-stream"
    bytes: int = 0
    sha256: str = ""
    purpose: str = ""
    metadata: dict[str, str] = {}
    owner: str = ""
    task_id: str | None = None
    """The task whose attempt stored it."""
    created_at: Instant | None = None
    expires_at: Instant | None = None
    url: str = ""
    """Of its bytes; it needs a token."""

    @property
    def ref(self) -> dict[str, str]:
        """What a payload has in the place of the file: the server that runs the task gets a link there."""
        return {"$file": self.id}


class FileLink(Struct, frozen=True, kw_only=True, rename="camel"):
    """A URL under which anybody reads a file until it expires."""

    url: str
    expires_at: Instant


class ApiKey(Struct, frozen=True, kw_only=True, rename="camel"):
    """An API key, without its text."""

    id: str
    name: str = ""
    owner: str = ""
    status: str = "active"
    """`active`, `expired`, `revoked`, or `orphaned`: the key that made it has ended."""
    roles: list[str] = []
    types: list[str] = []
    servers: list[str] | None = None
    payloads: bool | None = None
    rate: float | None = None
    created_at: Instant | None = None
    expires_at: Instant | None = None
    last_used_at: Instant | None = None
    revoked_at: Instant | None = None
    reason: str = ""


class NewApiKey(Struct, frozen=True, kw_only=True):
    """A new key."""

    key: str
    """Its text, which is shown only this once: keep it."""
    details: ApiKey

    def __repr__(self) -> str:
        return f"NewApiKey(key=…, details={self.details!r})"


class Me(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the client's token is good for."""

    subject: str
    roles: list[str] = []
    expires_at: Instant | None = None
    server_time: Instant | None = None
    version: str = ""
    may: dict[str, Any] = {}


def decode_hook(kind: type, given: Any) -> Any:
    """Return what msgspec does not know: instants, which come as milliseconds since the epoch or as ISO 8601."""
    if kind is Instant:
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            return Instant.fromtimestamp(given / 1000, datetime.timezone.utc)
        if isinstance(given, str):
            return Instant.fromisoformat(given.replace("Z", "+00:00"))
    raise ValueError(f"no {kind.__name__}: {given!r}")


def convert(given: Any, kind: type[T]) -> T:
    """Return decoded JSON as a type. Raises BadAnswer."""
    try:
        return msgspec.convert(given, kind, dec_hook=decode_hook)
    except (msgspec.ValidationError, ValueError) as error:
        raise BadAnswer(f"the service answered something else than a {kind.__name__}: {error}") from None


def decode(text: bytes | str) -> Any:
    """Return JSON as plain values. Raises BadAnswer."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer(
            f"the answer is not JSON ({error}): does TASKSTREAM_URL lead to Taskstream, or to a proxy or a page?"
        ) from None


def encode(given: Any) -> bytes:
    """Return the JSON of a value. Raises TypeError for what has no form in JSON."""
    return msgspec.json.encode(given)
