"""Large results: stored once their end is allowed, deleted when the log refuses it, swept if a crash came between."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import timedelta
from typing import Any

import pytest

from taskstream.backends.dialects.dialect import Completed, Ending, FailedByBackend, File
from taskstream.clock import utc_now
from taskstream.commands import task_commands as task
from taskstream.commands.task_commands import Reporter
from taskstream.commands.task_state import Processing
from taskstream.container import Container
from taskstream.errors import AlreadyEnded, AttemptNotCurrent, Refused, ResultExpired, StoreUnavailable
from taskstream.events.ids import TaskRef
from taskstream.events.task import object_names
from taskstream.push import attempt_reports
from taskstream.workers import result_sweeper
from taskstream.workers.result_sweeper import ResultSweeper
from testkit.histories import ALICE, claim, give, ref, submission
from testkit.stored import object_bytes, stored_bytes, stored_names

LATER = timedelta(hours=2)
LARGE = b'{"data":"%s"}' % (b"x" * 600_000)
PICTURE = File("image/png", LARGE)


async def end(container: Container, task_ref: TaskRef, reporter: Reporter, ending: Ending | None = None) -> None:
    """Report the success of a task with a large result."""
    known = await container.commands.tasks.load(task_ref)
    await container.reports.end(
        task_ref, ending or Completed(LARGE), reporter, update_digest="d", by=ALICE, cause="", known=known
    )


async def referenced(container: Container, *refs: TaskRef) -> set[str]:
    return {
        name
        for each in refs
        for stored in await container.commands.tasks.history(each)
        for name in object_names(stored.recorded.event)
    }


def of_attempt(attempt: int) -> Reporter:
    return Reporter(kind="worker", attempt=attempt)


async def test_a_result_of_an_end_that_is_refused_is_never_stored(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim(), task.CancelTask(reason="enough"))
    before = await stored_bytes(container.reading)

    for _ in range(6):
        with pytest.raises(AlreadyEnded):
            await end(container, ref(), of_attempt(1))
    with pytest.raises(AlreadyEnded):
        await end(container, ref(), of_attempt(1), Completed(b"{}", file=PICTURE))

    assert await stored_bytes(container.reading) == before


async def test_the_same_end_again_stores_nothing(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim())
    await end(container, ref(), of_attempt(1))
    before = await stored_bytes(container.reading)

    await end(container, ref(), of_attempt(1))

    assert await stored_bytes(container.reading) == before
    assert await referenced(container, ref()) == await stored_names(container.objects)


@pytest.mark.parametrize("files", [{}, {"file": PICTURE}, {"files": (PICTURE, PICTURE)}])
async def test_an_end_refused_by_a_lost_race_leaves_no_result(
    container: Container, monkeypatch: pytest.MonkeyPatch, files: dict[str, Any]
) -> None:
    await give(container.commands, ref(), submission(), claim())
    before = await stored_bytes(container.reading)
    store = container.results.store

    async def store_and_lose(*given: Any) -> Any:
        stored = await store(*given)
        assert await stored_names(container.objects) == stored.object_names != set()
        await give(container.commands, ref(), task.CancelTask(reason="enough"))
        return stored

    monkeypatch.setattr(container.results, "store", store_and_lose)
    with pytest.raises(AlreadyEnded):
        await end(container, ref(), of_attempt(1), Completed(LARGE, **files))

    assert await stored_names(container.objects) == set()
    assert await stored_bytes(container.reading) == before


async def test_of_equal_ends_at_once_the_one_that_the_log_has_keeps_its_result(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim())

    await asyncio.gather(*(end(container, ref(), of_attempt(1)) for _ in range(6)))

    assert await stored_names(container.objects) == await referenced(container, ref())
    assert await referenced(container, ref()) == await stored_names(container.objects)


async def test_what_a_killed_process_stored_is_swept_and_no_referenced_result_is(container: Container) -> None:
    """A kill between storing and appending leaves a result; in the middle of storing, a part of one."""
    await give(container.commands, ref(1), submission(), claim())
    await end(container, ref(1), of_attempt(1), Completed(LARGE, files=(PICTURE, PICTURE)))
    await give(container.commands, ref(2), submission(), claim())
    await container.results.store(ref(2), LARGE, ("image/png", LARGE))
    await container.results.store(ref(3), LARGE)  # of a task whose history is past its retention
    kept, sweeper = await referenced(container, ref(1)), ResultSweeper(container)
    left = await stored_names(container.objects) - kept

    assert await sweeper.run_once(utc_now()) == {"results_swept": 0, "unreadable": 0}, "too young to judge"
    assert (await sweeper.run_once(utc_now() + LATER))["results_swept"] == 1
    assert len(await stored_names(container.objects) - kept) == len(left) - 1, "the task that runs may still refer"
    reported = task.ReportCancel(attempt=1, outcome="requested", detail="")
    await give(container.commands, ref(2), task.CancelTask(reason="enough"), reported)
    assert (await sweeper.run_once(utc_now() + LATER))["results_swept"] == 2

    assert await stored_names(container.objects) == kept
    assert len(kept) == 3
    assert await referenced(container, ref(1)) <= await stored_names(container.objects)


async def test_a_part_of_a_result_is_swept(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await stored_bytes(container.reading)
    publish, sent = container.objects._publish, 0

    async def publish_three(*given: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 3:
            raise asyncio.CancelledError
        await publish(*given)

    monkeypatch.setattr(container.objects, "_publish", publish_three)
    with pytest.raises(asyncio.CancelledError):
        await container.results.store(ref(), LARGE)
    assert await stored_bytes(container.reading) > before

    assert (await ResultSweeper(container).run_once(utc_now() + LATER))["results_swept"] == 1
    assert await stored_bytes(container.reading) == before


async def test_a_sweep_looks_at_so_many_at_once_and_resumes(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_sweeper, "CHECKED_AT_ONCE", 3)
    await give(container.commands, ref(1), submission(), claim())
    for number in range(8):
        await container.objects.put(f"alice.{ref(number % 2).unique}.{number}", b"x")
    sweeper = ResultSweeper(container)

    swept = [(await sweeper.run_once(utc_now() + LATER))["results_swept"] for _ in range(4)]

    assert swept == [2, 1, 1, 0]
    await give(container.commands, ref(1), task.CancelTask(reason="enough"))
    assert sum([(await sweeper.run_once(utc_now() + LATER))["results_swept"] for _ in range(3)]) == 4
    assert await stored_names(container.objects) == set()


async def test_a_stalled_end_of_a_person_never_refers_to_a_swept_result(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is cancelled, swept and retried while the process that stored the result is stopped."""
    await give(container.commands, ref(), submission(), claim())
    store = container.results.store

    async def store_and_stall(*given: Any) -> Any:
        stored = await store(*given)
        await give(container.commands, ref(), task.CancelTask(reason="enough"))
        assert (await ResultSweeper(container).run_once(utc_now() + LATER))["results_swept"] == 1
        await give(container.commands, ref(), task.RetryTask(reason="again"))
        return stored

    monkeypatch.setattr(container.results, "store", store_and_stall)
    monkeypatch.setattr(attempt_reports, "LONGEST_UNDECIDED", -timedelta(seconds=1))
    with pytest.raises(ResultExpired):
        await end(container, ref(), Reporter(kind="person"))

    assert await referenced(container, ref()) == set()


@pytest.mark.parametrize("seed", range(3))
async def test_no_referenced_result_is_ever_swept_whatever_happens_at_once(container: Container, seed: int) -> None:
    """Sweeps without end, of any age, beside ends, cancels, failures and retries: what an event names is there."""
    chance = random.Random(seed)
    refs = [ref(number) for number in range(4)]
    await asyncio.gather(*(give(container.commands, each, submission(), claim()) for each in refs))
    await end(container, refs[0], of_attempt(1), FailedByBackend(LARGE, "no"))  # one at least is named
    is_over = False

    async def sweep() -> None:
        while not is_over:
            sweeper = ResultSweeper(container)
            with contextlib.suppress(StoreUnavailable):  # the service tries again
                await sweeper.run_once(utc_now() + LATER)

    async def act() -> None:
        for _ in range(15):
            each = chance.choice(refs)
            with contextlib.suppress(Refused, StoreUnavailable):  # lost races, or NATS too slow: the outcome is unknown
                state = (await container.commands.tasks.load(each)).state
                attempt = state.facts.attempt if isinstance(state, Processing) else 1
                match chance.randrange(6):
                    case 0 | 1:
                        await end(container, each, of_attempt(attempt), FailedByBackend(LARGE, "no"))
                    case 2 | 3:
                        await give(container.commands, each, claim())
                    case 4:
                        await give(container.commands, each, task.CancelTask(reason=""))
                    case 5:
                        await give(container.commands, each, task.RetryTask(reason=""))

    sweeping = [asyncio.create_task(sweep()) for _ in range(2)]
    await asyncio.gather(*(act() for _ in range(4)))
    is_over = True
    await asyncio.gather(*sweeping)

    named = await referenced(container, *refs)
    assert named <= await stored_names(container.objects)
    assert named
    assert all([await object_bytes(container, name) == LARGE for name in named])


async def test_a_report_of_an_older_attempt_stores_nothing(container: Container) -> None:
    failed = task.FailAttempt(attempt=1, kind="error", error="500", jitter=0.0)
    await give(container.commands, ref(), submission(), claim(), failed)
    before = await stored_bytes(container.reading)

    with pytest.raises(AttemptNotCurrent):
        await end(container, ref(), of_attempt(1))

    assert await stored_bytes(container.reading) == before
