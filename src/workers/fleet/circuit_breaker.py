"""The circuit breaker: a server's circuit opens when the server keeps failing, and closes when a trial succeeds.

The verdict of an answer on its server:

* success: the server did the work, accepted it, or rejected the task (4xx): it is alive;
* failure: no answer, a broken one, 5xx, and no answer in the time that the type allows;
* nothing: anything that the task's owner chose (a shorter `timeout`, a `deadline`), an answer that is bad for this
  payload, a busy server, an error of this process, a cancelled call.

Whether failures are the server's fault is judged in `scheduling.server_failures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import assert_never

import structlog
from msgspec import Struct

from ...backends.dialects.dialect import Accepted, Answer, Busy, Completed, Failed, FailedByBackend, Unsent
from ...commands.server import CircuitIsClosed, CloseCircuit, OpenCircuit, Present
from ...commands.task_state import Processing, TaskState
from ...container import Container
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor, Stored
from ...events.ids import TaskRef
from ...events.server import CircuitClosed, CircuitOpened, ServerEvent
from ...instants import iso
from ...scheduling.server_failures import Evidence, Verdict
from .local_circuit import CircuitChange
from .slots import Slots

log = structlog.get_logger(__name__)


class Consequence(Struct, frozen=True, kw_only=True):
    """The effects of an answer on its server, to be recorded."""

    is_alive: bool
    change: CircuitChange
    error: str = ""
    """Why the attempt failed."""


class CircuitBreaker:
    def __init__(self, container: Container, slots: Slots, worker: Actor) -> None:
        self._settings = container.settings
        self._servers = container.commands.servers
        self._fleet = container.fleet
        self._heartbeats = container.heartbeats
        self._slots = slots
        self._worker = worker

    def count(self, server: Present, ref: TaskRef, task_type: str, state: TaskState, answer: Answer) -> Consequence:
        """Count an answer for or against its server, and pause a busy one; return the effects to record.

        `state`: the task's, as the attempt's start left it. Called before the slot is free, so that no other task gets
        it meanwhile.
        """
        is_late = isinstance(answer, Failed) and answer.kind == "timeout"
        verdict = verdict_on(answer, had_time=is_late and self._had_time(task_type, state))
        match answer:
            case Busy(retry_after=retry_after):
                self._slots.refuse(server.server_id, ref, retry_after)
            case Unsent():
                self._slots.rest(server.server_id)
            case Failed(kind="unreachable"):
                pass
            case _:
                self._slots.take(server.server_id, ref)
        change = self._slots.judge(server.server_id, ref, verdict)
        if not self._slots.is_assigned(server.server_id):
            change = _trial_without_slot(server, ref, verdict)
        return Consequence(
            is_alive=verdict == "success" or isinstance(answer, Busy),
            change=change,
            error=answer.error if isinstance(answer, Failed) else "",
        )

    async def update(self, server: Present, consequence: Consequence) -> None:
        """Record that a server is alive, and that its circuit opens or closes."""
        server_id = server.server_id
        try:
            if consequence.is_alive:
                await self._heartbeats.note(server_id)
            match consequence.change:
                case None:
                    pass
                case "closes":
                    command = CloseCircuit(reason="an attempt succeeded")
                    handled = await self._servers.handle(server_id, command, by=self._worker)
                    _log(handled.appended)
                case Evidence(failures=failures, owner=owner):
                    several = f"{failures} attempts failed since the last success, the last"
                    reason = f"{several if failures > 1 else 'a trial failed'} because {consequence.error}"
                    cooldown = timedelta(seconds=self._settings.circuit_cooldown)
                    opening = OpenCircuit(reason=reason, cooldown=cooldown, owner=owner)
                    handled = await self._servers.handle(server_id, opening, by=self._worker)
                    _log(handled.appended)
        except (Refused, StoreUnavailable) as error:
            log.info("circuit-breaker.unchanged", server=server_id, reason=str(error))

    def _had_time(self, task_type: str, state: TaskState) -> bool:
        """Return True if an attempt had the time that its type allows: no choice of its owner made it shorter."""
        if not isinstance(state, Processing):
            return False
        definition = self._fleet.definition(task_type)
        allowed = definition.timeout if definition else None
        allowed = allowed or timedelta(seconds=self._settings.attempt_timeout)
        return state.facts.policy.timeout >= allowed and state.deadline != state.facts.plan.ends_by


def _log(appended: Sequence[Stored[ServerEvent]]) -> None:
    """Log that a circuit opened or closed. Nothing was appended if another worker was first."""
    for stored in appended:
        match stored.recorded.event:
            case CircuitOpened(server_id=server_id, reason=reason, owner=owner, until=until):
                log.warning("circuit-breaker.opened", server=server_id, reason=reason, owner=owner, until=iso(until))
            case CircuitClosed(server_id=server_id, reason=reason):
                log.info("circuit-breaker.closed", server=server_id, reason=reason)
            case _:
                pass


def verdict_on(answer: Answer, *, had_time: bool) -> Verdict:
    """Return the verdict of an answer on its server. `had_time`: the attempt had the time that its type allows."""
    match answer:
        case Completed() | FailedByBackend() | Accepted():
            return "success"
        case Busy() | Unsent():
            return "neutral"
        case Failed(is_neutral=True):
            return "neutral"
        case Failed(is_unreached=True):
            return "unreached"
        case Failed(kind="error" | "unreachable"):
            return "failure"
        case Failed(kind="timeout"):
            return "failure" if had_time else "neutral"
        case Failed(kind="rejected"):
            return "success"
        case Failed():
            return "neutral"
        case _:
            assert_never(answer)


def _trial_without_slot(server: Present, ref: TaskRef, verdict: Verdict) -> CircuitChange:
    """Return how an attempt changes the circuit of a server that was handed over meanwhile: only a trial does."""
    if isinstance(server.circuit, CircuitIsClosed) or verdict == "neutral":
        return None
    return "closes" if verdict == "success" else Evidence(1, "" if verdict == "unreached" else ref.owner)
