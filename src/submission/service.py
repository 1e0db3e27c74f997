"""The one way in for tasks: check, admit, append and count a submission.

Five callers use it: `POST /api/task`, batches, the queue surface, `run` of a schedule, and cron. They read their input
and shape their answer; everything between is the same for all of them. Three differences are deliberate:

* A batch looks for an earlier request with its key before it reads the body, as reading 1,000 tasks costs more than one
  lookup. A single task is appended at once, and looked up only if it is refused or already stored.
* The tasks of a batch are stored together or not at all. Those whose concurrency key is taken are reported in the
  outcome; for a single task this is an error, KeyTaken.
* Cron submits the runs of a schedule with ids of their own, so it needs no Idempotency-Key to repeat one safely.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from msgspec.structs import replace
from nats.aio.msg import Msg

from ..clock import utc_now
from ..commands.commands import Commands
from ..commands.handler import Handled, Known
from ..commands.schedule import Created
from ..commands.task_commands import SubmitTask
from ..commands.task_state import UNKNOWN, TaskState, Unknown
from ..errors import (
    FileMissing,
    IdempotencyConflict,
    InvalidInput,
    InvalidItems,
    KeyTaken,
    NotFound,
    QuotaExceeded,
    StoredTooMuch,
    StoreError,
    StoreReserved,
)
from ..events.envelope import Actor, Event
from ..events.ids import BatchRef, FileRef, TaskRef, nth, parse_file_id, parse_task_id
from ..events.subjects import SCHEDULER_BACKLOG, history_filter, task_root
from ..events.task import TaskCancelled, TaskEvent, TaskSubmitted
from ..files.holds import FileHolds
from ..files.references import place_of
from ..projections.batches import Batch, BatchReader
from ..projections.fleet import Fleet
from ..projections.keys import KeyRing
from ..projections.usage import MESSAGE_BYTES, CountedLog
from ..push.feed import FeedPosition, Feeds
from ..push.listeners import Scope
from ..push.subscription_filter import TaskAttributeReader
from ..push.updates import LoggedEvent
from ..runtime import metrics
from ..runtime.metrics import labelled
from ..runtime.spans import Tracing
from ..scheduling.backlog_report import decode as decode_report
from ..settings import Settings
from ..streams.buckets import Bucket
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import list_subjects
from ..streams.storage import StoreSpace
from ..streams.topology.definitions import TASKS
from ..wire.trace import NO_CONTEXT, TraceContext
from .admission import Admission, places
from .batch_body import BatchParser
from .body import TaskRequest, TypeRules, fingerprint
from .stored_bytes import StoredQuota, size_of

LOOKED_UP_AT_ONCE = 64
DECIDED_SECONDS = 2.0
"""How long a submission waits for the scheduler to accept or refuse its concurrency key."""
NEW: Known[TaskState] = Known(UNKNOWN, 0)
S = TypeVar("S")
E = TypeVar("E", bound=Event)


class SubmittedBatch(NamedTuple):
    """The outcome of a batch."""

    refs: Sequence[TaskRef]
    """Its tasks, in the order of the body."""
    is_new: bool
    """False if an earlier request with the same key and body stored them all."""
    refused: Mapping[TaskRef, str]
    """Tasks whose concurrency key was taken, with the reason. They are in the log, cancelled."""


class SubmissionService:
    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        commands: Commands,
        reading: Connection,
        feeds: Feeds,
        batches: BatchReader,
        usage: Bucket,
        space: StoreSpace,
        tracing: Tracing | None = None,
        *,
        keys: KeyRing,
        attributes: TaskAttributeReader,
    ) -> None:
        self._keys = keys
        self._attributes = attributes
        self._fleet = fleet
        self._commands = commands
        self._reading = reading
        self._feeds = feeds
        self._batches = batches
        self.admission = Admission(fleet)
        self.stored = StoredQuota(fleet, usage, settings.task_retention)
        self.space = space
        self._tracing = tracing
        self.rules = TypeRules(settings, fleet)
        self.file_holds = FileHolds(commands)
        self._batch_parser = BatchParser(settings, self.rules)

    async def listen(self, connection: Connection) -> None:
        """Start to receive the scheduler's backlog reports."""
        await connection.listen(SCHEDULER_BACKLOG, self._on_report)

    def _on_report(self, message: Msg) -> None:
        self.admission.on_report(decode_report(message.data), utc_now())

    async def check_bytes(self, owner: str, size_bytes: int = 4 * MESSAGE_BYTES) -> None:
        """Check that so many bytes of new work may be stored for an owner (by token).

        Raises StoredTooMuch at the owner's quota, StoreReserved if the store has no space for new work.
        """
        await self.stored.check(owner, size_bytes)
        self.space.check(size_bytes)

    async def holds_schedule(self, owner: str, schedule: Created) -> str | None:
        """Return why no run of a schedule of an owner (by token) may fire now; None: one may.

        At the quota of stored bytes one run fails, and says why; any more would fill the store with such failures.
        """
        if schedule.failure is not None and schedule.failure.runs == schedule.fired:
            try:
                await self.stored.check(owner)
            except StoredTooMuch as error:
                return str(error)
        return self.space.refusal()

    async def store(
        self, of: CountedLog, owner: str, size_bytes: int, append: Callable[[], Awaitable[Handled[S, E]]]
    ) -> Handled[S, E]:
        """Append to a schedule or webhook of an owner (by token), about so many bytes. Raises as `check_bytes` does."""
        size_bytes += 2 * MESSAGE_BYTES
        await self.check_bytes(owner, size_bytes)
        with self.stored.in_flight(owner, size_bytes):
            handled = await append()
        if handled.appended:
            self.stored.record(owner, handled.known.sequence, size_bytes, of)
        return handled

    async def submit(
        self, ref: TaskRef, request: TaskRequest, *, by: Actor, cause: str
    ) -> Handled[TaskState, TaskEvent]:
        """Append a task, held or queued. For the same request again, append nothing and return the task it made.

        An earlier request with the same key wins over any refusal: its type may be stricter by now, its instants may
        have passed, or its parents may be gone.

        Raises InvalidInput, QuotaExceeded, IdempotencyConflict, StoreReserved if the store has no space for new work,
        and StoreError as Handler.handle does: nothing is known to be stored. Raises KeyTaken if the concurrency key is
        in use: the task is in the log, cancelled.
        """
        if self._tracing is None:
            return await self._submit(ref, request, by=by, cause=cause)
        with self._tracing.submission(request.trace, sent=ref.id) as span:
            return await self._submit(ref, replace(request, trace=span.context), by=by, cause=cause)

    async def _submit(
        self, ref: TaskRef, request: TaskRequest, *, by: Actor, cause: str
    ) -> Handled[TaskState, TaskEvent]:
        try:
            submitted = self.rules.submitted(request)
            if by.key:
                self._keys.check_type(by.key, submitted.task_type)
            if submitted.plan is not None and submitted.plan.depends_on:
                await self._check_parents(ref.owner, submitted.plan.depends_on, by)
            self.admission.check_quota(ref.owner, 1)
            await self.check_bytes(ref.owner, size_of(submitted))
            if submitted.files:
                await self._refer(ref, submitted.files, request, by=by, cause=cause)
        except (InvalidInput, QuotaExceeded, StoreReserved):
            earlier = await self._find(ref, request) if request.repeatable else None
            if earlier is None:
                raise
            return Handled(earlier, [])
        submitted = self.admission.placed(ref, submitted, utc_now())
        size = size_of(submitted)
        with self.admission.in_flight([(ref, submitted)]), self.stored.in_flight(ref.owner, size):
            command = SubmitTask(submission=submitted, repeatable=request.repeatable)
            handled = await self._commands.tasks.handle(ref, command, by=by, cause=cause, known=NEW)
        if handled.appended:
            labelled(metrics.submitted, submitted.pool, submitted.priority).inc()
            self.admission.record(ref, submitted, handled.known.sequence)
            self.stored.record(ref.owner, handled.known.sequence, size)
            if self._may_be_refused(submitted):
                refused = await self._refused(Scope(ref=ref), {ref: handled.known.sequence})
                if ref in refused:
                    raise KeyTaken(refused[ref])
        return handled

    async def _refer(self, ref: TaskRef, files: Sequence[str], request: TaskRequest, *, by: Actor, cause: str) -> None:
        """Keep the files that a task refers to. Raises FileMissing."""
        try:
            await self.file_holds.refer({parse_file_id(each): (ref.id,) for each in files}, by=by, cause=cause)
        except NotFound as missing:
            raise FileMissing(missing.name, place_of(request.payload, missing.name, request.payload_path)) from None

    async def _refer_together(
        self, submissions: Sequence[tuple[TaskRef, TaskSubmitted]], *, by: Actor, cause: str
    ) -> None:
        """Keep the files that the tasks of a batch refer to. Raises InvalidItems."""
        tasks: dict[FileRef, list[str]] = {}
        first: dict[str, int] = {}
        for place, (task_ref, submitted) in enumerate(submissions):
            for file_id in submitted.files:
                tasks.setdefault(parse_file_id(file_id), []).append(task_ref.id)
                first.setdefault(file_id, place)
        if not tasks:
            return
        try:
            await self.file_holds.refer(tasks, by=by, cause=cause)
        except NotFound as missing:
            raise InvalidItems({first[missing.name]: FileMissing(missing.name, "")}, len(submissions)) from None

    async def _find(self, ref: TaskRef, request: TaskRequest) -> Known[TaskState] | None:
        """Return the task an earlier request with this key made, None if there is none. Raises IdempotencyConflict."""
        known = await self._commands.tasks.load(ref)
        if isinstance(known.state, Unknown):
            return None
        if known.state.facts.fingerprint != request.fingerprint:
            raise IdempotencyConflict
        return known

    async def submit_batch(
        self,
        ref: BatchRef,
        body: bytes,
        media_type: str,
        *,
        owner: str,
        by: Actor,
        cause: str,
        repeatable: bool,
        trace: TraceContext = NO_CONTEXT,
    ) -> SubmittedBatch:
        """Append the tasks of a batch, each held or queued, all or none. They may depend on each other.

        The same request again appends what is missing: a store that ran full may have kept only the first tasks.

        Raises as `submit` does, except KeyTaken; InvalidItems with what is wrong with each task.
        """
        submit = partial(
            self._submit_batch, ref, body, media_type, owner=owner, by=by, cause=cause, repeatable=repeatable
        )
        if self._tracing is None:
            return await submit(trace)
        with self._tracing.submission(trace, sent=ref.id, is_batch=True) as span:
            return await submit(span.context)

    async def _submit_batch(
        self,
        ref: BatchRef,
        body: bytes,
        media_type: str,
        trace: TraceContext,
        *,
        owner: str,
        by: Actor,
        cause: str,
        repeatable: bool,
    ) -> SubmittedBatch:
        whole = fingerprint(body)
        if repeatable and (earlier := await self._find_batch(ref, whole)) and await self._batches.is_complete(earlier):
            return SubmittedBatch(earlier.refs, is_new=False, refused={})
        tasks = self._batch_parser.parse(body, media_type, ref, owner, repeatable=repeatable, trace=trace)
        submissions = [(nth(ref, place), submitted) for place, submitted in enumerate(tasks)]
        for _, submitted in submissions:
            self._keys.check_type(by.key, submitted.task_type)
        await self._check_batch_parents(ref.owner, submissions, by)
        size = sum(size_of(submitted) for _, submitted in submissions)
        try:
            self.admission.check_quota(ref.owner, len(submissions))
            await self.check_bytes(ref.owner, size)
        except (QuotaExceeded, StoreReserved) as error:
            if isinstance(error, StoreReserved) or not (repeatable and await self._find_batch(ref, whole)):
                raise
        await self._refer_together(submissions, by=by, cause=cause)
        return await self._store_batch(ref, submissions, size, by=by, cause=cause, repeatable=repeatable)

    async def submit_tasks(
        self, ref: BatchRef, submissions: Sequence[tuple[TaskRef, TaskSubmitted]], *, by: Actor, cause: str
    ) -> SubmittedBatch:
        """Append a batch of tasks that are ready to be stored, each held or queued, all or none; again, nothing.

        Raises QuotaExceeded, StoredTooMuch, StoreReserved, IdempotencyConflict if one of the tasks is stored with
        another fingerprint, StoreError.
        """
        size = sum(size_of(submitted) for _, submitted in submissions)
        self.admission.check_quota(ref.owner, len(submissions))
        await self.check_bytes(ref.owner, size)
        return await self._store_batch(ref, submissions, size, by=by, cause=cause, repeatable=True)

    async def _store_batch(
        self,
        ref: BatchRef,
        submissions: Sequence[tuple[TaskRef, TaskSubmitted]],
        size: int,
        *,
        by: Actor,
        cause: str,
        repeatable: bool,
    ) -> SubmittedBatch:
        now = utc_now()
        ahead: Counter[str] = Counter()
        decided = []
        for task_ref, submitted in submissions:
            placed = self.admission.placed(task_ref, submitted, now, ahead)
            if not placed.held:
                ahead.update(places(submitted))
            decided.append((task_ref, placed))
        with self.admission.in_flight(decided), self.stored.in_flight(ref.owner, size):
            commands = [
                (task_ref, SubmitTask(submission=submitted, repeatable=repeatable)) for task_ref, submitted in decided
            ]
            handled = await self._commands.submit_together(commands, by=by, cause=cause)
        counts: Counter[tuple[str, str]] = Counter()
        keyed: dict[TaskRef, int] = {}
        for (task_ref, submitted), each in zip(decided, handled, strict=True):
            if each.appended:
                counts[submitted.pool, submitted.priority] += 1
                self.admission.record(task_ref, submitted, each.known.sequence)
                self.stored.record(task_ref.owner, each.known.sequence, size_of(submitted))
                if self._may_be_refused(submitted):
                    keyed[task_ref] = each.known.sequence
        for (pool, priority), count in counts.items():
            labelled(metrics.submitted, pool, priority).inc(count)
        return SubmittedBatch(
            refs=[task_ref for task_ref, _ in submissions],
            is_new=any(each.appended for each in handled),
            refused=await self._refused(Scope(batch=ref), keyed),
        )

    async def _find_batch(self, ref: BatchRef, whole: str) -> Batch | None:
        """Return the batch an earlier request with this key made, None if there is none. Raises IdempotencyConflict."""
        try:
            batch = await self._batches.find(ref)
        except NotFound:
            return None
        if batch.fingerprint != whole:
            raise IdempotencyConflict
        return batch

    def _may_be_refused(self, submitted: TaskSubmitted) -> bool:
        if submitted.plan is None or not submitted.plan.concurrency_key:
            return False
        definition = self._fleet.type_state(submitted.task_type).definition
        return definition is not None and definition.on_conflict == "refuse"

    async def _refused(self, scope: Scope, keyed: Mapping[TaskRef, int]) -> dict[TaskRef, str]:
        """Return the tasks whose concurrency key was taken, with the reason. They are in the log, cancelled.

        `keyed`: the new tasks with a concurrency key, with the sequences they were stored at. A task is left out if the
        scheduler decides nothing within DECIDED_SECONDS, because its start time or its parents hold it, or if the log
        cannot be read now; it may still be refused later.
        """
        refused: dict[TaskRef, str] = {}
        undecided = set(keyed)
        if not undecided:
            return refused
        position = FeedPosition(max(keyed.values()))
        with contextlib.suppress(TimeoutError, StoreError):
            async with (
                asyncio.timeout(DECIDED_SECONDS),
                contextlib.aclosing(self._feeds.feed(scope, position, DECIDED_SECONDS, in_log=True)) as feed,
            ):
                async for item in feed:
                    if item is None or not isinstance(item.what, LoggedEvent) or item.what.ref not in undecided:
                        continue
                    if isinstance(item.what.event, TaskCancelled):
                        refused[item.what.ref] = item.what.event.reason
                    undecided.discard(item.what.ref)
                    if not undecided:
                        break
        return refused

    async def _check_parents(self, owner: str, parents: Collection[str], by: Actor) -> None:
        """Raise InvalidInput unless the owner has all these tasks, and the caller reaches them."""
        known = await self._existing(owner, parents, by)
        if missing := _missing_parent(parents, known):
            raise missing

    async def _check_batch_parents(
        self, owner: str, submissions: Sequence[tuple[TaskRef, TaskSubmitted]], by: Actor
    ) -> None:
        """Raise InvalidItems unless the owner has, and `by` reaches, all parents that are not in the batch itself."""
        parents = {
            place: submitted.plan.depends_on
            for place, (_, submitted) in enumerate(submissions)
            if submitted.plan is not None and submitted.plan.depends_on
        }
        if not parents:
            return
        known = {ref.id for ref, _ in submissions}
        known |= await self._existing(owner, {parent for ids in parents.values() for parent in ids} - known, by)
        found = {place: missing for place, ids in parents.items() if (missing := _missing_parent(ids, known))}
        if found:
            raise InvalidItems(found, len(submissions))

    async def _existing(self, owner: str, task_ids: Collection[str], by: Actor) -> set[str]:
        """Return which of these tasks exist, are the owner's, and are of a type that `by` reaches."""
        slots = asyncio.Semaphore(LOOKED_UP_AT_ONCE)

        async def exists(task_id: str) -> bool:
            ref = parse_task_id(task_id)
            if ref.owner != owner:
                return False
            async with slots:
                if not self._keys.reaches_all(by.key):
                    return self._keys.reaches(by.key, (await self._attributes.facts(ref)).task_type)
                # By subjects: an event may carry a large payload or result.
                return bool(await list_subjects(self._reading, TASKS, history_filter(task_root(ref))))

        found = await asyncio.gather(*map(exists, task_ids))
        return {task_id for task_id, is_there in zip(task_ids, found, strict=True) if is_there}


def _missing_parent(parents: Collection[str], known: Collection[str]) -> InvalidInput | None:
    return next(
        (
            InvalidInput(f"you have no task {parent}", f"$.dependsOn[{number}]")
            for number, parent in enumerate(parents)
            if parent not in known
        ),
        None,
    )
