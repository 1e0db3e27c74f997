"""Deciders of an operation, over its history or over the last event of each kind.

       OperationStarted          OperationPaused
Unstarted ─────► Running ─────────────────────────► Paused
                  ▲ │ │   ◄───────────────────────── │
OperationAdvanced └─┘ │       OperationResumed       │
                      │ OperationFinished            │ OperationStopped
                      │ OperationStopped             │
                      │ OperationFailed              │
                      └───────────► Over ◄───────────┘

A page that has begun is finished whatever the state: its outcome is recorded after a pause or a stop, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..errors import IdempotencyConflict, NotFound, RuleBroken
from ..events import operation as events
from ..events.envelope import Recorded
from ..events.operation import OperationCounts, OperationEvent, OperationStarted, RefusalCount

MOST_REASONS = 20
"""Reasons of refusals that are told apart; more would make each event of a long operation large."""
OTHER_REASONS = "other reasons"

Ending = Literal["done", "stopped", "failed"]


class Unstarted(Struct, frozen=True, tag="unstarted"):
    """Never started, or past its retention."""


class Operation(Struct, frozen=True, kw_only=True, tag="operation"):
    """Started; running, paused or over."""

    started: OperationStarted
    key: str = ""
    """Id of the API key that it was started with; empty: none was."""
    started_at: datetime
    changed_at: datetime
    page: int = 0
    """Number of the last page that was found; 0: none yet."""
    ids: tuple[str, ...] = ()
    """The tasks of that page, until its outcome is recorded."""
    cursor: str = ""
    """Where the next page begins."""
    is_last: bool = False
    """No page follows."""
    counts: OperationCounts = OperationCounts()
    """Of the pages whose outcome is recorded."""
    paused: bool = False
    reason: str = ""
    """Of the pause, the stop or the failure."""
    ending: Ending | None = None
    """How it ended; None: it has not."""
    ended_at: datetime | None = None

    @property
    def is_settled(self) -> bool:
        """True if the outcome of each page that has begun is recorded."""
        return not self.ids

    @property
    def is_over(self) -> bool:
        """True if nothing is left to do."""
        return self.ending is not None and self.is_settled


OperationState: TypeAlias = Unstarted | Operation

UNSTARTED = Unstarted()


class StartOperation(Struct, frozen=True, kw_only=True):
    started: OperationStarted
    repeatable: bool
    """True with an Idempotency-Key: the same body again returns the same operation."""


class AdvanceOperation(Struct, frozen=True, kw_only=True):
    """Record the outcome of a page, and the page that follows."""

    page: int
    """The page that was commanded; 0: none was found yet."""
    counts: OperationCounts
    """Of this page alone."""
    ids: tuple[str, ...]
    """The tasks of the next page."""
    cursor: str
    is_last: bool
    """No page comes after the next one; if that has no tasks, the operation is done."""


class PauseOperation(Struct, frozen=True, kw_only=True):
    reason: str


class ResumeOperation(Struct, frozen=True):
    """Go on with the next page."""


class StopOperation(Struct, frozen=True, kw_only=True):
    reason: str


class FailOperation(Struct, frozen=True, kw_only=True):
    """Give it up: it cannot go on."""

    error: str


OperationCommand: TypeAlias = (
    StartOperation | AdvanceOperation | PauseOperation | ResumeOperation | StopOperation | FailOperation
)


def decide(command: OperationCommand, state: OperationState, now: datetime) -> Sequence[OperationEvent]:  # noqa: ARG001
    """Return the events of a command; none if it is done already. Raises NotFound, and RuleBroken for one that is over.

    `now`: as for every decider.
    """
    if isinstance(command, StartOperation):
        return start(command, state)
    if not isinstance(state, Operation):
        raise NotFound("operation", "")
    match command:
        case AdvanceOperation():
            return advance(command, state)
        case PauseOperation():
            _check_running(state)
            return [] if state.paused else [events.OperationPaused(reason=command.reason)]
        case ResumeOperation():
            _check_running(state)
            return [events.OperationResumed()] if state.paused else []
        case StopOperation():
            if state.ending == "stopped":
                return []
            _check_running(state)
            return [events.OperationStopped(reason=command.reason)]
        case FailOperation():
            if state.ending is not None:
                return []
            return [events.OperationFailed(error=command.error, counts=state.counts)]
        case _:
            assert_never(command)


def start(command: StartOperation, state: OperationState) -> Sequence[OperationEvent]:
    if isinstance(state, Unstarted):
        return [command.started]
    if command.repeatable and state.started.fingerprint != command.started.fingerprint:
        raise IdempotencyConflict
    return []  # without a key the id is new each time: our own, stored although its answer was lost


def advance(command: AdvanceOperation, state: Operation) -> Sequence[OperationEvent]:
    """Record a page's outcome. While the operation is paused or over, the next page is dropped: it is found again."""
    if command.page != state.page or state.is_over:
        return []  # another process recorded this page
    counts = added(state.counts, command.counts)
    if state.ending is not None or (state.paused and (command.ids or not command.is_last)):
        if state.is_settled:
            return []
        return [events.OperationAdvanced(page=state.page, counts=counts, cursor=state.cursor, is_last=state.is_last)]
    if command.is_last and not command.ids:
        return [events.OperationFinished(counts=counts)]
    return [
        events.OperationAdvanced(
            page=state.page + 1, counts=counts, ids=command.ids, cursor=command.cursor, is_last=command.is_last
        )
    ]


def _check_running(state: Operation) -> None:
    if state.ending is not None:
        raise RuleBroken(f"this operation is over ({state.ending}); start a new one")


def added(counts: OperationCounts, more: OperationCounts) -> OperationCounts:
    """Return the sum of two counts, with at most MOST_REASONS reasons."""
    refused = {each.reason: each.count for each in counts.refused}
    for each in more.refused:
        known = each.reason in refused or len(refused) < MOST_REASONS
        reason = each.reason if known else OTHER_REASONS
        refused[reason] = refused.get(reason, 0) + each.count
    return OperationCounts(
        done=counts.done + more.done,
        unchanged=counts.unchanged + more.unchanged,
        refused=tuple(RefusalCount(reason=reason, count=count) for reason, count in refused.items()),
    )


def evolve(state: OperationState, recorded: Recorded[OperationEvent]) -> OperationState:
    """Return the state after one more event.

    Each event is folded whatever the others said: where only the last one of each kind is kept, some are missing.
    """
    event = recorded.event
    if isinstance(event, OperationStarted):
        return Operation(started=event, key=recorded.by.key, started_at=recorded.at, changed_at=recorded.at)
    if not isinstance(state, Operation):
        return state
    state = replace(state, changed_at=recorded.at)
    match event:
        case events.OperationAdvanced():
            return replace(
                state,
                page=event.page,
                ids=event.ids,
                cursor=event.cursor,
                is_last=event.is_last,
                counts=event.counts,
            )
        case events.OperationPaused():
            return replace(state, paused=True, reason=event.reason)
        case events.OperationResumed():
            return replace(state, paused=False, reason="")
        case events.OperationStopped():
            return replace(state, ending="stopped", reason=event.reason, paused=False, ended_at=recorded.at)
        case events.OperationFinished():
            return replace(
                state, ending="done", ids=(), counts=event.counts, paused=False, reason="", ended_at=recorded.at
            )
        case events.OperationFailed():
            ended = replace(state, ending="failed", ids=(), counts=event.counts, paused=False)
            return replace(ended, reason=event.error, ended_at=recorded.at)
        case _:
            assert_never(event)
