"""Trials: one call of a server outside the queue, as admins ask for it, and what came of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, assert_never, cast

from msgspec import Meta, Raw, Struct

from ...backends.dialects.dialect import (
    Accepted,
    Answer,
    Busy,
    Completed,
    Failed,
    FailedByBackend,
    Unsent,
    Update,
)
from ...backends.trial import MOST_SHOWN_BYTES, ShownBody, ShownExchange, Trial
from ...events.envelope import NULL
from .detection import DetectAnswer
from .servers import RegisterBody
from .types import TypeName

LONGEST_TRIAL = 60
"""Seconds."""
MOST_UPDATES = 100
"""Updates of a trial that are shown, the first ones."""

TrialOutcome = Literal[
    "completed", "failed", "accepted", "busy", "rejected", "error", "timeout", "unreachable", "bad_answer", "unsent"
]  # fmt: skip


class TryBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One call of a server, outside the queue."""

    payload: Raw
    """As a task of this server would have it."""
    type: TypeName = "default"
    """Task type that the server is told, and whose dialect applies if the server has none."""
    timeout: Annotated[float, Meta(ge=0.1, le=LONGEST_TRIAL, extra={"unit": "seconds"})] = 30.0
    """Seconds until the call is given up."""


class TryUnregisteredBody(TryBody, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One call of a server that is not registered."""

    server: RegisterBody
    """What would register it."""


class CheckBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """A registration to check."""

    server: RegisterBody
    """What would register it."""
    reach: bool = True
    """False: no request is made; only the registration itself is checked."""


class HealthInfo(Struct, kw_only=True, rename="camel"):
    """One health check."""

    well: bool
    reason: str
    """What was answered, or why there was no answer."""
    latency_ms: float | None


class CheckAnswer(Struct, kw_only=True, rename="camel"):
    """What a registration would do."""

    id: str
    registered: bool
    """True: a server has this id, and would be replaced."""
    dialect: str | None
    """Wire format that would be spoken; null: that of the task's type, or none was found."""
    health_checked: bool
    """False: nothing asks the server for its health. It is online while it sends heartbeats, or its pullers ask."""
    health: HealthInfo | None
    """Null: it was not asked."""
    detected: DetectAnswer | None
    """With the dialect `auto`: what the server was found to speak. Null: it was not asked."""


class BodyInfo(Struct, kw_only=True):
    """A body, as far as it is shown. Keys are removed."""

    text: str | None
    """Its first 64 KiB; null: it is no text."""
    bytes: int
    """Its length, as far as it was read."""


class AnswerInfo(Struct, kw_only=True):
    """An answer of the server."""

    status: int
    headers: dict[str, str]
    body: BodyInfo


class ExchangeInfo(Struct, kw_only=True, rename="camel"):
    """A request, and its answer."""

    method: str
    url: str
    headers: dict[str, str]
    """Values of those that carry keys are removed."""
    body: BodyInfo
    after_ms: int
    """Milliseconds from the beginning of the trial until it was sent."""
    answer: AnswerInfo | None
    """Null: there was none."""
    error: str | None
    """Why there is no answer, or only a part of one."""


class UpdateInfo(Struct, kw_only=True, rename="camel"):
    """Progress that the server reported."""

    progress: float | None
    message: str | None
    output: str | None
    """A piece of streamed output."""
    lines: list[str]
    """Of the server's log."""
    custom_data: Any


class VerdictInfo(Struct, kw_only=True, rename="camel"):
    """What the call would have meant for a task."""

    outcome: TrialOutcome
    """`completed`: the task would be FINISHED. `failed`: FAILED, by the server's own word. `rejected`: FAILED, without
    another try. `accepted`: the server reports later, which a trial does not wait for. `busy`: the task waits, and
    no attempt is counted. `error`, `timeout`, `unreachable`, `bad_answer`: the attempt failed, and the task would be
    tried again. `unsent`: this process could not send."""
    reason: str | None
    """Null: it completed."""
    retry_after: float | None
    """Seconds that the server asks to be left alone."""
    result: Any
    """The TaskResult; null: there is none, or it is longer than 64 KiB."""
    result_bytes: int
    """Its length; 0: there is none."""
    notes: list[str]
    """What of the answer was left out, clamped or shortened."""


class TryAnswer(Struct, kw_only=True, rename="camel"):
    """What was sent to a server, what it answered, and what that means."""

    id: str
    dialect: str
    """The wire format that was spoken."""
    verdict: VerdictInfo
    duration_ms: int
    """Of the whole call."""
    exchanges: list[ExchangeInfo]
    """The requests, in order; at most 20."""
    exchanges_left_out: int
    """Further requests."""
    updates: list[UpdateInfo]
    """At most 100."""
    updates_left_out: int
    """Further updates."""
    cancelled: str | None
    """What came of the cancellation after a timeout: `confirmed`, `requested`, `unconfirmed`, `impossible`."""


def verdict_info(answer: Answer) -> VerdictInfo:
    """Return what an answer means."""
    result: bytes = b""
    notes: tuple[str, ...] = ()
    match answer:
        case Completed():
            outcome, reason, result, notes = "completed", "", answer.result, answer.notes
        case FailedByBackend():
            outcome, reason, result, notes = "failed", answer.error, answer.result, answer.notes
        case Accepted():
            outcome, reason = "accepted", "the server took the task and will report to its callback URL"
        case Busy():
            outcome, reason = "busy", answer.error
        case Unsent():
            outcome, reason = "unsent", answer.error
        case Failed():
            outcome, reason = answer.kind, answer.error
        case _:
            assert_never(answer)
    retry_after = answer.retry_after if isinstance(answer, Busy | Failed) else None
    return VerdictInfo(
        outcome=cast(TrialOutcome, outcome),
        reason=reason or None,
        retry_after=retry_after.total_seconds() if retry_after else None,
        result=Raw(result) if 0 < len(result) <= MOST_SHOWN_BYTES else None,
        result_bytes=len(result),
        notes=list(notes),
    )


def exchange_info(trial: Trial, shown: ShownExchange) -> ExchangeInfo:
    answer = shown.answer
    return ExchangeInfo(
        method=shown.method,
        url=shown.url,
        headers=shown.headers,
        body=_body_info(trial, shown.body),
        after_ms=shown.began_ms,
        answer=None
        if answer is None
        else AnswerInfo(status=answer.status, headers=answer.headers, body=_body_info(trial, answer.body)),
        error=shown.error or None,
    )


def _body_info(trial: Trial, body: ShownBody) -> BodyInfo:
    return BodyInfo(text=trial.text_of(body), bytes=body.length)


def update_info(update: Update) -> UpdateInfo:
    custom = bytes(update.custom_data)
    return UpdateInfo(
        progress=update.progress,
        message=update.message,
        output=update.output or None,
        lines=list(update.lines),
        custom_data=Raw(custom) if custom != bytes(NULL) and len(custom) <= MOST_SHOWN_BYTES else None,
    )
