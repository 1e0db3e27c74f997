"""Stale deliveries: queue messages of tasks that cannot be started now, handled as the log says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog
from nats.aio.msg import Msg

from ...clock import utc_now
from ...commands.task_commands import ExpireTask
from ...commands.task_holds import last_start
from ...commands.task_state import Ended, Held, Processing, Unknown, Waiting
from ...container import Container
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from ...events.ids import TaskRef
from ...streams.leases import Membership
from .in_flight import InFlight
from .outcomes import WORKER_LOST, fail_attempt, set_retry

log = structlog.get_logger(__name__)

LOOK_AGAIN = timedelta(seconds=5)
"""Delay before a message is delivered again whose task another worker has."""


class StaleDeliveries:
    def __init__(
        self,
        container: Container,
        in_flight: InFlight,
        members: Membership,
        is_under_way: Callable[[TaskRef], bool],
    ) -> None:
        """`is_under_way` returns True while this process works on a task."""
        self._container = container
        self._commands = container.commands
        self._timers = container.timers
        self._in_flight = in_flight
        self._members = members
        self._worker = Actor("worker", members.id)
        self._is_under_way = is_under_way

    async def handle(self, ref: TaskRef, message: Msg) -> None:
        """Ack or nak the message; first record an attempt that was lost with its worker as failed."""
        try:
            history = await self._commands.tasks.history(ref)
            state = self._commands.tasks.fold(history).state
            match state:
                case Unknown() | Ended() | Held():
                    await self._in_flight.ack(message)
                case Waiting(facts=facts) if (last := last_start(facts.plan)) is not None and last <= utc_now():
                    await self._commands.task(ref, ExpireTask(), by=self._worker)
                    await self._in_flight.ack(message)
                case Waiting(not_before=None):
                    await self._in_flight.nak(message)
                case Waiting():
                    await set_retry(self._timers, ref, state)  # not due yet: its timer brings it
                    await self._in_flight.ack(message)
                case Processing(accepted=True):
                    await self._timers.watch_deadline(ref, state.facts.attempt, state.due_at(utc_now()))
                    await self._in_flight.ack(message)
                case Processing(worker_id=worker_id) if await self._works_on(worker_id, ref):
                    await self._in_flight.nak(message, LOOK_AGAIN)  # the worker that has it ends it
                case Processing():
                    await fail_attempt(self._container, ref, state.facts.attempt, WORKER_LOST, by=self._worker)
                    await self._in_flight.ack(message)
        except (Refused, StoreUnavailable) as error:
            log.warning("stale-delivery.failed", task=ref.id, reason=str(error))
            await self._in_flight.nak(message, LOOK_AGAIN)

    async def _works_on(self, worker_id: str, ref: TaskRef) -> bool:
        """Return True if the worker that started a task's attempt still works on it."""
        if worker_id == self._members.id:
            return self._is_under_way(ref)
        await self._members.observe()  # it may be new
        return self._members.is_alive(worker_id)
