"""Commands carried out against the log: begun again on a lost race, safe to repeat, patient with NATS."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from taskstream.commands import task_commands as task
from taskstream.commands.commands import Commands
from taskstream.commands.handler import PATIENCE_SECONDS
from taskstream.commands.task_state import Waiting
from taskstream.container import Container
from taskstream.errors import (
    AlreadyEnded,
    AttemptNotCurrent,
    IdempotencyConflict,
    NotFound,
    StoreFull,
    StoreUnavailable,
)
from taskstream.events.subjects import task_root
from taskstream.events.task import AttemptStarted, ProgressReported, TaskSubmitted
from taskstream.streams.client.connection import PayloadTooLarge, open_connection
from testkit.histories import ALICE, WORKER, claim, give, ref, submission, success, whole_log
from testkit.link import Link
from testkit.nats import NatsServer
from testkit.outage import begin, end, limit_store, restart
from testkit.waiting import wait_until


async def types(container: Container, number: int = 0) -> list[str]:
    return [type(stored.recorded.event).__name__ for stored in await container.commands.tasks.history(ref(number))]


async def test_a_command_answers_with_the_state_after_it_and_the_events_it_stored(container: Container) -> None:
    handled = await container.commands.task(ref(), submission(), by=ALICE, cause="request 1")

    assert isinstance(handled.known.state, Waiting)
    assert handled.known.sequence == 1
    [stored] = handled.appended
    assert isinstance(stored.recorded.event, TaskSubmitted)
    assert (stored.sequence, stored.recorded.by, stored.recorded.cause) == (1, ALICE, "request 1")
    assert await container.commands.tasks.history(ref()) == handled.appended


async def test_a_command_that_makes_two_events_says_where_each_is(container: Container) -> None:
    await give(container.commands, ref(), submission())

    handled = await container.commands.task(ref(), task.ReportProgress(reporter=WORKER, progress=1.0), by=ALICE)

    assert [(stored.sequence, type(stored.recorded.event)) for stored in handled.appended] == [
        (2, AttemptStarted),
        (3, ProgressReported),
    ]
    assert (await container.commands.tasks.history(ref()))[1:] == handled.appended


async def test_a_repeated_command_is_already_so_and_appends_nothing(container: Container) -> None:
    first = await container.commands.task(ref(), submission(), by=ALICE)
    second = await container.commands.task(ref(), submission(), by=ALICE)

    assert second.appended == []
    assert second.known == first.known
    assert await types(container) == ["TaskSubmitted"]


async def test_a_command_that_is_not_allowed_appends_nothing(container: Container) -> None:
    with pytest.raises(NotFound):
        await container.commands.task(ref(), task.CancelTask(reason=""), by=ALICE)
    await give(container.commands, ref(), submission(), claim(), success())
    with pytest.raises(AlreadyEnded):
        await container.commands.task(ref(), task.CancelTask(reason=""), by=ALICE)

    assert await types(container) == ["TaskSubmitted", "AttemptStarted", "TaskSucceeded"]


async def test_submissions_given_together_are_stored_together_in_their_order(container: Container) -> None:
    handled = await container.commands.submit_together([(ref(number), submission()) for number in range(20)], by=ALICE)

    assert [each.known.sequence for each in handled] == list(range(1, 21))
    assert [stored for each in handled for stored in each.appended] == [
        stored for number in range(20) for stored in await container.commands.tasks.history(ref(number))
    ]


async def test_of_submissions_given_together_the_stored_ones_stay_and_the_others_follow(
    container: Container,
) -> None:
    await give(container.commands, ref(3), submission())

    handled = await container.commands.submit_together([(ref(number), submission()) for number in range(5)], by=ALICE)

    assert [len(each.appended) for each in handled] == [1, 1, 1, 0, 1]
    assert [await types(container, number) for number in range(5)] == [["TaskSubmitted"]] * 5


async def test_of_submissions_given_together_none_is_stored_if_one_is_refused(container: Container) -> None:
    await give(container.commands, ref(3), submission())
    first = submission()
    other = replace(first, submission=replace(first.submission, fingerprint="other"), repeatable=True)

    with pytest.raises(IdempotencyConflict):
        await container.commands.submit_together([(ref(number), other) for number in range(5)], by=ALICE)

    assert [await types(container, number) for number in (0, 4)] == [[], []]


async def test_submissions_given_together_wait_for_nats(container: Container, nats: NatsServer) -> None:
    await end(nats, container.appending, container.reading)

    given = asyncio.create_task(
        container.commands.submit_together([(ref(number), submission()) for number in range(20)], by=ALICE)
    )
    await begin(nats, container.appending, container.reading)

    assert sum(len(each.appended) for each in await given) == 20
    assert len(await whole_log(container.reading)) == 20


async def test_a_command_given_what_was_known_begins_again_when_that_is_old(container: Container) -> None:
    submitted = await container.commands.task(ref(), submission(), by=ALICE)
    await give(container.commands, ref(), claim())

    handled = await container.commands.task(ref(), success(), by=ALICE, known=submitted.known)

    assert handled.known.sequence == 3
    assert await types(container) == ["TaskSubmitted", "AttemptStarted", "TaskSucceeded"]


async def test_of_many_claims_at_once_one_wins_and_the_others_hear_of_it(container: Container, nats_url: str) -> None:
    other = await open_connection(nats_url, "test")
    rivals = [container.commands, Commands(other, other, replicated=False)]
    submitted = await container.commands.task(ref(), submission(), by=ALICE)

    outcomes = await asyncio.gather(
        *(
            rivals[number % 2].task(ref(), claim(f"s{number}", digest=str(number)), by=ALICE, known=submitted.known)
            for number in range(20)
        ),
        return_exceptions=True,
    )

    assert sum(isinstance(outcome, AttemptNotCurrent) for outcome in outcomes) == 19
    assert await types(container) == ["TaskSubmitted", "AttemptStarted"]
    await other.close()


async def test_commands_that_race_and_are_all_allowed_all_succeed(container: Container) -> None:
    await give(container.commands, ref(), submission(), claim())

    await asyncio.gather(
        *(
            container.commands.task(ref(), task.ReportProgress(reporter=WORKER, progress=float(number)), by=ALICE)
            for number in range(20)
        )
    )

    history = await container.commands.tasks.log.load(task_root(ref()), after=2)
    reported = sorted(
        stored.recorded.event.progress or 0.0
        for stored in history
        if isinstance(stored.recorded.event, ProgressReported)
    )
    assert reported == [float(number) for number in range(20)]


async def test_commands_under_way_when_nats_is_killed_are_all_carried_out_once(
    container: Container, nats: NatsServer
) -> None:
    async def one(number: int) -> None:
        await container.commands.task(ref(number), submission(), by=ALICE, patience_seconds=30)
        await container.commands.task(ref(number), claim(digest=str(number)), by=ALICE, patience_seconds=30)
        await container.commands.task(ref(number), success(), by=ALICE, patience_seconds=30)

    given = [asyncio.create_task(one(number)) for number in range(200)]
    await wait_until(lambda: whole_log(container.reading), "the first events")
    await restart(nats, container.appending, container.reading)
    await asyncio.gather(*given)

    histories = [await types(container, number) for number in range(200)]
    assert histories == [["TaskSubmitted", "AttemptStarted", "TaskSucceeded"]] * 200


async def test_a_server_that_stops_answering_during_a_command_and_comes_back_costs_nothing(
    container: Container, nats: NatsServer
) -> None:
    """The request is on its way when the connection breaks: that is noticed at once, not after the timeout."""
    await give(container.commands, ref(), submission())
    async with Link(nats.port) as proxy:
        connection = await open_connection(proxy.url, "test")
        commands = Commands(connection, connection, replicated=False)
        proxy.lose_next = b'"stream":"TASKS"'

        handled = await commands.task(ref(), claim(digest="d"), by=ALICE, patience_seconds=PATIENCE_SECONDS)

        assert handled.known.sequence == 2
        assert await types(container) == ["TaskSubmitted", "AttemptStarted"]
        await connection.close()


async def test_a_history_whose_answer_is_lost_without_a_word_is_asked_for_again(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(container.commands, ref(), submission())
    load = container.commands.tasks.log.load
    asked = 0

    async def deaf_at_first(root: str, after: int = 0) -> object:
        nonlocal asked
        asked += 1
        return await (asyncio.Event().wait() if asked == 1 else load(root, after))

    monkeypatch.setattr(container.commands.tasks.log, "load", deaf_at_first)

    async with asyncio.timeout(60):
        handled = await container.commands.task(ref(), claim(), by=ALICE)

    assert (asked, handled.known.sequence) == (2, 2)


async def test_patience_ends(container: Container, nats: NatsServer) -> None:
    await end(nats, container.appending, container.reading)

    with pytest.raises(StoreUnavailable):
        await container.commands.task(ref(), submission(), by=ALICE, patience_seconds=0.1)


async def test_a_full_store_and_a_payload_too_large_are_said_at_once(container: Container, nats: NatsServer) -> None:
    """No patience helps with these: were it waited, this test would not end."""
    with pytest.raises(PayloadTooLarge):
        await container.commands.task(
            ref(1), submission(payload=b'"%s"' % (b"x" * 9_000_000)), by=ALICE, patience_seconds=1e6
        )
    await give(container.commands, ref(), submission(payload=b'"%s"' % (b"x" * 1_100_000)))
    await limit_store(nats, 1, container.appending, container.reading)
    with pytest.raises(StoreFull):
        await container.commands.task(ref(2), submission(), by=ALICE, patience_seconds=1e6)
