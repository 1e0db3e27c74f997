"""The body of a submission, and the rules of its task type.

A body has one of two forms: the full form, with a payload and options, or the short form of older clients, in which the
whole object is the payload. `read_task` reads either; `TypeRules` then applies the settings of the task type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from ..clock import utc_now
from ..commands.task_type import DEFAULT_POOL, DEFAULT_TYPE
from ..errors import InvalidInput
from ..events.envelope import NULL
from ..events.ids import owner_token
from ..events.server import LONGEST_MODEL
from ..events.task import (
    BUSY_FOR,
    NO_PLAN,
    FacadeRequest,
    ModelChoice,
    ParentFailure,
    Plan,
    Priority,
    RetryPolicy,
    TaskSubmitted,
)
from ..events.task_type import TypeDefined
from ..files.references import PLACEHOLDER, SIGN, referenced, replaced
from ..projections.fleet import Fleet
from ..settings import Settings
from ..wire.fields import TASK_ID_PATTERN, DurationSeconds, Instant, Labels, Name, instant
from ..wire.json_text import deeper_than, half_surrogate
from ..wire.trace import NO_CONTEXT, TraceContext
from ..wire.validation_errors import invalid, malformed
from .choice import model_in, session_in
from .payload_schema import PayloadSchema

SCHEMA_CACHE = 256
"""Compiled payload schemas kept in memory. When there are more, all are compiled again as they are needed."""
POLICY_CACHE = 1_024
"""Retry policies kept in memory, likewise."""
LONGEST_INDEXED = 200
"""Characters of a searchable value."""
WHOLE_FLOATS = 2**53
"""Up to here every whole number has a float of its own."""
LONGEST_DELAY_SECONDS = 366 * 86_400
LONGEST_TIMEOUT = timedelta(days=7)
TaskIdText = Annotated[str, Meta(pattern=TASK_ID_PATTERN)]


def fingerprint(body: bytes) -> str:
    """Return a digest of a body: two submissions with the same digest are the same request."""
    return hashlib.sha256(body).hexdigest()


class Submission(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The full form: a payload and options."""

    payload: Raw
    """The task's input: any JSON that its type allows."""
    type: Name = DEFAULT_TYPE
    priority: Priority | None = None
    """By default the priority of the type."""
    timeout: DurationSeconds | None = None
    """Seconds one attempt may take."""
    attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    """Attempts in all, including the first."""
    run_at: Instant | None = None
    """The earliest start. Milliseconds since the epoch or ISO 8601, like every instant here."""
    delay: Annotated[float, Meta(ge=0, le=LONGEST_DELAY_SECONDS, extra={"unit": "seconds"})] | None = None
    """Seconds from now to the earliest start. Use this or `runAt`."""
    expires_at: Instant | None = None
    """The latest start. A task that still waits then fails."""
    deadline: Instant | None = None
    """The latest end. A task that has not ended by then fails, wherever it is."""
    depends_on: Annotated[list[TaskIdText], Meta(max_length=1_000)] = []
    """Ids of tasks of the same owner that must end first. The server of this task receives their results."""
    on_parent_failure: ParentFailure = "fail"
    """What happens to this task when a task it depends on does not succeed."""
    concurrency_key: Annotated[str, Meta(max_length=128)] = ""
    """Tasks of the same owner, type and key share one concurrency limit, which the type sets."""
    prefer: Labels = {}
    """Labels of the servers that should run the task if one is free."""
    require: Labels = {}
    """Labels a server must have to run the task."""

    def plan(self, now: datetime) -> Plan | None:
        """Return when, after what and where the task may run, None for no conditions. Raises InvalidInput."""
        given = (
            self.run_at,
            self.delay,
            self.expires_at,
            self.deadline,
            self.depends_on,
            self.on_parent_failure,
            self.concurrency_key,
            self.prefer,
            self.require,
        )
        if given == NO_CONDITIONS:
            return None
        if self.run_at is not None and self.delay is not None:
            raise InvalidInput("send `runAt` or `delay`, not both", "$.delay")
        not_before = instant(self.run_at, "$.runAt") if self.delay is None else now + timedelta(seconds=self.delay)
        expires_at, ends_by = instant(self.expires_at, "$.expiresAt"), instant(self.deadline, "$.deadline")
        for name, last in (("expiresAt", expires_at), ("deadline", ends_by)):
            if last is not None and last <= max(now, not_before or now):
                earliest = "now" if not_before is None or not_before <= now else "the earliest start"
                raise InvalidInput(f"must be later than {earliest}", f"$.{name}")
        plan = Plan(
            not_before=not_before if not_before is not None and not_before > now else None,
            expires_at=expires_at,
            ends_by=ends_by,
            depends_on=tuple(dict.fromkeys(self.depends_on)),
            on_parent_failure=self.on_parent_failure,
            concurrency_key=self.concurrency_key,
            prefer=self.prefer,
            require=self.require,
        )
        return plan if plan != NO_PLAN else None


NO_CONDITIONS: tuple[object, ...] = (None, None, None, None, [], "fail", "", {}, {})
"""The options that `Submission.plan` reads, of most submissions."""
OPTIONS = frozenset(field.encode_name for field in msgspec.structs.fields(Submission))
"""Names that mark a body as the full form. A body with none of them is a payload as a whole."""

_full = msgspec.json.Decoder(Submission)


class TaskRequest(Struct, frozen=True, kw_only=True):
    """A task as its submitter asks for it, before the rules of its type apply."""

    owner: str
    """The `sub` of the owner's token."""
    submission: Submission
    payload: Any
    """The payload of `submission`, decoded."""
    payload_path: str = "$.payload"
    """Where the payload is in what the caller sent; `$` in the short form."""
    fingerprint: str
    """Compared only with those of repeatable tasks; may be empty for any other."""
    repeatable: bool
    """The same task id again with the same fingerprint is the same task; with another, it is a conflict."""
    batch: str = ""
    batch_size: int = 0
    schedule: str = ""
    """Id of the recurring schedule that submits the task."""
    project: str = ""
    """Project of the queue surface, with the model to use and the name of its sealed key."""
    in_turn: bool = False
    """The owner's tasks of this type and project run one after another."""
    model: ModelChoice | None = None
    key_id: str = ""
    trace: TraceContext = NO_CONTEXT
    """Of the request that asks for it."""
    facade: FacadeRequest | None = None
    """The request of another service's API that it was; None: it was none."""
    units: int = 1
    """Units of work in the task. An attempt may take the timeout of the type once for each, at most a week."""


def read_task(
    body: bytes,
    owner: str,
    max_depth: int,
    *,
    repeatable: bool,
    schedule: str = "",
    trace: TraceContext = NO_CONTEXT,
) -> TaskRequest:
    """Return what a body asks for. Raises InvalidInput with the path of what is wrong."""
    content = parse_json_object(body, max_depth)
    submission, payload, payload_path = read_submission(content, body)
    return TaskRequest(
        owner=owner,
        submission=submission,
        payload=payload,
        payload_path=payload_path,
        fingerprint=fingerprint(body) if repeatable else "",
        repeatable=repeatable,
        schedule=schedule,
        trace=trace,
    )


class TypeRules:
    """The settings of task types, applied to submissions: payload schema, pool, and defaults for options left out."""

    def __init__(self, settings: Settings, fleet: Fleet, now: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._fleet = fleet
        self._now = now
        self._schemas: dict[bytes, PayloadSchema | InvalidInput] = {}
        self._policies: dict[tuple[str, float | None, int | None, int], tuple[TypeDefined, RetryPolicy]] = {}
        """With the settings of the type that each was made of."""

    def submitted(self, request: TaskRequest) -> TaskSubmitted:
        """Return the event that submits the task of a request.

        Raises InvalidInput for a payload that breaks the type's schema, and for instants that have passed.
        """
        submission = request.submission
        definition = self._fleet.type_state(submission.type).definition
        text = bytes(submission.payload)
        files: tuple[str, ...] = ()
        if SIGN in text:
            files = referenced(request.payload, text, owner_token(request.owner), request.payload_path)
        if definition and definition.payload_schema != NULL:
            self._check(request, bytes(definition.payload_schema), text, has_files=bool(files))
        own = definition or TypeDefined(name=submission.type, pool=DEFAULT_POOL)
        plan = submission.plan(self._now())
        if request.in_turn:
            plan = replace(plan or NO_PLAN, project=request.project)
        if self._fleet.chooses_by_model(own.name) and (model := _model_of(request)):
            plan = replace(plan or NO_PLAN, model=model)
        if own.session_affinity and (session := session_in(request.payload, request.owner)):
            plan = replace(plan or NO_PLAN, session=session)
        return TaskSubmitted(
            owner=request.owner,
            task_type=submission.type,
            payload=submission.payload,
            pool=own.pool,
            priority=submission.priority or own.priority,
            policy=self._policy_of(own, submission.timeout, submission.attempts, request.units),
            fingerprint=request.fingerprint if request.repeatable else "",
            project=request.project,
            model=request.model,
            key_id=request.key_id,
            plan=plan,
            batch=request.batch,
            batch_size=request.batch_size,
            schedule=request.schedule,
            trace=request.trace.parent,
            trace_state=request.trace.state,
            files=files,
            indexed=indexed_values(own.indexed, request.payload),
            facade=request.facade,
        )

    def _policy_of(self, own: TypeDefined, timeout: float | None, attempts: int | None, units: int) -> RetryPolicy:
        """Return the policy of a task with these options; the same one for most tasks of a type."""
        key = (own.name, timeout, attempts, units)
        definition, policy = self._policies.get(key, (None, None))
        if policy is None or definition != own:
            if len(self._policies) >= POLICY_CACHE:
                self._policies.clear()
            policy = self._policy(own, timeout, attempts, units)
            self._policies[key] = own, policy
        return policy

    def _policy(self, own: TypeDefined, seconds: float | None, attempts: int | None, units: int) -> RetryPolicy:
        settings = self._settings
        chosen = timedelta(seconds=seconds) if seconds else own.timeout
        timeout = chosen or timedelta(seconds=settings.attempt_timeout)
        timeout = min(timeout * units, max(timeout, LONGEST_TIMEOUT))
        longer = timedelta(seconds=settings.callback_timeout)
        return RetryPolicy(
            attempts=attempts or own.attempts or settings.attempts,
            backoff_base=own.backoff_base or timedelta(seconds=settings.retry_base),
            backoff_cap=own.backoff_cap or timedelta(seconds=settings.retry_cap),
            timeout=timeout,
            busy_for=own.busy_for or BUSY_FOR,
            callback_timeout=longer if chosen is None and longer > timeout else None,
        )

    def _check(self, request: TaskRequest, schema: bytes, text: bytes, *, has_files: bool) -> None:
        """Raise InvalidInput for a payload that breaks the schema of its type, or that cannot be checked by it.

        The schema is of what the server gets: a URL in the place of a file.
        """
        found = self._schemas.get(schema)
        if found is None:
            if len(self._schemas) >= SCHEMA_CACHE:
                self._schemas.clear()
            found = self._schemas[schema] = _compiled(schema)
        if isinstance(found, InvalidInput):
            raise InvalidInput(
                "has a schema that no payload can be checked by, from an earlier version of this service; an admin "
                f"must PUT the type again with another one: {found.path}: {found.detail}",
                "$.type",
            )
        payload = request.payload
        if has_files:
            text = replaced(text, lambda file_id: f"{PLACEHOLDER}{file_id}")
            payload = msgspec.json.decode(text)
        found.check(payload, text, request.payload_path)


def _model_of(request: TaskRequest) -> str:
    """Return the model that the payload of a task names, else the one that its submitter chose; empty: none."""
    chosen = request.model.model if request.model else ""
    return model_in(request.payload) or (chosen if len(chosen) <= LONGEST_MODEL else "")


def indexed_values(paths: Sequence[str], payload: Any) -> dict[str, str]:
    """Return the values of a payload's searchable fields, as text, by path without `$.`.

    Without what is missing, and what is neither a number, true, false, nor text of at most LONGEST_INDEXED characters.
    """
    found: dict[str, str] = {}
    for path in paths:
        value = payload
        names = path.removeprefix("$.")
        for name in names.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        text = value if isinstance(value, str) else _as_text(value)
        if text is not None and len(text) <= LONGEST_INDEXED:
            found[names] = text
    return found


def _as_text(value: Any) -> str | None:
    """Return a number, true or false as JSON, a whole number without a point; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE_FLOATS:
        value = int(value)
    return msgspec.json.encode(value).decode() if isinstance(value, bool | int | float) else None


def _compiled(schema: bytes) -> PayloadSchema | InvalidInput:
    """Return a schema of the log, compiled; the error of one that could not be defined any more."""
    try:
        return PayloadSchema(msgspec.json.decode(schema))
    except InvalidInput as error:
        return error


def read_submission(
    content: dict[str, Any], body: bytes, full: msgspec.json.Decoder[Any] = _full
) -> tuple[Submission, Any, str]:
    """Return the submission in a body, its payload decoded, and the path of the payload. Raises InvalidInput.

    `content`: the body, decoded. `full`: reads the full form.
    """
    named = OPTIONS & content.keys()
    if not named:
        return Submission(payload=Raw(body.strip())), content, "$"
    if "payload" not in content:
        raise InvalidInput(
            f"the body has the option {min(named)!r} but no `payload`; send the task's input as `payload`, "
            "or leave out all options to have the whole body taken as the payload",
            "$.payload",
        )
    try:
        return full.decode(body), content["payload"], "$.payload"
    except msgspec.ValidationError as error:
        raise invalid(error, full.type) from None


def parse_json_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the JSON object in a body. Raises InvalidInput for anything else, and for too many levels of nesting."""
    if not body.strip():
        raise InvalidInput("the body is empty; send a JSON object")
    return as_object(parse_json(body, "body", max_depth), body, max_depth)


def as_object(content: Any, body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the content of a body if it is an object of no more than `max_depth` levels. Raises InvalidInput."""
    if not isinstance(content, dict):
        raise InvalidInput("the body must be a JSON object", "$")
    if deeper_than(max_depth, body):
        raise InvalidInput(f"the body is nested deeper than {max_depth} levels")
    return content


def parse_json(text: bytes, what: str, max_depth: int) -> Any:
    """Return the value of a JSON text. Raises InvalidInput, also for nesting beyond what the decoder can take.

    `what`: what the text is, for the error.
    """
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise InvalidInput(f"the {what} is nested deeper than {max_depth} levels") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(text, error, what) from None


def _unreadable(text: bytes, error: msgspec.DecodeError | UnicodeDecodeError, what: str) -> InvalidInput:
    """Return the error about a text that is not JSON, with the place in the whole text."""
    try:
        text.decode()
    except UnicodeDecodeError as in_text:
        return malformed(in_text, what)
    if (place := half_surrogate(text)) is not None:
        problem = f"half of a surrogate pair at byte {place}; send the whole character"
        return InvalidInput(f"the {what} is not valid JSON: {problem}")
    return malformed(error, what)
