"""Hands ready tasks to servers: asks the queues for as many as there is room for, highest priority first.

A task that was taken out and cannot be placed goes back, so one that nobody can run holds up nobody. Where its pool has
room for others it goes back for a while: a queue hands out first what was given back, and would bring nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from nats.aio.msg import Msg

from ...commands.commands import Commands
from ...commands.handler import Known
from ...commands.server import Present
from ...commands.task import Ended, Held, HoldTask, Processing, TaskState, Unknown, Waiting
from ...errors import Refused, StoreUnavailable, UnreadableEvent
from ...events.codec import task_codec
from ...events.envelope import Actor, Stored
from ...events.ids import TaskRef
from ...events.subjects import dispatched_ref, task_ref
from ...events.task import TaskEvent, TaskQueued, TaskSubmitted
from ...projections.fleet import Fleet
from ...runtime import metrics
from ...runtime.service import Service
from ...scheduling.eligibility import is_able
from ...scheduling.queue_order import ReadyQueue, in_queue_order, must_wait, to_take
from ...scheduling.redelivery import FIRST_RETURN, LONGEST_RETURN, RedeliveryDelays, TaskKind, growing
from ...scheduling.rules import needs_grant
from ...streams.jetstream.consumers import delivery_info
from ...streams.jetstream.messages import Position
from ...streams.log import decode
from ...streams.tail import Tail
from ...streams.topology.definitions import TASKS
from ..attempts.in_flight import InFlight
from ..attempts.runner import AttemptRunner, ReadyTask
from ..fleet.capacity import NO_LABELS
from ..fleet.slots import Slots
from .queues import PoolQueue, Queues

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 256
"""Messages asked for in one request."""
ANOTHER_WORKER = timedelta(milliseconds=200)
"""Pause in which another worker may take a task that it has a better server for: one that has not failed it, or that
has more of the labels it prefers."""
RETURNS_FOR_ANOTHER_SERVER = 2
RETRY_SECONDS = 0.5
DRAIN_SECONDS = 2.0
IDLE_LOOK_SECONDS = 5.0
"""How often room is looked for without any news of it: against news lost on the way."""


class Dispatcher(Service):
    def __init__(
        self,
        commands: Commands,
        fleet: Fleet,
        slots: Slots,
        queues: Queues,
        runner: AttemptRunner,
        in_flight: InFlight,
        tail: Tail,
        *,
        worker: Actor,
        ageing_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        """`tail`: of the TASKS log. `ageing_seconds`: how long a task waits before its queue comes before those of
        higher priority, or 0.
        """
        super().__init__("dispatcher", period_seconds=0.0, retry_seconds=RETRY_SECONDS)
        self._commands = commands
        self._fleet = fleet
        self._slots = slots
        self._queues = queues
        self._runner = runner
        self._in_flight = in_flight
        self._tail = tail
        self._worker = worker
        self._ageing_seconds = ageing_seconds
        self._now = now
        self._admitting: Counter[str] = Counter()
        """By pool: messages taken out whose history is being read; they will need room too."""
        self._returns = RedeliveryDelays()
        self._looks_at = 0.0
        """When slots that are kept are looked at again, monotonic."""
        self._owed: set[str] = set()
        """Pools in which a task was handed out by its age, so that strict order has its turn."""
        self._is_draining = False
        self._drained = asyncio.Event()

    async def drain(self) -> None:
        """Start no more tasks, and from now on give back what requests to the queues still bring.

        Returns when nothing more is being started, after DRAIN_SECONDS at the latest.
        """
        self._is_draining = True
        self._slots.freed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._drained.wait()

    async def _serve(self) -> None:
        """Start what can be started, then wait for news of tasks or slots."""
        if self._is_draining:
            self._drained.set()
            await self._return_late()
        self._slots.freed.clear()
        try:
            await self._queues.know(self._fleet.pools())
            while any((await self.run_once()).values()):
                pass
            await self._wait_for_news()
        except StoreUnavailable:
            self._queues.all_may_have_more()
            raise

    async def _return_late(self) -> None:
        """Give back what requests that are still out bring, for ever."""
        while True:
            self._slots.freed.clear()
            for queue in self._queues.in_order():
                await self._return_brought(queue, "stopped")
            await self._slots.freed.wait()

    async def run_once(self) -> Mapping[str, int]:
        """Go over the queues once; return how many messages were taken out."""
        taken = await self._serve_aged() if self._ageing_seconds else 0
        for queue in self._queues.in_order():
            if queue.ahead.may_have_more:
                taken += await self._serve_queue(queue)
        if taken:
            self._queues.take_turns()
        return {"taken": taken}

    async def _serve_queue(self, queue: PoolQueue, *, by_age: bool = False) -> int:
        """Take out of a queue what there is room for, and place it; return how many messages were placed.

        `by_age`: its oldest task comes before those of higher priority.
        """
        if self._fleet.pool_waits(queue.pool):
            await self._return_brought(queue, "paused")
            queue.may_have_more = True  # when the pause is over, it is looked into
            return 0
        if not by_age and must_wait(higher.ahead for higher in self._queues.above(queue)):
            await self._return_brought(queue, "higher-priority")
            return 0
        room = self._room(queue) if by_age else self._room_left_for(queue)
        most = min(to_take(room, queue.in_vain), 1 if by_age else MOST_AT_ONCE)
        fetched: list[Msg] = []
        if queue.may_have_more and most > len(queue.brought) and not self._is_draining:
            fetched = await queue.fetch(most - len(queue.brought))
        messages, queue.brought = queue.brought + fetched, []
        for message in messages[:most]:
            await self._place(queue, message)
        await self._return_at_once(queue, messages[most:], "no-room")
        return len(messages[:most])

    async def _return_brought(self, queue: PoolQueue, reason: str) -> None:
        messages, queue.brought = queue.brought, []
        await self._return_at_once(queue, messages, reason)

    async def _return_at_once(self, queue: PoolQueue, messages: Sequence[Msg], reason: str) -> None:
        """Give back messages that have no room now, or whose turn it is not."""
        for message in messages:
            metrics.handed_back.labels(reason).inc()
            queue.returned(message)
            await self._in_flight.give_back(message)

    async def _serve_aged(self) -> int:
        """Serve the queues whose tasks have waited for too long, one task each; return how many were taken out."""
        owed, self._owed = self._owed, {pool for pool in self._owed if self._slots.room(pool) <= 0}
        queues = [queue for queue in self._queues.in_order() if queue.may_have_more and queue.oldest_at is not None]
        if not queues:
            return 0
        now = self._now()
        lines = [ReadyQueue(queue.pool, queue.priority, _waited(queue, now)) for queue in queues]
        taken = 0
        for turn in in_queue_order(lines, self._ageing_seconds, owed):
            if turn.by_age:
                rooms = {queue.pool: self._room(queue) for queue in self._queues.in_order()}
                taken += await self._serve_queue(queues[turn.place], by_age=True)
                self._owed |= {queue.pool for queue in self._queues.in_order() if self._room(queue) < rooms[queue.pool]}
        return taken

    async def _wait_for_news(self) -> None:
        for queue in self._queues.in_order():
            # Also without room: else a queue believed empty is not looked into as long as others fill every slot.
            if not queue.is_awaited and self._slots.serves(queue.pool):
                await queue.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_LOOK_SECONDS):  # not `wait_for`: it makes a task each time
                await self._slots.freed.wait()

    def _room(self, queue: PoolQueue) -> int:
        return self._slots.room(queue.pool, self._admitting)

    def _room_left_for(self, queue: PoolQueue) -> int:
        """Return the room for a queue besides what is kept for those of higher priority; look again when that ends."""
        now = time.monotonic()
        kept = self._returns.kept_from(queue.pool, queue.priority, now)
        room = self._slots.room(queue.pool, self._admitting, kept)
        if kept and room <= 0 and self._looks_at <= now:
            self._looks_at = min(kept.values())
            asyncio.get_running_loop().call_later(self._looks_at - now, self._slots.freed.set)
        return room

    def _kept_from(self, queue: PoolQueue, message: Msg) -> Collection[TaskKind]:
        """Return the kinds of tasks for which servers are kept from a task: none if that has aged."""
        kept = self._returns.kept_from(queue.pool, queue.priority, time.monotonic())
        if kept and self._ageing_seconds:
            waited = self._now().timestamp() - delivery_info(message).stored_nanoseconds / 1e9
            return () if waited > self._ageing_seconds else kept
        return kept

    async def _place(self, queue: PoolQueue, message: Msg) -> None:
        """Start the message's task on a server, or give the message back."""
        try:
            queued = self._read(message)
        except UnreadableEvent as error:
            log.error("dispatch.unreadable", reason=str(error))
            await self._in_flight.give_back(message, LONGEST_RETURN)
            return
        if queued is not None:
            await self._start_or_return(queue, queued)
            return
        self._admitting[queue.pool] += 1
        self._in_flight.take(message)
        self._runner.spawn(self._admit(queue, message))

    def _read(self, message: Msg) -> ReadyTask | None:
        """Return the task of a message where no history need be read: the message carries its submission, or follows
        upon one that is known here. None for any other.

        One that was delivered before may be of a task that has moved on; its history is read.
        """
        stream, sequence, ref = _source(message)
        if stream != TASKS or delivery_info(message).delivered > 1:
            return None
        stored: Stored[TaskEvent] = decode(task_codec, Position(sequence, message.subject, message.data))
        match stored.recorded.event:
            case TaskSubmitted() as event:
                return self._queued(ref, message, self._commands.tasks.fold([stored]), event)
            case TaskQueued(submission=place) if place and (kept := self._tail.find(place)):
                submission: Stored[TaskEvent] = decode(task_codec, kept)
                if isinstance(submission.recorded.event, TaskSubmitted):
                    known = self._commands.tasks.fold([submission, stored])
                    return self._queued(ref, message, known, submission.recorded.event)
        return None

    async def _admit(self, queue: PoolQueue, message: Msg) -> None:
        """Read the history of a task that was queued again, then place it."""
        try:
            await self._read_and_place(queue, message)
        except StoreUnavailable:
            await self._in_flight.give_back(message, ANOTHER_WORKER)
        except Exception:
            await self._in_flight.give_back(message, LONGEST_RETURN)
            raise
        finally:
            self._slots.freed.set()  # the room that was kept for it may be there still

    async def _read_and_place(self, queue: PoolQueue, message: Msg) -> None:
        ref = _source(message)[2]
        try:
            history = await self._history(message, ref)
        finally:
            self._admitting[queue.pool] -= 1
        known = self._commands.tasks.fold(history)
        if isinstance(known.state, Unknown | Ended | Held | Processing):
            await self._runner.handle_stale(ref, message)
            return
        submitted = next(
            stored.recorded.event for stored in history if isinstance(stored.recorded.event, TaskSubmitted)
        )
        queued = self._queued(ref, message, known, submitted)
        await self._start_or_return(queue, queued)

    async def _history(self, message: Msg, ref: TaskRef) -> list[Stored[TaskEvent]]:
        """Return the history of a task that was queued; of one that was not tried yet, only what matters."""
        stream, sequence, _ = _source(message)
        if stream == TASKS and delivery_info(message).delivered == 1:
            queued: Stored[TaskEvent] = decode(task_codec, Position(sequence, message.subject, message.data))
            event = queued.recorded.event
            if isinstance(event, TaskQueued) and event.submission:
                submitted = await self._commands.tasks.log.at(event.submission)
                if submitted is not None:
                    return [submitted, queued]
        return await self._commands.tasks.history(ref)

    def _queued(self, ref: TaskRef, message: Msg, known: Known[TaskState], submitted: TaskSubmitted) -> ReadyTask:
        assert isinstance(known.state, Waiting)
        return ReadyTask(
            ref=ref,
            message=message,
            known=known,
            submitted=submitted,
            avoid=known.state.facts.last_server_id,
            needs_grant=needs_grant(self._fleet, ref, submitted.task_type, submitted.plan),
        )

    async def _start_or_return(self, queue: PoolQueue, queued: ReadyTask) -> None:
        state = queued.known.state
        if queued.needs_grant and isinstance(state, Waiting) and not state.granted:  # it is here without the keeper
            self._in_flight.take(queued.message)
            self._runner.spawn(self._hold(queued))
            return
        delivered = delivery_info(queued.message).delivered
        if self._fleet.pool_waits(queue.pool):  # it was paused while this was on its way here
            queue.may_have_more = True
            await self._in_flight.give_back(queued.message)
            return
        if self._fleet.type_waits(queued.submitted.task_type):
            metrics.handed_back.labels("paused").inc()
            await self._pass_over(queue, queued, self._in_turn(queued, growing(delivered)))
            return
        require, prefer = _labels(queued)
        kept = self._kept_from(queue, queued.message)
        server_id = self._slots.choose(queued.submitted.task_type, queued.avoid, require, prefer, kept)
        if self._runner.is_under_way(queued.ref):  # a second message of the task: the first one's work comes first
            await self._pass_over(queue, queued, growing(delivered))
        elif server_id is None:
            await self._return(queue, queued, delivered)
        elif delivered <= RETURNS_FOR_ANOTHER_SERVER and (
            (server_id == queued.avoid and self._another_could(queued))
            or (prefer and self._another_is_preferred(queued, prefer, server_id))
        ):
            await self._pass_over(queue, queued, ANOTHER_WORKER)
        else:
            self._queues.has_started(queue.pool)
            if self._returns.keeps_any(queue.pool, queue.priority):
                self._returns.keep_on(queue.pool, queue.priority, _kind(queued), time.monotonic())
            self._runner.start(queued, self._fleet.server(server_id))

    async def _hold(self, queued: ReadyTask) -> None:
        """Leave a task to the keeper."""
        try:
            await self._commands.task(
                queued.ref, HoldTask(reason="it shares a limit with others"), by=self._worker, known=queued.known
            )
        except Refused:
            pass  # it has moved on; the message is of no use either way
        except StoreUnavailable:
            await self._in_flight.give_back(queued.message, ANOTHER_WORKER)
            return
        await self._in_flight.ack(queued.message)

    async def _return(self, queue: PoolQueue, queued: ReadyTask, delivered: int) -> None:
        """Give back what cannot be placed: at once if there is no room at all, else for as long as seems useful."""
        if self._slots.room(queue.pool) <= 0:
            await self._return_at_once(queue, [queued.message], "no-room")
            return
        require, _ = _labels(queued)
        served = any(is_able(server, queued.submitted.task_type, require) for server in self._fleet.servers())
        metrics.handed_back.labels("no-room" if served else "not-served").inc()
        if served:
            self._returns.keep(queue.pool, queue.priority, _kind(queued), time.monotonic())
        pause = FIRST_RETURN if served else growing(delivered)
        await self._pass_over(queue, queued, self._in_turn(queued, pause))

    def _in_turn(self, queued: ReadyTask, pause: timedelta) -> timedelta:
        return self._returns.in_turn(_kind(queued), pause, time.monotonic())

    async def _pass_over(self, queue: PoolQueue, queued: ReadyTask, pause: timedelta) -> None:
        """Give back a task that does not start here now, though there is room, to come again after a pause."""
        queue.in_vain += 1
        await self._in_flight.give_back(queued.message, pause)

    def _another_could(self, queued: ReadyTask) -> bool:
        """Tell whether any other server of the fleet could take a task."""
        require, _ = _labels(queued)
        return any(
            server.server_id != queued.avoid and is_able(server, queued.submitted.task_type, require)
            for server in self._fleet.servers()
        )

    def _another_is_preferred(self, queued: ReadyTask, prefer: Mapping[str, str], server_id: str) -> bool:
        """Tell whether another worker's server could take a task, and has more of the labels it prefers."""
        least = _shared(self._fleet.server(server_id), prefer)
        require, _ = _labels(queued)
        return least < len(prefer) and any(
            _shared(server, prefer) > least
            and server.server_id != queued.avoid
            and not self._slots.speaks_for(server.server_id)
            and is_able(server, queued.submitted.task_type, require)
            for server in self._fleet.servers()
        )


def _shared(server: Present, labels: Mapping[str, str]) -> int:
    """Return how many of these labels a server has."""
    return len(server.settings.labels.items() & labels.items())


def _labels(queued: ReadyTask) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the labels that a task requires and those that it prefers."""
    plan = queued.submitted.plan
    return (plan.require, plan.prefer) if plan is not None else (NO_LABELS, NO_LABELS)


def _kind(queued: ReadyTask) -> TaskKind:
    return TaskKind.of(queued.submitted.task_type, _labels(queued)[0])


def _waited(queue: PoolQueue, now: datetime) -> float:
    """Return the seconds that a queue's oldest task has waited, as far as known."""
    return (now - queue.oldest_at).total_seconds() if queue.oldest_at else 0.0


def _source(message: Msg) -> tuple[str, int, TaskRef]:
    """Return stream, sequence and task of the message that JetStream copied into DISPATCH."""
    stream, sequence, *_, subject, _ = message.headers["Nats-Stream-Source"].split(" ")  # type: ignore[index]
    if stream == TASKS:
        return stream, int(sequence), task_ref(subject)
    return stream, int(sequence), dispatched_ref(subject)
