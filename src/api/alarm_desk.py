"""Alarms as of now: gathers the state of the service, and decides.

One look serves all who ask within a second. What needs requests to NATS is read less often. The work grows with the
servers, the pools and the types, never with the tasks.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from ..clock import utc_now
from ..commands.schedule import Created
from ..container import Container
from ..errors import StoreError, UnreadableEvent
from ..events.ids import token
from ..events.schedule import ScheduleFailed, ScheduleSkipped
from ..events.subjects import WEBHOOK_SUBJECTS, schedule_ref, schedules_filter
from ..explain.alarms import KINDS, Alarms, alarms_of
from ..explain.situation import (
    DisabledWebhook,
    EndFigures,
    FailedSchedule,
    MissedSchedule,
    PausedWebhook,
    PoolLoad,
    Situation,
    StoreFigures,
    StuckPool,
    TypeLoad,
)
from ..index import figures, statistics
from ..index.lists import SERVICE
from ..index.statistics import StatisticsScope
from ..projections.schedules import load_schedules
from ..projections.webhooks import WebhookRegistry, load_webhooks
from ..runtime import metrics
from ..runtime.metrics import labelled
from ..runtime.service import Service
from ..runtime.shared_reads import SharedReads
from ..streams.jetstream.messages import list_subjects, read, stream_info
from ..streams.topology.definitions import SCHEDULES, WEBHOOKS
from ..streams.topology.server_checks import clock_difference_ms
from .stuck_pools import StuckPools

T = TypeVar("T")

KEPT_SECONDS = 1.0
"""How long one answer serves all who ask."""
SELDOM_SECONDS = 10.0
"""Likewise, what is read of schedules, webhooks and the clock."""
WATCH_SECONDS = 5.0
"""How often the queues are looked at, also while nobody asks."""
OWNERS_KEPT = 256
"""Users whose alarms are kept for a moment."""
MOST_SCHEDULES = 1_000
"""Schedules that have ever failed, of which the state is read: the newest."""
ENDS_WINDOW = timedelta(minutes=10)
WORKERS = "process.worker-"
"""Beginning of the keys of workers' presences."""
WORKER_LATE = timedelta(seconds=30)
"""How long no worker may give a sign of life; longer where leases last long."""
EVERYBODY = None


class IndexFigures(NamedTuple):
    """Counts of the index that alarms need."""

    waiting: Mapping[str, int]
    """By type."""
    running: Mapping[str, int]
    """By server."""
    held: int
    ends: EndFigures


class _Kept(Generic[T]):
    """A read whose answer is kept for a time. A failed one is not."""

    def __init__(self, read: Callable[[str | None], Awaitable[T]], seconds: float) -> None:
        self._reads = SharedReads[str | None, T](read)
        self._seconds = seconds
        self._found: OrderedDict[str | None, tuple[float, T]] = OrderedDict()

    async def get(self, owner: str | None = EVERYBODY) -> T:
        """Return an answer that is not too old, of an owner token, or of everybody. Raises what the read raises."""
        kept = self._found.get(owner)
        if kept is not None and time.monotonic() - kept[0] < self._seconds:
            return kept[1]
        began = time.monotonic()
        answer = await self._reads.get(owner)
        self._found[owner] = (began, answer)
        self._found.move_to_end(owner)
        while len(self._found) > OWNERS_KEPT:
            self._found.popitem(last=False)
        return answer


class AlarmDesk(Service):
    """Answers which alarms there are. As a service it keeps watching the queues."""

    def __init__(self, container: Container) -> None:
        super().__init__("alarms", period_seconds=WATCH_SECONDS)
        self._container = container
        self._started_at = utc_now()
        self._stuck_pools = StuckPools(container)
        self._turns_since: dict[str, datetime] = {}
        """By pool: since when tasks have waited for the scheduler alone."""
        self._kept = _Kept(self._look, KEPT_SECONDS)
        self._stuck = _Kept(self._look_at_queues, WATCH_SECONDS * 0.9)
        self._clock = _Kept(self._clock_difference, SELDOM_SECONDS)
        self._schedules = _Kept(self._troubled_schedules, SELDOM_SECONDS)
        self._worker_revision = 0
        self._worker_seen_at = self._started_at
        self._workers = _Kept(self._look_at_workers, WATCH_SECONDS * 0.9)
        self._registry = WebhookRegistry()
        self._webhooks_read = 0
        """Sequence of the WEBHOOKS log that the registry reflects."""
        self._webhooks = _Kept(self._troubled_webhooks, SELDOM_SECONDS)

    async def run_once(self) -> dict[str, int]:
        """Look once, and count the alarms for the metrics."""
        found = await self.read()
        counts = Counter(alarm.kind for alarm in found.alarms)
        for kind in KINDS:
            labelled(metrics.alarms, kind).set(counts[kind] + found.more.get(kind, 0))
        return {"alarms": len(found.alarms)}

    async def read(self, owner: str | None = EVERYBODY) -> Alarms:
        """Return the alarms of the service (None), or those of the schedules and webhooks of an owner token."""
        return await self._kept.get(owner)

    async def _look(self, owner: str | None) -> Alarms:
        now = utc_now()
        if owner is EVERYBODY:
            return alarms_of(await self._situation(now))
        (failed, missed), (disabled, paused) = await self._schedules.get(owner), await self._webhooks.get(owner)
        return alarms_of(Situation(now=now, schedules=failed, missed=missed, disabled=disabled, paused=paused))

    async def _situation(self, now: datetime) -> Situation:
        container = self._container
        fleet, depth = container.fleet, container.submissions.admission.depth()
        reasons = self._reasons(now)
        reachable = all(each.is_connected for each in (container.appending, container.reading, container.consuming))
        worker_seen_at = await _known(self._workers.get())
        load, stuck, clock, schedules, webhooks, index = await asyncio.gather(
            _known(container.index.run(_load, SERVICE, current=False)),
            _known(self._stuck.get()),
            _known(self._clock.get()),
            _known(self._schedules.get()),
            _known(self._webhooks.get()),
            _known(container.indexer.status()),
        )
        disabled, paused = webhooks or ([], [])
        failed, missed = schedules or ([], [])
        return Situation(
            now=now,
            is_store_reachable=reachable and index is not None,
            servers=list(fleet.servers()),
            removed=[removed for removed in fleet.removed() if removed.is_kept],
            running=load.running if load else {},
            pools=[
                PoolLoad(
                    name=name,
                    pause=None if f"pool.{token(name)}" in fleet.unreadable else fleet.pool_state(name).pause,
                    waiting_for=found,
                    turn_since=self._turns_since.get(name),
                )
                for name, found in reasons.items()
            ],
            types=self._types(load.waiting if load else {}, reasons),
            stuck=stuck or [],
            report_due_since=container.submissions.admission.reported_at or self._started_at,
            held=load.held if load else depth.held,
            store=self._store(),
            ends=load.ends if load else None,
            halted=container.siblings.halted | container.services.halted,
            unreadable={key: str(error) for key, error in fleet.unreadable.items()},
            missing=container.siblings.missing,
            worker_seen_at=worker_seen_at,
            worker_late=max(WORKER_LATE, timedelta(seconds=2 * container.settings.lease_ttl)),
            schedules=failed,
            missed=missed,
            disabled=disabled,
            paused=paused,
            clock_difference_ms=clock,
            index_lag=index.lag_events if index and index.state != "current" and not index.holds_start else None,
            crowded_owners=container.submissions.stored.nearly_full,
            is_durable=container.server_checks.durability != "interval",
        )

    def _reasons(self, now: datetime) -> Mapping[str, Counter[str]]:
        """Return what tasks wait for, by pool, and note since when some wait for the scheduler alone."""
        found: dict[str, Counter[str]] = {}
        for each in self._container.submissions.admission.depth().depths:
            found.setdefault(each.pool, Counter())[each.reason] += each.count
        turns = (pool for pool, reasons in found.items() if reasons["turn"] > 0)
        self._turns_since = {pool: self._turns_since.get(pool, now) for pool in turns}
        return found

    def _types(self, waiting: Mapping[str, int], reasons: Mapping[str, Counter[str]]) -> list[TypeLoad]:
        """Return the types with waiting tasks. Whether one is served is looked up only if its pools lack servers."""
        fleet = self._container.fleet
        found = []
        for name, count in waiting.items():
            try:
                pause = fleet.type_state(name).pause
            except UnreadableEvent:
                continue  # an alarm of its own
            pools = frozenset(fleet.pools_of_types([name]))
            lacks = any(reasons[pool]["no-server"] for pool in pools if pool in reasons)
            found.append(
                TypeLoad(
                    name=name,
                    pools=pools,
                    waiting=count,
                    pause=pause,
                    is_served=not lacks or self._is_served(name),
                )
            )
        return found

    def _is_served(self, name: str) -> bool:
        return any(
            server.online and not server.maintenance and (not server.settings.types or name in server.settings.types)
            for server in self._container.fleet.servers()
        )

    def _store(self) -> StoreFigures | None:
        space = self._container.space.space
        text = self._container.space.warning() or ""
        if space is None and not text:
            return None
        return StoreFigures(
            accepting=self._container.space.is_accepting,
            text=text,
            percent=space.percent if space else None,
            free_bytes=space.free_bytes if space else None,
        )

    async def _look_at_queues(self, _: str | None) -> list[StuckPool]:
        depth = self._container.submissions.admission.depth()
        if self._container.space.is_scarce:
            return []  # nothing is started: an alarm of its own
        queued: Counter[str] = Counter()
        if depth.counted_at is None:
            queued.update(dict.fromkeys(self._container.fleet.pools(), 0))
        for each in depth.depths:
            if each.reason == "queued":
                queued[each.pool] += each.count
        return await self._stuck_pools.look(queued) if queued else []

    async def _clock_difference(self, _: str | None) -> float:
        return await clock_difference_ms(self._container.reading)

    async def _look_at_workers(self, _: str | None) -> datetime:
        """Return when a worker last renewed its presence, as seen here; without one, since when this process listens.

        No clocks are compared: a presence that changes is one that was renewed.
        """
        entries = await self._container.buckets.leases.scan("process.*")
        latest = max((entry.revision for entry in entries if entry.key.startswith(WORKERS)), default=0)
        if latest > self._worker_revision:
            self._worker_revision, self._worker_seen_at = latest, utc_now()
        return self._worker_seen_at

    async def _troubled_schedules(self, owner: str | None) -> tuple[list[FailedSchedule], list[MissedSchedule]]:
        """Return the schedules whose last runs could not be submitted, and those whose last runs were missed.

        Only those are read to which it ever happened.
        """
        reading = self._container.reading
        subjects = [
            subject
            for event in (ScheduleFailed, ScheduleSkipped)
            for subject in await list_subjects(reading, SCHEDULES, schedules_filter(owner, event))
        ]
        refs = sorted(set(map(schedule_ref, subjects)), key=lambda ref: ref.id, reverse=True)
        states = await load_schedules(reading, refs[:MOST_SCHEDULES])
        found = [state for state in states.values() if isinstance(state, Created)]
        failed = [
            FailedSchedule(
                id=state.schedule_id,
                name=state.settings.name,
                owner=state.owner,
                at=state.failure.at,
                error=state.failure.error,
                path=state.failure.path,
            )
            for state in found
            if state.failure is not None and (state.fired_at is None or state.failure.at >= state.fired_at)
        ]
        missed = [
            MissedSchedule(id=state.schedule_id, name=state.settings.name, owner=state.owner, at=state.skipped_at)
            for state in found
            if state.skipped_at is not None
            and not state.paused
            and all(at is None or at < state.skipped_at for at in (state.fired_at, state.triggered_at))
        ]
        return failed, missed

    async def _all_webhooks(self) -> WebhookRegistry:
        """Return the webhooks of everybody. Only what came since the last call is read."""
        reading = self._container.reading
        last = int((await stream_info(reading, WEBHOOKS))["state"]["last_seq"])
        if last < self._webhooks_read:  # an older log was restored
            self._registry, self._webhooks_read = WebhookRegistry(), 0
        if last > self._webhooks_read:
            positions = await read(reading, WEBHOOKS, WEBHOOK_SUBJECTS, self._webhooks_read + 1)
            self._registry.apply(positions)
            self._webhooks_read = positions[-1].sequence if positions else self._webhooks_read
        return self._registry

    async def _troubled_webhooks(self, owner: str | None) -> tuple[list[DisabledWebhook], list[PausedWebhook]]:
        """Return the webhooks that the service has disabled, and those whose receivers ask for pauses now."""
        now = utc_now()
        registry = await (self._all_webhooks() if owner is EVERYBODY else load_webhooks(self._container.reading, owner))
        registered = dict(registry.registered())
        pauses = await self._container.deliveries.pauses(owner)
        disabled = [
            DisabledWebhook(id=ref.id, owner=it.owner, url=it.settings.url, at=it.changed_at, reason=it.disabled_reason)
            for ref, it in registered.items()
            if not it.active and it.disabled_by is not None and it.disabled_by.kind == "system"
        ]
        paused = [
            PausedWebhook(
                id=ref.id,
                owner=registered[ref].owner,
                url=registered[ref].settings.url,
                since=pause.since,
                until=pause.until,
                pauses=pause.count,
            )
            for ref, pause in pauses.items()
            if ref in registered and pause.until_now(registered[ref], now) is not None
        ]
        return disabled, paused


async def _known(reading: Coroutine[Any, Any, T]) -> T | None:
    """Return what is read; None if it cannot be known now."""
    try:
        return await reading
    except (StoreError, UnreadableEvent):
        return None


def _load(connection: sqlite3.Connection) -> IndexFigures:
    scope = StatisticsScope()
    totals = statistics.totals(connection, scope, by_owner=False)
    now = utc_now()
    window = statistics.window_of(now - ENDS_WINDOW, now, timedelta(minutes=1), now)
    flow = statistics.flows(connection, scope, window, now).total.whole
    failed = flow.get(figures.FAILED, 0)
    return IndexFigures(
        waiting={name: numbers.waiting for name, numbers in totals.by["type"] if numbers.waiting},
        running={name: numbers.processing for name, numbers in totals.by["server"] if numbers.processing},
        held=totals.numbers.held,
        ends=EndFigures(
            window=ENDS_WINDOW,
            failed=failed,
            ended=failed + flow.get(figures.FINISHED, 0) + flow.get(figures.CANCELLED, 0),
        ),
    )
