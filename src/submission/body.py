"""Reads the body of a submission: the full form, or the short one that older clients send."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

import jsonschema_rs
import msgspec
from msgspec import Meta, Raw, Struct

from ..clock import utc_now
from ..commands.task import SubmitTask
from ..commands.task_type import DEFAULT_POOL, DEFAULT_TYPE
from ..errors import InvalidInput
from ..events.envelope import NULL
from ..events.task import NO_PLAN, ParentFailure, Plan, Priority, RetryPolicy
from ..events.task_type import TypeDefined
from ..projections.fleet import Fleet
from ..settings import Settings
from ..wire.fields import TASK_ID_PATTERN, DurationSeconds, Instant, Labels, Name, instant
from ..wire.json_depth import deeper_than
from ..wire.validation_errors import invalid

SCHEMA_CACHE = 256
LONGEST_DELAY_SECONDS = 366 * 86_400
TaskIdText = Annotated[str, Meta(pattern=TASK_ID_PATTERN)]


def fingerprint(body: bytes) -> str:
    """Return what tells whether two submissions are the same."""
    return hashlib.sha256(body).hexdigest()


class Submission(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The full form: a payload and options."""

    payload: Raw
    """The task's input: any JSON that its type allows."""
    type: Name = DEFAULT_TYPE
    priority: Priority | None = None
    """By default that of the type."""
    timeout: DurationSeconds | None = None
    """Seconds one attempt may take."""
    attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    """Tries in all, the first included."""
    run_at: Instant | None = None
    """Not to be started before. Milliseconds since the epoch or ISO 8601, as the other instants."""
    delay: Annotated[float, Meta(ge=0, le=LONGEST_DELAY_SECONDS)] | None = None
    """Seconds; the same as a `runAt` so much later than now."""
    expires_at: Instant | None = None
    """Not to be started after: a task that still waits then fails."""
    deadline: Instant | None = None
    """To have ended by: a task that has not fails then, wherever it is."""
    depends_on: Annotated[list[TaskIdText], Meta(max_length=1_000)] = []
    """Ids of tasks of the same owner that must have ended before; their results are handed to this one."""
    on_parent_failure: ParentFailure = "fail"
    """What becomes of this task when one it depends on does not succeed."""
    concurrency_key: Annotated[str, Meta(max_length=128)] = ""
    """The owner's tasks of the type with the same key share a limit on how many run at once, which the type sets."""
    prefer: Labels = {}
    """Labels of the servers it had better run on."""
    require: Labels = {}
    """Labels of the only servers it may run on."""

    def plan(self, now: datetime) -> Plan | None:
        """Return when, after what and where the task may run. Raises InvalidInput for what cannot come true."""
        if self.run_at is not None and self.delay is not None:
            raise InvalidInput("give `runAt` or `delay`, not both", "$.delay")
        not_before = instant(self.run_at, "$.runAt") if self.delay is None else now + timedelta(seconds=self.delay)
        expires_at, ends_by = instant(self.expires_at, "$.expiresAt"), instant(self.deadline, "$.deadline")
        for name, last in (("expiresAt", expires_at), ("deadline", ends_by)):
            if last is not None and last <= max(now, not_before or now):
                before = "now" if not_before is None or not_before <= now else "the instant it may start at"
                raise InvalidInput(f"this must be later than {before}", f"$.{name}")
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


OPTIONS = frozenset(field.encode_name for field in msgspec.structs.fields(Submission))
"""Names that make a body the full form. A body with none of them is a payload as a whole."""


_full = msgspec.json.Decoder(Submission)


class SubmissionParser:
    """Turns bodies into commands, by the settings of their types."""

    def __init__(self, settings: Settings, fleet: Fleet, now: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._fleet = fleet
        self._now = now
        self._validators: dict[bytes, Any] = {}

    def parse(self, body: bytes, owner: str, *, repeatable: bool) -> SubmitTask:
        """Return the command. Raises InvalidInput naming what is wrong, and where."""
        content = parse_json_object(body, self._settings.max_json_depth)
        submission, in_payload = read_submission(content, body)
        payload = content["payload"] if in_payload else content
        return self.command(submission, payload, owner, body, repeatable=repeatable, in_payload=in_payload)

    def command(
        self,
        submission: Submission,
        payload: object,
        owner: str,
        body: bytes,
        *,
        repeatable: bool,
        in_payload: bool = True,
    ) -> SubmitTask:
        """Return the command for a submission, `payload` being its payload decoded and `body` all that was sent.

        Raises InvalidInput for a payload that its type does not allow; `in_payload`: it was sent as `payload`.
        """
        definition = self._fleet.type_state(submission.type).definition
        if definition and definition.payload_schema != NULL:
            self._check(bytes(definition.payload_schema), payload, in_payload=in_payload)
        settings = self._settings
        own = definition or TypeDefined(name=submission.type, pool=DEFAULT_POOL)
        timeout = timedelta(seconds=submission.timeout) if submission.timeout else own.timeout
        policy = RetryPolicy(
            attempts=submission.attempts or own.attempts or settings.attempts,
            backoff_base=own.backoff_base or timedelta(seconds=settings.retry_base),
            backoff_cap=own.backoff_cap or timedelta(seconds=settings.retry_cap),
            timeout=timeout or timedelta(seconds=settings.attempt_timeout),
        )
        return SubmitTask(
            owner=owner,
            task_type=submission.type,
            payload=submission.payload,
            pool=own.pool,
            priority=submission.priority or own.priority,
            policy=policy,
            fingerprint=fingerprint(body),
            repeatable=repeatable,
            plan=submission.plan(self._now()),
        )

    def _check(self, schema: bytes, payload: object, *, in_payload: bool) -> None:
        validator = self._validators.get(schema)
        if validator is None:
            if len(self._validators) >= SCHEMA_CACHE:
                self._validators.clear()
            validator = self._validators[schema] = compile_schema(msgspec.json.decode(schema))
        error = next(validator.iter_errors(payload), None)
        if error is not None:
            root = "$.payload" if in_payload else "$"
            rule = error.schema_path[-1] if error.schema_path else "schema"
            raise InvalidInput(f"{error.message} (rule `{rule}`)", root + _path(error.instance_path))


def compile_schema(schema: dict[str, Any]) -> Any:
    """Return a validator. Raises InvalidInput for what is no JSON Schema; nothing is fetched from anywhere."""
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse_to_fetch)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise InvalidInput(f"this is not a valid JSON Schema: {getattr(error, 'message', error)}", "$.schema") from None


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"references to other documents are not followed: {uri}")


def _path(steps: list[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def read_submission(
    content: dict[str, Any], body: bytes, full: msgspec.json.Decoder[Any] = _full
) -> tuple[Submission, bool]:
    """Return what a body, `content` decoded, asks for, and whether it is in the full form. Raises InvalidInput."""
    named = OPTIONS & content.keys()
    if not named:
        return Submission(payload=Raw(body.strip())), False
    if "payload" not in content:
        raise InvalidInput(
            f"the body names the option {min(named)!r} but no `payload`; send the task's input as `payload`, "
            "or leave the options out to have the whole body taken as the payload",
            "$.payload",
        )
    return decode_full(body, full), True


def decode_full(body: bytes, full: msgspec.json.Decoder[Any] = _full) -> Submission:
    try:
        submission: Submission = full.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error, full.type) from None
    return submission


def parse_json_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the JSON object that a body is. Raises InvalidInput for anything else, and for one nested too deep."""
    if not body.strip():
        raise InvalidInput("the body is empty; send a JSON object")
    content = parse_json(body, "body", max_depth)
    if not isinstance(content, dict):
        raise InvalidInput("the body must be a JSON object", "$")
    if deeper_than(max_depth, body, content):
        raise InvalidInput(f"the body is nested deeper than {max_depth} levels")
    return content


def parse_json(text: bytes, what: str, max_depth: int) -> Any:
    """Return what a text (`what` is it?) has as JSON. Raises InvalidInput; also for what is nested absurdly deep."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise InvalidInput(f"the {what} is nested deeper than {max_depth} levels") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the {what} is not valid JSON: {error}") from None
