"""What a command does after each error of the store: decide again, wait, or give up. The log is in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from taskstream.commands import handler, owner, pool, schedule, server, task, task_type, webhook
from taskstream.commands.commands import Commands
from taskstream.commands.handler import Handled, Handler, HandlerCommand, Known
from taskstream.commands.pool import NEVER_PAUSED, PausePool, PoolState, ResumePool
from taskstream.commands.server import MarkOnline, RegisterServer
from taskstream.commands.task_commands import CancelTask, Reporter, ReportProgress, SubmitTask
from taskstream.commands.task_state import UNKNOWN, TaskState, Waiting, evolve
from taskstream.commands.task_type import DefineType, PauseType, TypeState
from taskstream.errors import (
    Conflict,
    NotFound,
    OutcomeUnknown,
    RuleBroken,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnreadableEvent,
)
from taskstream.events.envelope import Recorded, Stored
from taskstream.events.ids import ScheduleRef, TaskRef, WebhookRef
from taskstream.events.pool import PoolPaused, PoolResumed
from taskstream.events.task import TaskEvent, TaskSubmitted
from taskstream.streams.client.connection import PayloadTooLarge
from taskstream.streams.log import LatestLog, LogEntry

from ..deciders.support import BY, NOW, defined, registered, submitted

PAUSE = PausePool(name="text", reason="new model")
RESUME = ResumePool(name="text", reason="done")
PAUSED = PoolPaused(name="text", reason="new model")
REF = TaskRef("alice", "0" * 26)
OWNER = Reporter(kind="person")


class MemoryLog:
    """Appends in memory, guarded by the last sequence of a root. Fails as it is told, one error for each call."""

    def __init__(self) -> None:
        self.histories: dict[str, list[Stored[Any]]] = defaultdict(list)
        self.last = 0
        self.errors: list[Exception | None] = []
        self.load_errors: list[Exception | None] = []
        self.calls: list[str] = []
        self.lose_answers = False
        self.pause: Any = None

    async def load(self, root: str) -> list[Stored[Any]]:
        self.calls.append("load")
        if self.load_errors and (error := self.load_errors.pop(0)) is not None:
            raise error
        return list(self.histories[root])

    async def append(self, root: str, events: Sequence[Recorded[Any]], expected: int) -> int:
        return await self.append_together([LogEntry(root=root, events=events, expected=expected)])

    async def append_together(self, entries: Sequence[LogEntry[Any]]) -> int:
        self.calls.append("append")
        assert entries
        error = self.errors.pop(0) if self.errors else None
        if error is not None and not self.lose_answers:
            raise error
        for entry in entries:
            last = self.histories[entry.root][-1].sequence if self.histories[entry.root] else 0
            if last != entry.expected:
                raise Conflict
        for entry in entries:
            for recorded in entry.events:
                self.last += 1
                self.histories[entry.root].append(Stored(self.last, recorded))
        if error is not None:
            raise error
        return self.last


class Clock:
    """A clock that only sleeps move."""

    def __init__(self) -> None:
        self.now = 50.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(handler, "time", SimpleNamespace(monotonic=found.monotonic))
    monkeypatch.setattr(handler, "utc_now", lambda: NOW)
    return found


@pytest.fixture
def log(clock: Clock) -> MemoryLog:
    found = MemoryLog()
    found.pause = clock.sleep
    return found


@pytest.fixture
def pools(log: MemoryLog, clock: Clock) -> Handler[str, PoolState, Any, Any]:
    memory: Any = log
    return Handler(memory, lambda name: f"pool.{name}", NEVER_PAUSED, pool.decide, pool.evolve)


Pools = Handler[str, PoolState, Any, Any]


async def pause(pools: Pools, **more: Any) -> Handled[PoolState, Any]:
    return await pools.handle("text", PAUSE, by=BY, cause="r1", **more)


# One command


async def test_a_command_is_loaded_decided_and_appended_once(pools: Pools, log: MemoryLog) -> None:
    handled = await pause(pools)

    [stored] = log.histories["pool.text"]
    assert (stored.sequence, stored.recorded.event) == (1, PAUSED)
    assert (stored.recorded.at, stored.recorded.by, stored.recorded.cause) == (NOW, BY, "r1")
    assert stored.recorded.id
    assert handled == Handled(Known(pools.fold([stored]).state, 1), [stored])
    assert log.calls == ["load", "append"]
    assert await pools.load("text") == handled.known
    assert await pools.history("text") == [stored]


async def test_a_command_that_is_done_already_appends_nothing(pools: Pools, log: MemoryLog) -> None:
    first = await pause(pools)

    assert await pause(pools) == Handled(first.known, [])
    assert await pause(pools, known=first.known) == Handled(first.known, [])
    assert log.calls == ["load", "append", "load"]


async def test_two_events_of_a_command_have_ids_of_their_own_and_contiguous_sequences(
    log: MemoryLog, clock: Clock
) -> None:
    memory: Any = log
    tasks: Handler[TaskRef, TaskState, Any, TaskEvent] = Handler(memory, str, UNKNOWN, task.decide, evolve)
    await tasks.handle(REF, SubmitTask(submission=submitted()), by=BY)

    handled = await tasks.handle(REF, ReportProgress(reporter=OWNER, progress=1.0), by=BY)

    assert [stored.sequence for stored in handled.appended] == [2, 3]
    assert handled.appended == log.histories[str(REF)][1:]
    assert handled.known.sequence == 3
    assert len({stored.recorded.id for stored in log.histories[str(REF)]}) == 3
    assert handled.appended[0].recorded.cause == ""


async def test_what_is_known_spares_the_load_and_is_loaded_again_after_a_lost_race(
    pools: Pools, log: MemoryLog, clock: Clock
) -> None:
    await pause(pools)
    stale = Known(NEVER_PAUSED, 0)
    log.calls.clear()

    assert (await pause(pools, known=stale)).appended == []
    assert log.calls == ["append", "load"]
    assert clock.slept == []


async def test_a_command_that_loses_fifty_races_in_a_row_fails(pools: Pools, log: MemoryLog, clock: Clock) -> None:
    log.errors = [Conflict()] * 49
    assert len((await pause(pools)).appended) == 1
    log.errors = [Conflict("x")] * 50
    log.calls.clear()

    with pytest.raises(StoreUnavailable, match="lost 50 races in a row: x"):
        await pools.handle("text", RESUME, by=BY)

    assert log.calls == ["load", "append"] * 50
    assert clock.slept == []


async def test_a_command_whose_answer_was_lost_finds_its_event(pools: Pools, log: MemoryLog, clock: Clock) -> None:
    log.errors, log.lose_answers = [OutcomeUnknown()], True

    handled = await pause(pools)

    assert (handled.appended, handled.known.sequence) == ([], 1)
    assert log.calls == ["load", "append", "load"]
    assert clock.slept == []


async def test_an_unknown_outcome_is_looked_at_until_the_patience_ends(
    pools: Pools, log: MemoryLog, clock: Clock
) -> None:
    class Late(OutcomeUnknown):
        """Takes two seconds."""

        def __init__(self) -> None:
            clock.now += 2

    class Slow(list[Exception | None]):
        def pop(self, _: Any = 0) -> Exception:
            return Late()

    log.errors = Slow([None])

    with pytest.raises(OutcomeUnknown):
        await pause(pools)

    assert log.calls == ["load", "append"] * 3
    assert clock.now == 56


@pytest.mark.parametrize(
    "error", [StoreFull(), PayloadTooLarge(), UnreadableEvent("s", 1, "x"), StoreError()], ids=repr
)
async def test_an_error_that_waiting_does_not_mend_is_raised_at_once(
    pools: Pools, log: MemoryLog, clock: Clock, error: StoreError
) -> None:
    log.errors = [error]

    with pytest.raises(type(error)):
        await pause(pools)
    assert (log.calls, clock.slept) == (["load", "append"], [])


async def test_while_nats_is_away_a_command_tries_again_at_growing_intervals(
    pools: Pools, log: MemoryLog, clock: Clock
) -> None:
    log.errors = [StoreUnavailable("away")] * 5

    assert len((await pause(pools)).appended) == 1
    assert clock.slept == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert log.calls == ["load"] + ["append"] * 6


async def test_a_command_gives_up_after_four_seconds_without_nats(pools: Pools, log: MemoryLog, clock: Clock) -> None:
    log.errors = [StoreUnavailable("away")] * 99

    with pytest.raises(StoreUnavailable, match="away"):
        await pause(pools)

    assert clock.slept == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_the_last_pause_may_end_with_the_patience(pools: Pools, log: MemoryLog, clock: Clock) -> None:
    log.errors = [StoreUnavailable("away")] * 99

    with pytest.raises(StoreUnavailable):
        await pause(pools, patience_seconds=0.05)
    assert clock.slept == [0.05]
    clock.slept.clear()
    with pytest.raises(StoreUnavailable):
        await pause(pools, patience_seconds=0.049)
    assert clock.slept == []


async def test_each_load_without_an_answer_has_twice_as_long(
    pools: Pools, log: MemoryLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def timeout(seconds: float) -> Any:
        given.append(seconds)
        return asyncio.timeout(0 if len(given) < 4 else 60)

    async def load(root: str) -> list[Any]:
        await asyncio.sleep(0 if len(given) == 4 else 60)
        return []

    monkeypatch.setattr(handler, "asyncio", SimpleNamespace(timeout=timeout))
    monkeypatch.setattr(log, "load", load)

    assert len((await pause(pools)).appended) == 1
    assert given == [1.5, 3.0, 6.0, 12.0]
    given.clear()
    with pytest.raises(StoreUnavailable, match=r"NATS did not answer in 1\.5 s"):
        await pools.handle("other", PAUSE, by=BY, patience_seconds=0.0)


async def test_a_command_that_is_refused_appends_nothing(log: MemoryLog, clock: Clock) -> None:
    memory: Any = log
    servers: Any = Handler(memory, str, server.ABSENT, server.decide, server.evolve)

    with pytest.raises(NotFound):
        await servers.handle("s1", MarkOnline(reason=""), by=BY)
    assert log.calls == ["load"]


# Several commands


def orders(
    *names: str, command: Any = PAUSE, known: Known[PoolState] | None = None
) -> list[HandlerCommand[Any, Any, Any]]:
    return [HandlerCommand(key=name, command=command, known=known) for name in names]


async def test_commands_together_are_appended_in_order_and_loaded_only_if_unknown(pools: Pools, log: MemoryLog) -> None:
    new = Known(NEVER_PAUSED, 0)

    handled = await pools.handle_together(orders("a", "b", "c", known=new), by=BY, cause="r1")

    assert log.calls == ["append"]
    assert [each.known.sequence for each in handled] == [1, 2, 3]
    assert [each.appended for each in handled] == [log.histories[f"pool.{name}"] for name in "abc"]
    assert handled[0].appended[0].recorded.cause == "r1"


async def test_of_commands_together_those_that_are_done_append_nothing(pools: Pools, log: MemoryLog) -> None:
    await pools.handle("b", PAUSE, by=BY)
    log.calls.clear()

    handled = await pools.handle_together(orders("a", "b", "c"), by=BY)

    assert [[stored.sequence for stored in each.appended] for each in handled] == [[2], [], [3]]
    assert [each.known.sequence for each in handled] == [2, 1, 3]
    assert log.calls == ["load"] * 3 + ["append"]
    assert [each.appended for each in await pools.handle_together(orders("a", "b"), by=BY)] == [[], []]
    assert log.calls == ["load"] * 3 + ["append"] + ["load"] * 2


async def test_commands_together_are_decided_again_after_a_lost_race(
    pools: Pools, log: MemoryLog, clock: Clock
) -> None:
    await pools.handle("b", PAUSE, by=BY)
    log.calls.clear()

    handled = await pools.handle_together(orders("a", "b", known=Known(NEVER_PAUSED, 0)), by=BY)

    assert [len(each.appended) for each in handled] == [1, 0]
    assert log.calls == ["append", "load", "load", "append"]


async def test_commands_together_wait_for_nats_and_give_up_as_one_does(
    pools: Pools, log: MemoryLog, clock: Clock
) -> None:
    log.errors = [StoreUnavailable("away")] * 2
    assert len(await pools.handle_together(orders("a"), by=BY)) == 1
    assert clock.slept == [0.05, 0.1]
    assert log.calls == ["load", "append", "append", "append"]

    log.errors = [StoreUnavailable("away")] * 99
    clock.slept.clear()
    with pytest.raises(StoreUnavailable):
        await pools.handle_together(orders("a", command=RESUME), by=BY, patience_seconds=0.2)
    assert clock.slept == [0.05, 0.1]


# All vocabularies


@pytest.fixture
def commands(log: MemoryLog, clock: Clock) -> Commands:
    nothing: Any = None
    found = Commands(nothing, nothing, replicated=False)
    for each in (found.tasks, found.servers, found.types, found.pools, found.owners, found.webhooks, found.schedules):
        each.log = log  # type: ignore[attr-defined]
    return found


def test_each_vocabulary_has_its_stream_its_root_and_its_first_state() -> None:
    nothing: Any = None
    commands = Commands(nothing, nothing, replicated=True)
    ref = ("alice", "0" * 26)

    handlers: list[tuple[Any, Any]] = [
        (commands.tasks, TaskRef(*ref)),
        (commands.servers, "s1"),
        (commands.types, "chapter"),
        (commands.pools, "text"),
        (commands.owners, "alice@example.com"),
        (commands.webhooks, WebhookRef(*ref)),
        (commands.schedules, ScheduleRef(*ref)),
    ]
    assert [(each.log.stream, each._root(key)) for each, key in handlers] == [
        ("TASKS", f"task.alice.{'0' * 26}"),
        ("SERVERS", "server.s1"),
        ("SERVERS", "type.chapter"),
        ("SERVERS", "pool.text"),
        ("SERVERS", "owner.alice=40example=2Ecom"),
        ("WEBHOOKS", f"webhook.alice.{'0' * 26}"),
        ("SCHEDULES", f"schedule.alice.{'0' * 26}"),
    ]
    assert [each.fold([]) for each, _ in handlers] == [
        Known(first, 0)
        for first in (
            UNKNOWN,
            server.ABSENT,
            task_type.UNDEFINED,
            pool.NEVER_PAUSED,
            owner.NEVER_LIMITED,
            webhook.UNREGISTERED,
            schedule.UNCREATED,
        )
    ]
    assert [type(each.log) is LatestLog for each, _ in handlers] == [False] * 6 + [True]
    assert all(each.log._replicated for each, _ in handlers)


async def test_servers_types_and_pools_are_decided_and_folded_by_their_own_rules(commands: Commands) -> None:
    await commands.servers.handle("s1", RegisterServer(settings=registered()), by=BY)
    await commands.types.handle("chapter", DefineType(definition=defined()), by=BY)
    await commands.types.handle("chapter", PauseType(name="chapter", reason="r"), by=BY)
    await commands.pools.handle("text", PAUSE, by=BY)

    assert (await commands.servers.load("s1")).state == server.evolve(
        server.ABSENT, (await commands.servers.history("s1"))[0].recorded
    )
    found: TypeState = (await commands.types.load("chapter")).state
    assert (found.definition, found.pause and found.pause.reason) == (defined(), "r")
    with pytest.raises(RuleBroken):
        await commands.types.handle("default", task_type.DeleteType(name="default"), by=BY)
    assert (await commands.pools.load("text")).sequence == 4


async def test_what_follows_a_change_of_a_task_is_done_once_by_the_process_that_made_it(commands: Commands) -> None:
    changes: list[tuple[TaskRef, TaskState, TaskState]] = []

    async def act(ref: TaskRef, before: TaskState, after: TaskState) -> None:
        changes.append((ref, before, after))

    submitted_state = (await commands.task(REF, SubmitTask(submission=submitted()), by=BY)).known.state
    commands.tasks.on_change = act
    reported = await commands.task(REF, ReportProgress(reporter=OWNER, progress=1.0), by=BY)
    handled = await commands.task(REF, CancelTask(reason="no"), by=BY, cause="r1")
    await commands.task(REF, CancelTask(reason="no"), by=BY)

    assert changes == [
        (REF, submitted_state, reported.known.state),
        (REF, reported.known.state, handled.known.state),
    ]
    assert handled.appended[0].recorded.cause == "r1"


async def test_a_command_of_a_task_passes_on_what_is_known_and_its_patience(
    commands: Commands, log: MemoryLog, clock: Clock
) -> None:
    log.errors = [StoreUnavailable("away")] * 99

    with pytest.raises(StoreUnavailable):
        await commands.task(
            REF, SubmitTask(submission=submitted()), by=BY, known=Known(UNKNOWN, 0), patience_seconds=0.06
        )

    assert (log.calls, clock.slept) == (["append"] * 2, [0.05])


async def test_tasks_submitted_together_are_new_until_the_log_says_otherwise(
    commands: Commands, log: MemoryLog
) -> None:
    submissions = [(TaskRef("alice", f"{number:026d}"), SubmitTask(submission=submitted())) for number in range(3)]

    handled = await commands.submit_together(submissions, by=BY, cause="r1")

    assert log.calls == ["append"]
    assert [type(each.known.state) for each in handled] == [Waiting] * 3
    [stored] = handled[2].appended
    assert (stored.sequence, stored.recorded.cause, type(stored.recorded.event)) == (3, "r1", TaskSubmitted)
    assert [each.appended for each in await commands.submit_together(submissions, by=BY)] == [[]] * 3


def test_how_long_a_command_waits() -> None:
    assert timedelta(seconds=handler.PATIENCE_SECONDS) == timedelta(seconds=4)


def test_the_state_of_a_history_is_the_fold_of_its_events(pools: Pools) -> None:
    history = [
        Stored(7, Recorded(id="1", at=NOW, by=BY, event=PAUSED)),
        Stored(9, Recorded(id="2", at=NOW, by=BY, event=PoolResumed(name="text"))),
    ]

    assert pools.fold(history) == Known(PoolState(), 9)
    assert pools.fold(history[:1]).sequence == 7
    assert pools.fold([]) == Known(NEVER_PAUSED, 0)
