"""Attempts of pulled servers, as pullers ask for them, get them and report on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from ...events.envelope import NULL
from ...instants import milliseconds
from ...pulling.attempts import AttemptAnswer
from ...pulling.requests import Taken, TakenAttempt
from ...wire.fields import Name, ServerName

LONGEST_WAIT = 60
MOST_TAKEN = 100
MOST_WATCHED = 100

_Wait = Annotated[float, Meta(ge=0, le=LONGEST_WAIT, extra={"unit": "seconds"})]
_Text = Annotated[str, Meta(max_length=2_000)]


class TakeBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a puller asks for."""

    server: ServerName
    """The server that the puller works for, registered with `mode: pull`."""
    types: Annotated[list[Name], Meta(max_length=100)] = []
    """Only tasks of these types; empty: of all that the server serves."""
    labels: Annotated[dict[Name, Annotated[str, Meta(max_length=256)]], Meta(max_length=50)] | None = None
    """The puller has only these of the server's labels, so it gets no task that requires another; null: all."""
    most: Annotated[int, Meta(ge=1, le=MOST_TAKEN)] = field(name="max", default=1)
    """Attempts, at most."""
    wait: _Wait = 30.0
    """Seconds to wait for the first of them."""


class PulledModel(Struct, kw_only=True, rename="camel"):
    """The model that the submitter of the task chose."""

    provider: str | None
    model: str | None
    base_url: str | None
    key: str | None
    """The submitter's own key. Do not store or log it."""


class PulledTask(Struct, kw_only=True, rename="camel"):
    """An attempt that is the puller's, while it renews it."""

    attempt: str
    """The attempt's id, for the paths of `renew`, `progress`, `done`, `fail` and `release`."""
    token: str
    """Bearer token of these requests. It is good for this attempt only."""
    task: str
    """The task's id."""
    type: str
    number: int
    """1 for the first attempt of the task."""
    input: Raw
    """The payload of the task."""
    deadline: int
    """Milliseconds since the epoch: the attempt is over then, renewed or not."""
    lease_seconds: float
    """Renew the attempt more often than that; three times as often is a good choice."""
    model: PulledModel | None
    parents: Raw | UnsetType = UNSET
    """Results of the tasks that it depends on, as other servers get them; missing: it depends on none."""
    trace: dict[str, str]
    """Headers that name the request that submitted the task, to be sent along: `X-Request-Id`,
    `traceparent`, `tracestate`."""


class TakeAnswer(Struct, kw_only=True):
    """The attempts for a puller."""

    attempts: list[PulledTask]
    """Empty: ask again at once."""
    reason: str | None
    """Why there is none; null: no task waits that the server may run now."""


class PulledProgress(Struct, kw_only=True, rename="camel"):
    """Progress of an attempt. Every field is optional; a value of a wrong type is left out, and noted."""

    progress: float | None = None
    """Percent; clamped to 0 to 100."""
    message: str | None = None
    """Shortened to 2,000 characters."""
    custom_data: Any = field(name="custom_data", default=None)
    """Anything; kept with the progress."""
    log: str | None = None
    """A line of the puller's log, shown to followers of the task."""
    output: str | None = None
    """Text produced since the last report."""
    data: Any = None
    """The result as far as it is known."""


class PulledResult(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The result of an attempt."""

    result: Any = None
    """Any JSON: `data` of the task's result."""
    message: _Text | None = None
    metadata: dict[str, Any] = {}
    """More about it, kept with the result."""


class PulledFailure(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The failure of an attempt."""

    error: Annotated[str, Meta(min_length=1, max_length=2_000)]
    retry: bool = False
    """True: the task is tried again, if it has attempts left. False: it fails."""
    retry_after: Annotated[float, Meta(ge=0, le=3_600, extra={"unit": "seconds"})] | None = None
    """Seconds before the next attempt, at the earliest."""
    result: Any = None
    """Kept with a task that fails: `data` of its result."""


class PulledStanding(Struct, kw_only=True, rename="camel"):
    """What has become of an attempt."""

    attempt: str
    status: Literal["running", "recorded", "gone"]
    """`running`: it is the puller's, and its lease was renewed. `recorded`: it is over by this report, now or when it
    came before. `gone`: it was over already, and nothing was recorded: stop, and do not repeat."""
    cancelled: bool
    """True: its task was cancelled; stop working on it."""
    deadline: int | None
    """Milliseconds since the epoch, while it runs."""
    lease_seconds: float | None
    """While it runs: renew it more often than that."""


class CancelledBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The attempts that a puller works on."""

    server: ServerName
    attempts: Annotated[list[Annotated[str, Meta(min_length=1, max_length=512)]], Meta(max_length=MOST_WATCHED)]
    """Ids."""
    wait: _Wait = 30.0
    """Seconds to wait for one to be over."""


class StoppedPage(Struct, kw_only=True):
    """The attempts to stop."""

    attempts: list[PulledStanding]
    """Empty: none; ask again."""


def take_answer(taken: Taken) -> TakeAnswer:
    return TakeAnswer(attempts=list(map(_pulled_task, taken.attempts)), reason=taken.reason or None)


def _pulled_task(taken: TakenAttempt) -> PulledTask:
    given = taken.given
    assert given.input is not None
    model = given.model
    return PulledTask(
        attempt=taken.id,
        token=given.token,
        task=taken.key.ref.id,
        type=given.task_type,
        number=given.attempt,
        input=given.input.payload,
        deadline=given.deadline,
        lease_seconds=given.lease_seconds,
        model=None
        if model is None
        else PulledModel(
            provider=model.provider or None,
            model=model.model or None,
            base_url=model.base_url or None,
            key=model.key,
        ),
        parents=UNSET if given.input.parents == NULL else given.input.parents,
        trace=given.trace,
    )


def pulled_standing(attempt_id: str, answer: AttemptAnswer) -> PulledStanding:
    return PulledStanding(
        attempt=attempt_id,
        status=answer.standing,
        cancelled=answer.cancelled,
        deadline=milliseconds(answer.deadline) if answer.deadline else None,
        lease_seconds=answer.lease.total_seconds() if answer.lease else None,
    )
