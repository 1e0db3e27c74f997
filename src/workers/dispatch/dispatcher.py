"""The dispatch of ready tasks: one is taken from the queues for each free slot, highest priority first.

A task that cannot be placed is nak'ed, so it blocks no other. If its pool has free slots for others, the nak has a
delay: JetStream delivers nak'ed messages first, and would deliver nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import structlog
from nats.aio.msg import Msg

from ...clock import utc_now
from ...commands.server import Present
from ...commands.task_commands import HoldTask
from ...commands.task_state import Waiting
from ...container import Container
from ...errors import Refused, StoreUnavailable, UnreadableEvent
from ...events.envelope import Actor
from ...instants import from_nanoseconds
from ...runtime import metrics
from ...runtime.service import Service
from ...scheduling.affinity import attachment
from ...scheduling.eligibility import is_able
from ...scheduling.queue_order import ReadyQueue, in_queue_order, must_wait, tasks_to_take
from ...scheduling.redelivery import FIRST_RETURN, LONGEST_RETURN, RedeliveryDelays, TaskKind, growing
from ...streams.jetstream.consumers import delivery_info
from ...streams.tail import Tail
from ..attempts.in_flight import InFlight
from ..attempts.runner import AttemptRunner, ReadyTask
from ..fleet.capacity import NO_LABELS
from ..fleet.slots import Slots
from .ended_tasks import EndedTasks
from .queues import Lane, PoolQueue, Queues
from .ready_tasks import ReadyTasks, task_of

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 256
"""Messages asked for in one request."""
ANOTHER_WORKER = timedelta(milliseconds=200)
"""Pause in which another worker may take a task that it has a better server for: one that has not failed it, or that
has more of the labels it prefers."""
RETURNS_FOR_ANOTHER_SERVER = 2
RETRY_SECONDS = 0.5
DRAIN_SECONDS = 2.0
LONGEST_REST = timedelta(seconds=5)
"""Longest delay before a task returns whose owner a server has refused: another server may have a free slot by then."""
LONGEST_UNASKED = timedelta(seconds=1)
"""Longest delay before a task returns that only pullers could take, none of which asks for it now."""
WAKE_LATE_SECONDS = 0.001
IDLE_LOOK_SECONDS = 5.0
"""How often free slots are looked for without news of any: news can be lost."""


class Dispatcher(Service):
    def __init__(
        self,
        container: Container,
        slots: Slots,
        queues: Queues,
        runner: AttemptRunner,
        in_flight: InFlight,
        tail: Tail,
        ended_tasks: EndedTasks,
        worker: Actor,
    ) -> None:
        super().__init__("dispatcher", period_seconds=0.0, retry_seconds=RETRY_SECONDS)
        self._commands = container.commands
        self._fleet = container.fleet
        self._space = container.space
        self._ready_tasks = ReadyTasks(container.commands, tail, container.fleet, ended_tasks)
        self._slots = slots
        self._queues = queues
        self._runner = runner
        self._in_flight = in_flight
        self._worker = worker
        self._ageing_seconds = container.settings.priority_ageing
        """How long a task waits before its queue comes before those of higher priority; 0: there is no ageing."""
        self._loading: Counter[str] = Counter()
        """By pool: messages taken out whose history is being read; they will need a slot too."""
        self._redelivery = RedeliveryDelays()
        self._recheck_at = math.inf
        """When slots that are kept are checked again, monotonic."""
        self._owed: set[str] = set()
        """Pools in which the last task was taken by its age, so that strict order comes next."""
        self._is_draining = False
        self._drained = asyncio.Event()

    async def drain(self) -> None:
        """Start no more tasks, and nak the messages that pending requests still bring.

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
            await self._nak_late()
        self._slots.freed.clear()
        try:
            await self._queues.open(self._fleet.pools())
            while any((await self.run_once()).values()):
                pass
            await self._wait_for_news()
        except StoreUnavailable:
            self._queues.all_may_have_more()
            raise

    async def _nak_late(self) -> None:
        """Nak the messages that pending requests still bring, until cancelled."""
        while True:
            self._slots.freed.clear()
            for queue in self._queues.in_order():
                await self._nak_delivered(queue, "stopped")
            await self._slots.freed.wait()

    async def run_once(self) -> Mapping[str, int]:
        """Go over the queues once; return how many messages were taken out."""
        if self._recheck_at <= time.monotonic():
            self._recheck_at = math.inf  # set again by what is still kept
        taken = await self._serve_aged() if self._ageing_seconds else 0
        for lane in self._queues.stirred():
            before = taken
            for queue in lane.in_turn:
                if queue.has_more:
                    taken += await self._serve_queue(lane, queue)
            if taken > before:
                self._queues.record_turn(lane)
        return {"taken": taken}

    async def _serve_queue(self, lane: Lane, queue: PoolQueue, *, by_age: bool = False) -> int:
        """Take its share of tasks for the free slots from a queue, and place them; return how many.

        `by_age`: its oldest task comes before those of higher priority, and whosever turn it is.
        """
        if self._space.is_scarce or self._fleet.pool_waits(queue.pool):
            await self._nak_delivered(queue, "paused")
            queue.may_have_more = True  # to be served when the pause ends
            return 0
        if not by_age and must_wait(higher.ahead for higher in self._queues.above(queue)):
            await self._nak_delivered(queue, "higher-priority")
            return 0
        free = self._free_slots(queue) if by_age else self._free_slots_for(queue)
        most = min(tasks_to_take(free, queue.unplaced), 1 if by_age else MOST_AT_ONCE)
        if most and not by_age:
            most = lane.share(queue, most)
            if not most:
                return 0  # the other queue comes first, and takes something or turns out to be empty
        fetched: list[Msg] = []
        if queue.may_have_more and most > len(queue.delivered) and not self._is_draining:
            fetched = await queue.fetch(most - len(queue.delivered))
        messages, queue.delivered = queue.delivered + fetched, []
        lane.took(queue, messages[:most])
        for message in messages[:most]:
            await self._place(queue, message)
        await self._nak_at_once(queue, messages[most:], "no-free-slot")
        return len(messages[:most])

    async def _nak_delivered(self, queue: PoolQueue, reason: str) -> None:
        messages, queue.delivered = queue.delivered, []
        await self._nak_at_once(queue, messages, reason)

    async def _nak_at_once(self, queue: PoolQueue, messages: Sequence[Msg], reason: str) -> None:
        """Nak messages for which no slot is free, or that must wait for a higher priority."""
        for message in messages:
            metrics.queue_returns.labels(reason).inc()
            queue.record_nak(message)
            await self._in_flight.nak(message)

    async def _serve_aged(self) -> int:
        """Serve the queues whose tasks have waited for longer than the ageing time, one task each; return how many."""
        owed, self._owed = self._owed, {pool for pool in self._owed if self._slots.free(pool) <= 0}
        now = utc_now()
        found = [(lane, queue) for lane in self._queues.stirred() if (queue := lane.aged(self._ageing_seconds, now))]
        aged = [(lane, queue) for lane, queue in found if self._is_passed(queue)]
        if not aged:
            return 0
        candidates = [ReadyQueue(queue.pool, queue.priority, queue.waited(now)) for _, queue in aged]
        taken = 0
        for visit in in_queue_order(candidates, self._ageing_seconds, owed):
            if visit.by_age:
                before = {queue.pool: self._free_slots(queue) for queue in self._queues.in_order()}
                taken += await self._serve_queue(*aged[visit.queue_index], by_age=True)
                self._owed |= {
                    queue.pool for queue in self._queues.in_order() if self._free_slots(queue) < before[queue.pool]
                }
        return taken

    def _is_passed(self, queue: PoolQueue) -> bool:
        """Return True if a higher priority passes over a queue now: without that, its age gives it no other turn."""
        kept = self._redelivery.kept_from(queue.pool, queue.priority, time.monotonic())
        return bool(kept) or any(higher.has_more for higher in self._queues.above(queue))

    async def _wait_for_news(self) -> None:
        for lane in self._queues.stirred():
            for queue in (lane.first, lane.bulk):
                # Also without a free slot: else a queue believed empty is not served while others fill every slot.
                if not queue.is_awaited and self._slots.serves(queue.pool):
                    await queue.wait()
        # The loop may wake up early: uvloop counts whole milliseconds. Then this waits for the rest, in the next round.
        seconds = min(IDLE_LOOK_SECONDS, self._next_change_in() + WAKE_LATE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # not `wait_for`: it makes a task each time
                await self._slots.freed.wait()

    def _next_change_in(self) -> float:
        """Return in how many seconds there is work without news: a pause ends, slots are kept no longer, or a queue
        that could not be opened is tried again.
        """
        recheck_at = min(self._recheck_at, self._queues.open_at)
        return max(0.0, min(self._slots.next_change_in(), recheck_at - time.monotonic()))

    def _free_slots(self, queue: PoolQueue) -> int:
        return self._slots.free(queue.pool, self._loading)

    def _free_slots_for(self, queue: PoolQueue) -> int:
        """Return the slots free for a queue besides those kept for higher priority; check again when that ends."""
        now = time.monotonic()
        kept = self._redelivery.kept_from(queue.pool, queue.priority, now)
        free = self._slots.free(queue.pool, self._loading, kept)
        if kept and free <= 0:
            self._recheck_at = min(self._recheck_at, *kept.values())
        return free

    def _kept_from(self, queue: PoolQueue, message: Msg) -> Collection[TaskKind]:
        """Return the kinds of tasks for which servers are kept from a task: none if that has aged."""
        kept = self._redelivery.kept_from(queue.pool, queue.priority, time.monotonic())
        if kept and self._ageing_seconds:
            waited = utc_now() - from_nanoseconds(delivery_info(message).stored_nanoseconds)
            return () if waited > timedelta(seconds=self._ageing_seconds) else kept
        return kept

    async def _place(self, queue: PoolQueue, message: Msg) -> None:
        """Start the message's task on a server, nak the message, or ack it if the task has ended."""
        if self._ready_tasks.has_ended(message):
            await self._in_flight.ack(message)
            return
        try:
            ready = self._ready_tasks.without_read(message)
        except UnreadableEvent as error:
            log.error("dispatcher.unreadable", reason=str(error))
            await self._in_flight.nak(message, LONGEST_RETURN)
            return
        if ready is not None:
            await self._start_or_nak(queue, ready)
            return
        self._loading[queue.pool] += 1
        self._in_flight.add(message)
        self._runner.spawn(self._load_and_place(queue, message))

    async def _load_and_place(self, queue: PoolQueue, message: Msg) -> None:
        """Read the history of the message's task, then place it."""
        try:
            try:
                ready = await self._ready_tasks.load(message)
            finally:
                self._loading[queue.pool] -= 1
            if ready is None:
                await self._runner.stale_deliveries.handle(task_of(message), message)
            else:
                await self._start_or_nak(queue, ready)
        except StoreUnavailable:
            await self._in_flight.nak(message, ANOTHER_WORKER)
        except Exception:
            await self._in_flight.nak(message, LONGEST_RETURN)
            raise
        finally:
            self._slots.freed.set()  # the slot reserved for it may still be free

    async def _start_or_nak(self, queue: PoolQueue, ready: ReadyTask) -> None:
        state = ready.known.state
        if ready.needs_grant and isinstance(state, Waiting) and not state.granted:  # it came without the scheduler
            self._in_flight.add(ready.message)
            self._runner.spawn(self._hold(ready))
            return
        delivered = delivery_info(ready.message).delivered
        if self._fleet.pool_waits(queue.pool):  # it was paused while this was on its way here
            queue.may_have_more = True
            await self._in_flight.nak(ready.message)
            return
        if self._fleet.type_waits(ready.submitted.task_type):
            metrics.queue_returns.labels("paused").inc()
            await self._pass_over(queue, ready, self._spread(ready, growing(delivered)))
            return
        require, prefer = _labels(ready)
        kept = self._kept_from(queue, ready.message)
        session = _session(ready)
        server_id = self._slots.choose(
            ready.submitted.task_type, ready.avoid, require, prefer, kept, ready.ref, session
        )
        if self._runner.is_under_way(ready.ref):  # a second message of the task: the first one's work comes first
            await self._pass_over(queue, ready, growing(delivered))
        elif server_id is None:
            await self._nak_unplaced(queue, ready, delivered)
        elif delivered <= RETURNS_FOR_ANOTHER_SERVER and (
            (server_id == ready.avoid and self._another_could(ready))
            or ((prefer or session) and self._another_is_preferred(ready, prefer, session, server_id))
        ):
            await self._pass_over(queue, ready, ANOTHER_WORKER)
        else:
            self._queues.record_start(queue.pool)
            if self._redelivery.keeps_any(queue.pool, queue.priority):
                self._redelivery.keep_on(queue.pool, queue.priority, _kind(ready), time.monotonic())
            self._runner.start(ready, self._fleet.server(server_id))

    async def _hold(self, ready: ReadyTask) -> None:
        """Hold a task, so that the scheduler decides when it starts."""
        try:
            await self._commands.task(
                ready.ref, HoldTask(reason="it shares a limit with others"), by=self._worker, known=ready.known
            )
        except Refused:
            pass  # it has moved on; the message is of no use either way
        except StoreUnavailable:
            await self._in_flight.nak(ready.message, ANOTHER_WORKER)
            return
        except Exception:
            await self._in_flight.nak(ready.message, LONGEST_RETURN)
            raise
        await self._in_flight.ack(ready.message)

    async def _nak_unplaced(self, queue: PoolQueue, ready: ReadyTask, delivered: int) -> None:
        """Nak a task that cannot be placed: at once if no slot is free, else with a delay."""
        if self._slots.free(queue.pool) <= 0:
            await self._nak_at_once(queue, [ready.message], "no-free-slot")
            return
        require, _ = _labels(ready)
        if rest := self._slots.rests_in(ready.ref, ready.submitted.task_type, require):
            metrics.queue_returns.labels("owner-refused").inc()
            await self._pass_over(queue, ready, min(timedelta(seconds=rest), LONGEST_REST))
            return
        able = [server for server in self._fleet.servers() if is_able(server, ready.submitted.task_type, require)]
        metrics.queue_returns.labels("no-free-slot" if able else "not-served").inc()
        if able:
            self._redelivery.keep(queue.pool, queue.priority, _kind(ready), time.monotonic())
        pause = FIRST_RETURN if able else growing(delivered)
        if able and all(server.settings.is_pulled for server in able):  # nobody may ask for such a task for long
            pause = min(growing(delivered), LONGEST_UNASKED)
        if wait := self._slots.admitted_in(ready.ref):  # until the task may be the trial of a server
            pause = min(pause, timedelta(seconds=wait))
        # One that may be a trial earlier does not return after those that may be one later.
        doubt = self._slots.doubt(ready.ref) if wait else None
        await self._pass_over(queue, ready, self._spread(ready, pause, doubt))

    def _spread(self, ready: ReadyTask, pause: timedelta, doubt: int | None = None) -> timedelta:
        return self._redelivery.spread(_kind(ready), (ready.ref.owner, doubt), pause, time.monotonic())

    async def _pass_over(self, queue: PoolQueue, ready: ReadyTask, pause: timedelta) -> None:
        """Nak a task that does not start here now, though a slot is free, with a delay."""
        queue.unplaced += 1
        await self._in_flight.nak(ready.message, pause)

    def _another_could(self, ready: ReadyTask) -> bool:
        """Return True if another server of the fleet could take a task."""
        require, _ = _labels(ready)
        return any(
            server.server_id != ready.avoid and is_able(server, ready.submitted.task_type, require)
            for server in self._fleet.servers()
        )

    def _another_is_preferred(self, ready: ReadyTask, prefer: Mapping[str, str], session: str, server_id: str) -> bool:
        """Return True if another worker's server could take a task and has more of the labels it prefers, or as many
        and its session is attached to it.
        """
        least = _rank(self._fleet.server(server_id), prefer, session)
        require, _ = _labels(ready)
        return (least[0] < len(prefer) or bool(session)) and any(
            _rank(server, prefer, session) > least
            and server.server_id != ready.avoid
            and not self._slots.is_assigned(server.server_id)
            and is_able(server, ready.submitted.task_type, require)
            for server in self._fleet.servers()
        )


def _rank(server: Present, labels: Mapping[str, str], session: str) -> tuple[int, float]:
    """Return how many of these labels a server has, and its score for a session."""
    settings = server.settings
    score = attachment(session, server.server_id, settings.weight) if session else 0.0
    return len(settings.labels.items() & labels.items()), score


def _session(ready: ReadyTask) -> str:
    plan = ready.submitted.plan
    return plan.session if plan is not None else ""


def _labels(ready: ReadyTask) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the labels that a task requires, with its model, and those that it prefers."""
    plan = ready.submitted.plan
    return (plan.requirements, plan.prefer) if plan is not None else (NO_LABELS, NO_LABELS)


def _kind(ready: ReadyTask) -> TaskKind:
    return TaskKind.of(ready.submitted.task_type, _labels(ready)[0])
