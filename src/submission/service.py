"""Where tasks come in, from whichever door: what they depend on is looked up, quotas are minded, holds are found."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace
from nats.aio.msg import Msg

from ..clock import utc_now
from ..commands.commands import Commands
from ..commands.handler import Handled, Known
from ..commands.task import UNKNOWN, SubmitTask, TaskState
from ..errors import InvalidInput, InvalidItems, KeyTaken, QuotaExceeded, StoreError
from ..events.envelope import Actor
from ..events.ids import TaskRef, parse_task_id
from ..events.subjects import history_filter, task_root
from ..events.task import TaskCancelled, TaskEvent
from ..projections.fleet import Fleet
from ..push.feed import FeedPosition, Feeds
from ..push.hub import Scope, Update
from ..scheduling.backlog_report import BACKLOG_SUBJECT
from ..scheduling.backlog_report import decode as decode_word
from ..scheduling.windows import window
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_position
from ..streams.topology.definitions import TASKS
from .admission import Admission

LOOKED_UP_AT_ONCE = 64
DECIDED_SECONDS = 2.0
"""How long a submission may wait for the keeper to say whether it is refused."""


class SubmittedTasks(NamedTuple):
    """What came of submissions that were taken together."""

    is_new: bool
    """False: all were there already, by the same request."""
    refused: dict[TaskRef, str]
    """Those whose concurrency key was taken, and why: they are in the log, as cancelled."""


class SubmissionService:
    def __init__(self, fleet: Fleet, commands: Commands, reading: Connection, feeds: Feeds) -> None:
        self._fleet = fleet
        self._feeds = feeds
        self._commands = commands
        self._reading = reading
        self.admission = Admission(fleet)

    async def listen(self, connection: Connection) -> None:
        """Begin to hear the keeper's word."""
        await connection.subscribe(BACKLOG_SUBJECT, self._hear)

    async def _hear(self, message: Msg) -> None:
        self.admission.on_report(decode_word(message.data), utc_now())

    async def submit(
        self, ref: TaskRef, command: SubmitTask, *, by: Actor, cause: str
    ) -> Handled[TaskState, TaskEvent]:
        """Append a submission, held or queued; for a task that was submitted before, append nothing.

        Raises InvalidInput for a parent there is not, QuotaExceeded, and as Commands.task does. KeyTaken: the task is
        in the log, as cancelled.
        """
        if command.plan is not None and command.plan.depends_on:
            await self.look_up_parents(ref.owner, command.plan.depends_on)
        await self._check_quota([(ref, command)])
        command = replace(command, held=self.admission.holds(ref, command, utc_now()))
        with self.admission.storing([(ref, command)]):
            handled = await self._commands.task(ref, command, by=by, cause=cause, known=Known(UNKNOWN, 0))
        if handled.appended:
            self.admission.note(ref, command, handled.known.sequence)
            newcomers = {ref: handled.known.sequence} if self._may_be_refused(command) else {}
            if refused := await self._refused(Scope(ref=ref), newcomers):
                raise KeyTaken(refused[ref])
        return handled

    def _may_be_refused(self, command: SubmitTask) -> bool:
        if command.plan is None or not command.plan.concurrency_key:
            return False
        definition = self._fleet.type_state(command.task_type).definition
        return definition is not None and definition.on_conflict == "refuse"

    async def _refused(self, scope: Scope, newcomers: Mapping[TaskRef, int]) -> dict[TaskRef, str]:
        """Return those of these tasks that the keeper refuses, and why: they are in the log, as cancelled.

        `newcomers`: with the sequence that each was stored at. One about which nothing is said in time, as its own time
        or its parents hold it, may be told of later; so may all where the log cannot be read now: they are in it.
        """
        refused: dict[TaskRef, str] = {}
        undecided = set(newcomers)
        if not undecided:
            return refused
        place = FeedPosition(max(newcomers.values()))
        with contextlib.suppress(TimeoutError, StoreError):
            async with (
                asyncio.timeout(DECIDED_SECONDS),
                contextlib.aclosing(self._feeds.feed(scope, place, DECIDED_SECONDS)) as feed,
            ):
                async for told in feed:
                    if told is None or not isinstance(told.what, Update) or told.what.ref not in undecided:
                        continue
                    if isinstance(told.what.event, TaskCancelled):
                        refused[told.what.ref] = told.what.event.reason
                    undecided.discard(told.what.ref)
                    if not undecided:
                        break
        return refused

    async def submit_together(
        self, submissions: Sequence[tuple[TaskRef, SubmitTask]], *, by: Actor, cause: str
    ) -> SubmittedTasks:
        """Append the submissions of a batch, each held or queued, all or none, as `submit` does.

        They may depend on each other. Raises InvalidItems for parents there are not. Those whose concurrency key is
        taken are refused one by one, and the others go on.
        """
        await self._look_up_all_parents(submissions)
        await self._check_quota(submissions)
        now = utc_now()
        ahead: Counter[str] = Counter()
        decided = []
        for ref, command in submissions:
            name = window(command.pool, command.priority, command.task_type, command.plan)
            held = self.admission.holds(ref, command, now, ahead[name])
            ahead[name] += not held
            decided.append((ref, replace(command, held=True) if held else command))
        with self.admission.storing(decided):
            handled = await self._commands.submit_together(decided, by=by, cause=cause)
        newcomers: dict[TaskRef, int] = {}
        for (ref, command), each in zip(decided, handled, strict=True):
            if each.appended:
                self.admission.note(ref, command, each.known.sequence)
                if self._may_be_refused(command):
                    newcomers[ref] = each.known.sequence
        return SubmittedTasks(
            is_new=any(each.appended for each in handled),
            refused=await self._refused(Scope(owner=submissions[0][0].owner), newcomers),
        )

    async def _check_quota(self, submissions: Sequence[tuple[TaskRef, SubmitTask]]) -> None:
        """Raise QuotaExceeded where the owner may not have so many more waiting. Those there already are none more."""
        ref, command = submissions[0]
        try:
            self.admission.check_quota(ref.owner, len(submissions))
        except QuotaExceeded:
            if not (command.repeatable and await self._commands.tasks.history(ref)):
                raise

    async def _look_up_all_parents(self, submissions: Sequence[tuple[TaskRef, SubmitTask]]) -> None:
        """Raise InvalidItems unless all parents that are not among the submissions are there."""
        with_parents = {
            place: command.plan.depends_on
            for place, (_, command) in enumerate(submissions)
            if command.plan is not None and command.plan.depends_on
        }
        if not with_parents:
            return
        owner = submissions[0][0].owner
        known = {ref.id for ref, _ in submissions}
        others = {parent_id for parents in with_parents.values() for parent_id in parents} - known
        known |= await self._those_there(owner, others)
        found = {
            place: InvalidInput(f"you have no task {parent_id}", f"$.dependsOn[{number}]")
            for place, parents in with_parents.items()
            for number, parent_id in reversed(list(enumerate(parents)))
            if parent_id not in known
        }
        if found:
            raise InvalidItems(found, len(submissions))

    async def look_up_parents(self, owner: str, parents: Collection[str]) -> None:
        """Raise InvalidInput unless all these tasks are there, and are the owner's."""
        there = await self._those_there(owner, parents)
        for place, parent_id in enumerate(parents):
            if parent_id not in there:
                raise InvalidInput(f"you have no task {parent_id}", f"$.dependsOn[{place}]")

    async def _those_there(self, owner: str, task_ids: Collection[str]) -> set[str]:
        """Return those of these tasks that are there, and are the owner's."""
        places = asyncio.Semaphore(LOOKED_UP_AT_ONCE)

        async def is_there(task_id: str) -> bool:
            ref = parse_task_id(task_id)
            if ref.owner != owner:
                return False
            async with places:
                return await last_position(self._reading, TASKS, history_filter(task_root(ref))) is not None

        found = await asyncio.gather(*map(is_there, task_ids))
        return {task_id for task_id, exists in zip(task_ids, found, strict=True) if exists}
