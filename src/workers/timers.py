"""Timers that have fallen due: deadlines of attempts, health checks of servers, schedules. Any worker handles any."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec import Struct
from nats.aio.msg import Msg

from ..container import Container
from ..errors import Refused, StoreError
from ..events.envelope import Actor
from ..events.ids import ScheduleRef, TaskRef
from ..runtime.service import Service
from ..streams.jetstream.consumers import Consumer, delivery_info
from ..streams.timers import AttemptDue
from ..streams.topology.definitions import DUE_CONSUMER, TIMERS, due_consumer
from ..streams.topology.ensure import ensure_consumer
from .attempts.in_flight import InFlight
from .attempts.outcomes import end_busy_wait, end_if_due
from .cron import Cron
from .fleet.health import Health

log = structlog.get_logger(__name__)

AT_ONCE = 512
"""Due timers that one worker handles at the same time; the others wait for any worker.

The check of a server that does not answer takes some 26 s by default (its timeout and tries), in which 430 more checks
of a thousand stable servers fall due.
"""
TRY_AGAIN = timedelta(seconds=2)
RETRY_SECONDS = 0.5
WAIT_SECONDS = 5.0
"""How long one request for the next timer stays with NATS. A lost connection ends it at once."""


class DueSchedule(Struct, frozen=True, kw_only=True):
    """The body of a schedule's timer."""

    at: datetime
    """The instant it was set to."""


class DueTimers(Service):
    def __init__(self, container: Container, health: Health, cron: Cron, in_flight: InFlight) -> None:
        super().__init__("timers", period_seconds=0.0, retry_seconds=RETRY_SECONDS)
        self._container = container
        self._consumer = Consumer(container.consuming, TIMERS, DUE_CONSUMER)
        self._health = health
        self._cron = cron
        self._in_flight = in_flight
        self._running: set[asyncio.Task[None]] = set()
        self._may_have_more = True
        """False once nothing more was due; then the next timer is waited for without a fetch."""

    async def stop(self) -> None:
        """Take no more timers, and nak those in progress: each is safe to repeat."""
        await super().stop()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _prepare(self) -> None:
        await self._consumer.open()

    async def _serve(self) -> None:
        """Handle timers until stopped, or until the consumer has to be created again."""
        config = due_consumer(self._container.settings)
        self._consumer.is_back(await ensure_consumer(self._container.consuming, TIMERS, config))
        self._may_have_more = True
        while self._may_take:
            await self.run_once()

    @property
    def _may_take(self) -> bool:
        return not (self._stopping.is_set() or self._consumer.is_gone)

    async def run_once(self) -> Mapping[str, int]:
        """Take the timers that are due, or wait for the next one; return how many were taken."""
        while len(self._running) >= AT_ONCE:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        messages = await self._consumer.fetch(AT_ONCE - len(self._running)) if self._may_have_more else []
        if not messages and (message := await self._next()):
            messages = [message]
        self._may_have_more = not messages or delivery_info(messages[-1]).pending > 0
        for message in messages:
            if self._stopping.is_set():
                await self._in_flight.nak(message)
                continue
            self._in_flight.add(message)
            task = asyncio.create_task(self._handle(message))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return {"taken": len(messages)}

    async def _next(self) -> Msg | None:
        brought: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()

        def bring(message: Msg | None) -> None:
            if not brought.done():
                brought.set_result(message)

        await self._consumer.wait(bring, WAIT_SECONDS)
        return await brought

    async def _handle(self, message: Msg) -> None:
        try:
            await self._act(message)
        except asyncio.CancelledError:
            await self._in_flight.nak(message)
            raise
        except StoreError as error:
            log.warning("timers.retrying", subject=message.subject, reason=str(error))
            await self._in_flight.nak(message, TRY_AGAIN)
        except Exception:
            log.exception("timers.failed", subject=message.subject)
            await self._in_flight.nak(message, TRY_AGAIN)
        else:
            await self._in_flight.ack(message)

    async def _act(self, message: Msg) -> None:
        match message.subject.split("."):
            case ["due", "check", name]:
                await self._health.check(name, message.data)
            case ["due", "schedule", owner, unique]:
                due_at = msgspec.json.decode(message.data, type=DueSchedule).at
                await self._cron.attend(ScheduleRef(owner, unique), due_at)
            case ["due", "deadline", owner, unique]:
                due = msgspec.json.decode(message.data, type=AttemptDue)
                with contextlib.suppress(Refused):  # ended meanwhile
                    await end_if_due(self._container, TaskRef(owner, unique), due, by=Actor("timer", "deadline"))
            case ["due", "busy", owner, unique]:
                with contextlib.suppress(Refused):
                    await end_busy_wait(self._container, TaskRef(owner, unique), by=Actor("timer", "busy"))
            case _:
                log.error("timers.unknown", subject=message.subject)
