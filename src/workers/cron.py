"""Cron: the runs of recurring schedules.

When a schedule is due, a worker fires it, submits its tasks, and sets its next timer. Any worker may. Tasks go in
through `submission.service` like all others, with the same holds and quotas. A refused task is a failed run.

Authority: the log of schedules says what has fired, the log of tasks what was submitted. Safety: firing is one guarded
append, so only one of many workers fires a run; the id of its task is made of the schedule and the time of the run, so
submitting it twice makes one task. Liveness: the message of a timer is acked only when the task is in the log and the
next timer is set; nothing fires before the tasks of the last firing are in the log; the reconciler sets missing timers.
Timers are only hints: one that fires early, late or twice changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from ..clock import utc_now
from ..commands.handler import Known
from ..commands.schedule import Created, FireSchedule, RecordFailure, ScheduleState
from ..container import Container
from ..errors import IdempotencyConflict, InvalidInput, Refused
from ..events.envelope import Actor
from ..events.ids import ScheduleRef, parse_task_id
from ..events.schedule import Run
from ..events.subjects import history_filter, task_root, timer_name, timers_filter
from ..projections.schedules import load_schedules, schedule_refs
from ..runtime import metrics
from ..runtime.metrics import labelled
from ..streams.client.connection import PayloadTooLarge
from ..streams.jetstream.messages import last_sequence, list_subjects
from ..streams.topology.definitions import TASKS, TIMERS
from ..submission.body import read_task

log = structlog.get_logger(__name__)

BY = Actor("timer", "schedule")
HELD = timedelta(seconds=30)
"""How long a schedule is held before it is looked at again."""
AT_ONCE = 50
"""Schedules attended to at the same time when many have lost their timers, as after a restore."""


class Cron:
    def __init__(self, container: Container) -> None:
        self._grace = timedelta(seconds=container.settings.schedule_grace)
        self._task_retention = timedelta(seconds=container.settings.task_retention)
        self._max_json_depth = container.settings.max_json_depth
        self._reading = container.reading
        self._schedules = container.commands.schedules
        self._timers = container.timers
        self._submissions = container.submissions
        self._held: set[ScheduleRef] = set()
        """Schedules that are held; the log has said so."""

    async def attend(self, ref: ScheduleRef, due_at: datetime | None = None) -> None:
        """Submit what has fired, fire what is due, and set the next timer. Safe to repeat, also at the same time.

        `due_at`: the time the timer was set to. Raises StoreUnavailable, and UnreadableEvent if the schedule needs a
        newer version of this program; call it again then.
        """
        known = await self._schedules.load(ref)
        if await self._is_held(ref, known.state, due_at):
            await self._timers.run_schedule(ref, utc_now() + HELD)
            return
        known = await self._settle(ref, known)
        settled = known.state.fired if isinstance(known.state, Created) else ()
        skipped = known.state.counts.skipped if isinstance(known.state, Created) else 0
        command = FireSchedule(ref=ref, grace=self._grace, due_at=due_at, settled=settled)
        try:
            handled = await self._schedules.handle(ref, command, by=BY, known=known)
        except Refused:  # deleted
            return
        known = handled.known
        if (
            handled.appended
            and isinstance(known.state, Created)
            and (missed := known.state.counts.skipped - skipped) > 0
        ):
            labelled(metrics.schedule_runs, "missed").inc(missed)
            log.warning("schedule.missed", schedule=ref.id, runs=missed)
        if handled.appended and isinstance(known.state, Created) and known.state.fired != settled:
            known = await self._submit(ref, known, known.state, known.state.fired)
        state = known.state
        if isinstance(state, Created) and not state.paused and state.next_at is not None:
            await self._timers.run_schedule(ref, state.next_at)

    async def _is_held(self, ref: ScheduleRef, state: ScheduleState, due_at: datetime | None) -> bool:
        """Return True if a schedule must not fire now: the store has no space for new work, or its owner has none.

        What is due then fires once there is space. A run that is later than the grace has been missed, and `missed` of
        the schedule decides.
        """
        reason = None
        if isinstance(state, Created) and (state.unsettled or _is_due(state, due_at)):
            reason = await self._submissions.holds_schedule(ref.owner, state)
        if reason is None:
            self._held.discard(ref)
            return False
        if ref not in self._held:
            self._held.add(ref)
            log.warning("schedule.held", schedule=ref.id, reason=reason)
        return True

    async def set_missing(self) -> int:
        """Attend to every schedule that has a next run and no timer. Return their number."""
        timed = {
            timer_name(subject) for subject in await list_subjects(self._reading, TIMERS, timers_filter("schedule"))
        }
        untimed = [ref for ref in await schedule_refs(self._reading, None) if ref not in timed]
        states = await load_schedules(self._reading, untimed)
        missing = [ref for ref, state in states.items() if _runs_again(state)]
        for start in range(0, len(missing), AT_ONCE):
            await asyncio.gather(*(self.attend(ref) for ref in missing[start : start + AT_ONCE]))
        return len(missing)

    async def _settle(self, ref: ScheduleRef, known: Known[ScheduleState]) -> Known[ScheduleState]:
        """Submit the tasks of the last firing that are not in the log: the worker that fired may have died."""
        state = known.state
        if not isinstance(state, Created) or not state.unsettled or self._may_have_aged_out(state):
            return known
        missing = [run for run in state.fired if not await self._is_in_log(run)]
        return await self._submit(ref, known, state, missing) if missing else known

    def _may_have_aged_out(self, state: Created) -> bool:
        """Return True if the tasks of the last firing may be past their retention: a missing one may have run."""
        return bool(self._task_retention and state.fired_at and state.fired_at + self._task_retention < utc_now())

    async def _is_in_log(self, run: Run) -> bool:
        root = task_root(parse_task_id(run.task_id))
        return await last_sequence(self._reading, TASKS, history_filter(root)) > 0

    async def _submit(
        self, ref: ScheduleRef, known: Known[ScheduleState], state: Created, runs: Sequence[Run]
    ) -> Known[ScheduleState]:
        """Submit the tasks of runs, one after another: if the quota allows only some, the earliest ones.

        Record refused runs on the schedule. Return the schedule after that.
        """
        results = [(run, await self._submit_one(ref, state, run)) for run in runs]
        refused = [(run, error) for run, error in results if error is not None]
        labelled(metrics.schedule_runs, "submitted").inc(len(results) - len(refused))
        labelled(metrics.schedule_runs, "failed").inc(len(refused))
        if not refused:
            return known
        error = refused[0][1]
        log.warning("schedule.failed", schedule=ref.id, runs=len(refused), reason=str(error))
        path = error.path if isinstance(error, InvalidInput) else ""
        detail = error.detail if isinstance(error, InvalidInput) else str(error)
        command = RecordFailure(runs=tuple(run for run, _ in refused), error=detail, path=path)
        with contextlib.suppress(Refused):  # deleted
            return (await self._schedules.handle(ref, command, by=BY, known=known)).known
        return known

    async def _submit_one(self, ref: ScheduleRef, state: Created, run: Run) -> Exception | None:
        """Submit the task of a run by the present rules of its type. Return the refusal, None if the task exists."""
        try:
            request = read_task(
                bytes(state.settings.task), state.owner, self._max_json_depth, repeatable=True, schedule=ref.id
            )
            await self._submissions.submit(parse_task_id(run.task_id), request, by=BY, cause="")
        except IdempotencyConflict:
            pass  # an earlier try submitted it, before the schedule's task changed
        except (Refused, PayloadTooLarge) as error:
            return error
        return None


def _is_due(state: Created, due_at: datetime | None) -> bool:
    now = utc_now()
    return not state.paused and state.next_at is not None and state.next_at <= max(now, due_at or now)


def _runs_again(state: ScheduleState) -> bool:
    return isinstance(state, Created) and not state.paused and state.next_at is not None
