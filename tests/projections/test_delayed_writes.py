"""The `tasks` bucket while views wait to be written: complete as of its checkpoint, after any crash, at few writes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import pytest

from taskstream.commands import task_commands as task
from taskstream.container import Container
from taskstream.errors import Conflict
from taskstream.events.codec import task_codec
from taskstream.events.ids import TaskRef
from taskstream.events.subjects import task_ref
from taskstream.projections.active import ref_of
from taskstream.projections.checkpoint import CHECKPOINT
from taskstream.projections.task_projection import TaskProjection
from taskstream.projections.task_view import ACTIVE, TaskView, decode, fold, view_key
from taskstream.projections.unwritten import LONGEST_SECONDS, REST_SECONDS
from taskstream.streams.buckets import Bucket, BucketEntry, Write
from taskstream.streams.jetstream.messages import Position, read
from taskstream.streams.log import decode as decode_event
from taskstream.streams.topology.definitions import TASKS
from taskstream.workers.projector import punctual
from testkit.histories import WORKER, claim, folded, give, ref, submission, success, wander, whole_log

TASK_REFS = [ref(number, owner) for number in range(6) for owner in ("alice", "b=2Eob")]


class Crash(Exception):
    """The process dies here."""


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class MemoryBucket(Bucket):
    """A bucket in memory that can lose its last writes; the logs are on the connection."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket.connection, bucket.name)
        self.writes: list[tuple[str, bytes]] = []
        """An empty value removes the key."""
        self.entries: dict[str, BucketEntry] = {}
        self.dies_after: int | None = None

    def lose(self, count: int, chance: random.Random) -> None:
        """Forget the last writes, and some of the values that they had replaced."""
        left = len(self.writes) - count
        lost = {key for key, _ in self.writes[left:]}
        del self.writes[left:]
        missing = {key for key in sorted(lost) if chance.random() < 0.5}
        self.writes = [("", b"") if key in missing else (key, value) for key, value in self.writes]
        self.entries = {key: BucketEntry(key, value, at) for at, (key, value) in enumerate(self.writes, 1) if key}

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, headers: dict[str, str] | None = None
    ) -> int:
        [revision] = await self.put_many([Write(key, value, expected)])
        return revision

    async def put_many(self, writes: Sequence[Write]) -> list[int]:
        revisions = []
        for write in writes:
            if self.dies_after == 0:
                raise Crash
            if self.dies_after:
                self.dies_after -= 1
            has = self.entries[write.key].revision if write.key in self.entries else 0
            if write.expected not in (None, has):
                raise Conflict(f"{write.key} is at {has}, not at {write.expected}")
            self.writes.append((write.key, write.value or b""))
            self.entries[write.key] = BucketEntry(write.key, write.value or b"", len(self.writes))
            revisions.append(len(self.writes))
        return revisions

    async def get_with_revision(self, key: str) -> BucketEntry | None:
        return self.entries.get(key)

    async def get_many_with_revisions(self, keys: Sequence[str]) -> dict[str, BucketEntry]:
        return {key: self.entries[key] for key in keys if key in self.entries}

    async def get_matching(self, *key_filters: str) -> list[BucketEntry] | None:
        patterns = [key_filter.replace(">", "*") for key_filter in key_filters]
        return [
            entry
            for entry in self.entries.values()
            if entry.value and any(fnmatchcase(entry.key, pattern) for pattern in patterns)
        ]

    def content(self) -> dict[str, bytes]:
        """Return the keys and values in the form of `folded`."""
        return {
            key: b"" if key.startswith("active.") else entry.value
            for key, entry in self.entries.items()
            if entry.value and key != CHECKPOINT
        }

    @property
    def checkpoint(self) -> int:
        entry = self.entries.get(CHECKPOINT)
        return int(entry.value) if entry else 0


Views = dict[TaskRef, TaskView]


def fold_on(views: Views, positions: Sequence[Position]) -> Views:
    """Return the views with these events folded in."""
    views = dict(views)
    for position in positions:
        at = task_ref(position.subject)
        view = fold(views.get(at), decode_event(task_codec, position))
        if view is not None:
            views[at] = view
    return views


def check_complete(bucket: MemoryBucket, log: Sequence[Position]) -> None:
    """Check what readers rely on: all is there as of the checkpoint, and what is later follows from the log."""
    whole = fold_on({}, log)
    entries = {at: bucket.entries.get(view_key(at)) for at in whole}
    found = {at: decode(entry.value) for at, entry in entries.items() if entry is not None}
    listed = {ref_of(key) for key in bucket.content() if key.startswith("active.")}
    for at, view in fold_on({}, [position for position in log if position.sequence <= bucket.checkpoint]).items():
        assert found[at].sequence >= view.sequence, f"{at} lacks events before the checkpoint {bucket.checkpoint}"
        assert at in listed or found[at].status not in ACTIVE, f"{at} is not listed, at {bucket.checkpoint}"
    assert fold_on(found, [position for position in log if position.sequence > bucket.checkpoint]) == whole


class Run:
    """A projection that gets the events of a log in any portions, and starts again after any mishap."""

    def __init__(self, bucket: MemoryBucket, log: Sequence[Position], chance: random.Random) -> None:
        self.bucket = bucket
        self.clock = Clock()
        self.seen = 0
        """Sequence of the last event that the projection got."""
        self._log = log
        self._chance = chance
        self._projection = TaskProjection(bucket, self.clock)

    async def step(self) -> bool:
        """Do the next thing; return True if nothing went wrong."""
        chance = self._chance
        if chance.random() < 0.4:
            self.clock.now += chance.choice([0.0, REST_SECONDS / 3, REST_SECONDS, LONGEST_SECONDS])
            return await self._try(self._projection.write_due)
        batch = [position for position in self._log if position.sequence > self.seen][: chance.choice([1, 3, 8, 20])]
        if not batch:
            return True
        self.seen = batch[-1].sequence
        return await self._try(lambda: self._projection.apply(batch))

    async def start(self) -> None:
        self.bucket.dies_after = None
        self._projection = TaskProjection(self.bucket, self.clock)
        self.seen = await self._projection.resume()

    async def check_intact(self) -> None:
        """Start again if the bucket has lost what was written last."""
        if not await self._projection.is_intact():
            await self.start()

    async def finish(self) -> None:
        """Apply the rest, and wait until all tasks have rested."""
        while self.seen < self._log[-1].sequence:
            await self.step()
        while (at := self._projection.next_at) is not None:
            self.clock.now = max(at, self.clock.now)
            if not await self._try(self._projection.write_due):
                await self.finish()

    async def _try(self, work: Callable[[], Awaitable[object]]) -> bool:
        try:
            await work()
        except (Crash, Conflict):
            await self.start()
            return False
        return True


@pytest.mark.parametrize("seed", range(3))
async def test_the_bucket_is_complete_as_of_its_checkpoint_whenever_views_are_written(
    container: Container, seed: int
) -> None:
    await wander(container.commands, TASK_REFS, 150, seed=seed)
    log = await whole_log(container.reading)
    for round_ in range(3):
        chance = random.Random(10 * seed + round_)
        run = Run(MemoryBucket(container.buckets.tasks), log, chance)
        for _ in range(40):
            if chance.random() < 0.2:
                run.bucket.dies_after = chance.randint(0, 8)
            await run.step()
            check_complete(run.bucket, log)

        await run.finish()

        assert run.bucket.content() == folded(log)
        assert run.bucket.checkpoint == log[-1].sequence


@pytest.mark.parametrize("seed", range(3))
async def test_lost_writes_are_noticed_and_made_good_while_views_wait_to_be_written(
    container: Container, seed: int
) -> None:
    await wander(container.commands, TASK_REFS, 150, seed=seed)
    log = await whole_log(container.reading)
    for round_ in range(3):
        chance = random.Random(10 * seed + round_)
        run = Run(MemoryBucket(container.buckets.tasks), log, chance)
        for _ in range(40):
            await run.step()
            if chance.random() < 0.2:
                run.bucket.lose(min(chance.choice([1, 2, 12]), len(run.bucket.writes)), chance)
            if chance.random() < 0.2:
                await run.check_intact()

        await run.check_intact()
        await run.finish()

        assert run.bucket.content() == folded(log)
        assert run.bucket.checkpoint == log[-1].sequence


async def test_a_lost_view_is_noticed_also_while_the_checkpoint_waits_for_another(container: Container) -> None:
    await give(container.commands, ref(1), submission())
    await give(container.commands, ref(2), submission(), claim(), success())
    log = await whole_log(container.reading)
    bucket = MemoryBucket(container.buckets.tasks)
    projection = TaskProjection(bucket, Clock())
    await projection.resume()
    await projection.apply(log[:1])
    before = len(bucket.writes)
    await projection.apply(log[1:])
    assert view_key(ref(2)) in bucket.content()
    assert bucket.checkpoint == 0

    bucket.lose(len(bucket.writes) - before, random.Random(0))

    assert not await projection.is_intact()


REPORT = task.ReportProgress(reporter=WORKER, progress=50.0)
FAILED = task.FailAttempt(attempt=1, kind="error", error="500", jitter=0.0)
Steps = Sequence[tuple[float, task.TaskCommand]]
"""What happens to a task: the seconds since the step before, and the command."""


async def writes_of(container: Container, count: int, steps: Steps) -> Counter[str]:
    """Return how many keys of each kind are written for so many tasks with this history, side by side."""
    clock = Clock()
    bucket = MemoryBucket(container.buckets.tasks)
    projection = TaskProjection(bucket, clock)
    await projection.resume()
    seen = 0
    for seconds, command in steps:
        await asyncio.gather(*(give(container.commands, ref(number), command) for number in range(count)))
        await write_until(projection, clock, clock.now + seconds)
        positions = await read(container.reading, TASKS, "task.>", seen + 1)
        await projection.apply(positions)
        seen = positions[-1].sequence
    while projection.next_at is not None:
        await write_until(projection, clock, clock.now + REST_SECONDS)
    assert bucket.checkpoint == seen
    assert bucket.content() == folded(await whole_log(container.reading))
    return Counter(key.split(".")[0] for key, _ in bucket.writes)


async def write_until(projection: TaskProjection, clock: Clock, end: float) -> None:
    """Let time pass, and write what is due when it is due."""
    while (at := projection.next_at) is not None and at <= end:
        clock.now = max(at, clock.now)
        await projection.write_due()
    clock.now = end


def apart(*seconds_and_commands: Any) -> Steps:
    """Return steps from a row of commands, each after its pause in seconds."""
    return list(zip(seconds_and_commands[::2], seconds_and_commands[1::2], strict=True))


BEGUN = apart(0, submission(), 0, claim())
AGAIN = apart(0, FAILED, 0.2, task.RequeueTask(reason="its retry is due"), 0, claim())
REPORTS = apart(0.1, REPORT) * 200


@pytest.mark.parametrize(
    ("steps", "views", "active_keys"),
    [
        pytest.param(apart(0, submission(), 0, claim(), 0, success()), 1, 0, id="short"),
        pytest.param(apart(0, submission(), 0.9, claim(), 0.9, success()), 1, 0, id="nearly two seconds"),
        pytest.param([*BEGUN, *AGAIN, *apart(0, success())], 1, 0, id="retried"),
        pytest.param([*BEGUN, *apart(5, success())], 2, 2, id="long"),
        pytest.param(apart(0, submission(), 5, claim(), 5, success()), 3, 4, id="long in the queue, and long"),
        pytest.param([*BEGUN, *REPORTS, *apart(0.1, success())], 10, 2, id="200 reports"),
        pytest.param([*BEGUN, *apart(0, success(), 5, task.DeleteTask(reason="old"))], 2, 0, id="deleted later"),
    ],
)
async def test_views_are_written_at_the_end_or_at_rest_and_active_keys_only_at_rest(
    container: Container, steps: Steps, views: int, active_keys: int
) -> None:
    written = await writes_of(container, 1, steps)

    assert (written["task"], written["active"]) == (views, active_keys)


async def test_a_burst_of_500_short_tasks_costs_at_most_1_3_writes_for_each(container: Container) -> None:
    written = await writes_of(container, 500, [(0, submission()), (0.25, claim()), (0.25, success())])

    assert written["task"] == 500
    assert written.total() <= 1.3 * 500


async def test_a_projector_writes_what_is_due_though_no_event_comes() -> None:
    due: list[float | None] = [None, 0.0, 0.0, None]
    closed = asyncio.Event()

    async def followed() -> AsyncGenerator[list[Position], None]:
        try:
            yield [Position(1, "task.a.b.noted", b"")]
            await asyncio.Event().wait()
        finally:
            closed.set()

    turns = punctual(followed(), lambda: due.pop(0))

    assert [await anext(turns) for _ in range(3)] == [[Position(1, "task.a.b.noted", b"")], None, None]
    waiting = asyncio.ensure_future(anext(turns))
    await asyncio.sleep(0)
    assert due == []
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert closed.is_set()
