"""Server-sent events: the present state, then every event once and in order, over all reconnects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from taskstream.streams.jetstream.messages import last_sequence
from testkit.backend import BackendServer, accept, hold
from testkit.service import Service, running_service
from testkit.sse import Sent, opened, received
from testkit.waiting import wait_until


async def history_of(service: Service, task_id: str) -> list[tuple[int, str]]:
    return [(entry["sequence"], entry["event"]["type"]) for entry in await service.alice.recorded(task_id)]


def names(events: list[Sent]) -> list[str]:
    return [sent.type for sent in events]


# One task


async def test_a_stream_begins_with_the_task_as_it_is(api: Service) -> None:
    task_id = await api.alice.submit({"payload": {"a": 1}})

    async with opened(api.alice, f"/api/task/{task_id}/stream") as stream:
        (state,) = await received(stream, 1)

    assert stream.response.headers["Content-Type"].startswith("text/event-stream")
    assert stream.response.headers["Cache-Control"] == "no-store"
    assert state.data["type"] == "state"
    assert state.data["task"]["status"] == "WAITING"
    assert state.data["task"]["request"] == {"a": 1}
    assert state.sequence == (await history_of(api, task_id))[-1][0]


async def test_a_stream_has_every_event_as_it_happens_and_ends_with_the_task(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    task_id = await service.alice.submit({"payload": 1})
    async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
        (state,) = await received(stream, 1)
        await service.admin.register(backend, "one")
        (started,) = await received(stream, 1)
        backend.let_go.set()
        rest = [sent async for sent in stream]

    assert names([state, started, *rest]) == ["state", "AttemptStarted", "TaskSucceeded"]
    assert started.data["event"]["server_id"] == "one"
    assert started.data["taskId"] == task_id
    assert [state.sequence, started.sequence, rest[0].sequence] == [
        sequence for sequence, _ in await history_of(service, task_id)
    ]


async def test_a_stream_goes_on_after_the_last_event_received(service: Service, backend: BackendServer) -> None:
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": 1})
    await service.alice.ended(task_id)
    history = await history_of(service, task_id)

    for place in range(len(history) - 1):
        async with opened(service.alice, f"/api/task/{task_id}/stream", last=history[place][0]) as stream:
            rest = [(sent.sequence, sent.type) async for sent in stream]
        assert rest == history[place + 1 :]


async def test_a_stream_does_not_wait_for_what_follows_the_end_of_its_task(
    service: Service, backend: BackendServer
) -> None:
    backend.answer = hold
    await service.admin.register(backend, "one")
    task_id = await service.alice.submit({"payload": 1})
    await service.alice.reaches(task_id, "PROCESSING")
    path = f"/api/task/{task_id}/stream"
    async with opened(service.alice, path) as stream:
        await received(stream, 1)
        await service.alice.post(f"/api/task/{task_id}/cancel")
        rest = [sent async for sent in stream]
    await wait_until(lambda: _is_reported(service, task_id), "what became of the attempt")

    assert names(rest)[-1] == "TaskCancelled"
    async with opened(service.alice, path, last=rest[-1].sequence) as stream:
        assert stream.response.status == 204
    async with opened(service.alice, path) as stream:
        assert names([sent async for sent in stream]) == ["state"]


async def _is_reported(service: Service, task_id: str) -> bool:
    return (await history_of(service, task_id))[-1][1] == "CancelReported"


async def test_an_ended_task_is_shown_and_the_stream_ends(api: Service) -> None:
    """A browser that has seen the end is answered 204, so it does not reconnect. A retry is followed again."""
    task_id = await api.alice.submit({"payload": 1})
    await api.alice.post(f"/api/task/{task_id}/cancel")
    path, last = f"/api/task/{task_id}/stream", (await history_of(api, task_id))[-1][0]

    async with opened(api.alice, path) as stream:
        assert [sent.data["task"]["status"] async for sent in stream] == ["CANCELLED"]
    async with opened(api.alice, path, last=last) as stream:
        assert stream.response.status == 204

    await api.alice.post(f"/api/task/{task_id}/retry")
    async with opened(api.alice, path, last=last) as stream:
        assert names(await received(stream, 1)) == ["TaskQueued"]


# Access


async def test_only_auditors_and_admins_follow_other_users_tasks(api: Service) -> None:
    task_id = await api.alice.submit({"payload": 1})

    assert await api.bob.refusal("GET", f"/api/task/{task_id}/stream") == (404, None)
    assert await api.bob.refusal("GET", "/api/tasks/stream?owner=alice") == (403, None)
    async with opened(api.auditor, f"/api/task/{task_id}/stream") as stream:
        assert names(await received(stream, 1)) == ["state"]


async def test_a_token_in_the_address_opens_streams_and_nothing_else(api: Service) -> None:
    task_id = await api.alice.submit({"payload": 1})
    answer = await api.alice.post("/api/stream-tokens")
    token = answer["token"]

    async with opened(api.anonymous, f"/api/task/{task_id}/stream?token={token}") as stream:
        assert names(await received(stream, 1)) == ["state"]
    async with opened(api.anonymous, f"/api/tasks/stream?token={token}") as stream:
        assert names(await received(stream, 1)) == ["state"]
    assert (await api.anonymous.get(f"/api/task/{task_id}?token={token}")).status == 401
    assert (await api.anonymous.get(f"/api/task/{task_id}", headers={"Authorization": f"Bearer {token}"})).status == 401
    bobs = (await api.bob.post("/api/stream-tokens"))["token"]
    assert (await api.anonymous.get(f"/api/task/{task_id}/stream?token={bobs}")).status == 404


async def test_a_made_up_token_opens_nothing(api: Service) -> None:
    for token in ("x", "é", "gAAAAA", "a" * 9000):
        assert (await api.anonymous.get(f"/api/tasks/stream?token={token}")).status == 401, token


async def test_a_wrong_query_is_refused(api: Service) -> None:
    assert (await api.alice.get("/api/tasks/stream?event=Nothing")).status == 400


# All tasks


async def test_all_tasks_begin_with_those_that_have_not_ended_then_come_new_ones(api: Service) -> None:
    waiting, ended = await api.alice.submit({"payload": 1}), await api.alice.submit({"payload": 2})
    await api.alice.post(f"/api/task/{ended}/cancel")
    await api.bob.submit({"payload": 3})
    async with opened(api.alice, "/api/tasks/stream") as stream:
        (state,) = await received(stream, 1)
        await api.bob.submit({"payload": 4})
        new = await api.alice.submit({"payload": 5})
        await api.alice.post(f"/api/task/{waiting}/cancel")
        events = await received(stream, 2)

    assert (state.type, state.data["taskId"]) == ("state", waiting)
    assert [(sent.type, sent.data["taskId"]) for sent in events] == [("TaskSubmitted", new), ("TaskCancelled", waiting)]


async def test_a_client_cut_off_amid_the_first_states_receives_all_of_them_again(api: Service) -> None:
    task_ids = {await api.alice.submit({"payload": number}) for number in range(5)}
    async with opened(api.alice, "/api/tasks/stream") as stream:
        await received(stream, 3)
        last = stream.last_id
        states = await received(stream, 2)

    assert last == ""
    assert states[-1].sequence == 5
    async with opened(api.alice, "/api/tasks/stream", last=last) as stream:
        assert {sent.data["taskId"] for sent in await received(stream, 5)} == task_ids


async def test_admins_follow_all_owners_or_one(api: Service) -> None:
    async with opened(api.admin, "/api/tasks/stream") as all_, opened(api.admin, "/api/tasks/stream?owner=bob") as bobs:
        await wait_until(lambda: api.container.feeds.hub.listeners == 2, "both to listen")
        await api.alice.submit({"payload": 1})
        await api.bob.submit({"payload": 2})
        owners = [sent.data["event"]["owner"] for sent in await received(all_, 2)]
        (bob,) = await received(bobs, 1)

    assert owners == ["alice", "bob"]
    assert bob.data["event"]["owner"] == "bob"


async def test_types_and_events_can_be_chosen(api: Service) -> None:
    path = "/api/tasks/stream?type=a&event=TaskCancelled"
    async with opened(api.alice, path) as stream:
        await wait_until(lambda: api.container.feeds.hub.listeners == 1, "it to listen")
        for task_type in ("b", "a"):
            task_id = await api.alice.submit({"payload": 1, "type": task_type})
            await api.alice.post(f"/api/task/{task_id}/cancel")
        (event,) = await received(stream, 1)

    assert (event.type, event.data["taskId"]) == ("TaskCancelled", task_id)


# Failures


async def test_an_event_stored_while_a_stream_begins_is_sent_once(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the listener's queue and in the part of the log that is read first."""
    monkeypatch.setattr("taskstream.push.hub.RECENT_LENGTH", 0)
    task_id = await api.alice.submit({"payload": 1})
    async with opened(api.alice, "/api/tasks/stream", last=0) as other:
        await received(other, 1)

        async def last_sequence_once_there_is_more(*arguments: Any) -> int:
            monkeypatch.undo()
            await api.alice.post(f"/api/task/{task_id}/cancel")
            assert names(await received(other, 1)) == ["TaskCancelled"]
            return await last_sequence(*arguments)

        monkeypatch.setattr("taskstream.push.feed.last_sequence", last_sequence_once_there_is_more)
        async with opened(api.alice, "/api/tasks/stream", last=0) as stream:
            first = await received(stream, 2)
            await api.alice.submit({"payload": 2})
            submitted = await received(stream, 1)

    assert names([*first, *submitted]) == ["TaskSubmitted", "TaskCancelled", "TaskSubmitted"]


async def test_a_slow_reader_is_served_from_the_log_and_misses_nothing(
    api: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.push.listeners.QUEUE_LENGTH", 3)
    async with opened(api.alice, "/api/tasks/stream") as stream:
        await wait_until(lambda: api.container.feeds.hub.listeners == 1, "it to listen")
        task_ids = await asyncio.gather(*(api.alice.submit({"payload": "x" * 20_000}) for _ in range(200)))
        events = await received(stream, 200)

    assert {sent.data["taskId"] for sent in events} == set(task_ids)
    assert [sent.sequence for sent in events] == sorted({sent.sequence for sent in events})


async def test_a_foreign_message_in_the_log_is_skipped(api: Service) -> None:
    async with asyncio.timeout(60):
        async with opened(api.alice, "/api/tasks/stream", last=0) as live:
            await api.container.appending.publish("task.alice.odd", b"?")
            task_id = await api.alice.submit({"payload": 1})
            pushed = await received(live, 1)
        async with opened(api.alice, "/api/tasks/stream", last=0) as stored:
            read = await received(stored, 1)

    assert [sent.data["taskId"] for sent in (*pushed, *read)] == [task_id, task_id]


async def test_streams_end_when_the_process_does(nats_url: str) -> None:
    async with (
        running_service(nats_url, worker=False) as service,
        opened(service.alice, "/api/tasks/stream") as stream,
    ):
        await wait_until(lambda: service.container.feeds.hub.listeners == 1, "it to listen")
        service.container.feeds.hub.end()
        assert [sent async for sent in stream] == []


async def test_a_stream_that_its_client_left_is_forgotten(api: Service) -> None:
    async with opened(api.alice, "/api/tasks/stream"):
        await wait_until(lambda: api.container.feeds.hub.listeners == 1, "it to listen")

    await wait_until(lambda: api.container.feeds.hub.listeners == 0, "it to be forgotten")


async def test_a_quiet_stream_has_heartbeats(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskstream.api.routes.events.HEARTBEAT_SECONDS", 0.05)
    async with running_service(nats_url, worker=False) as service:
        task_id = await service.alice.submit({"payload": 1})
        async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
            await received(stream, 1)
            reading = asyncio.create_task(received(stream, 1))
            await wait_until(lambda: stream.comments >= 3, "heartbeats")
            reading.cancel()


async def test_there_is_no_progress_after_the_end(nats_url: str) -> None:
    async with BackendServer(accept) as backend, running_service(nats_url) as service:
        await service.admin.register(backend, "one", callback=True, **{"async": True})
        task_id = await service.alice.submit({"payload": 1})
        async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
            await wait_until(lambda: backend.calls, "the call")
            await asyncio.gather(
                *(backend.report(backend.calls[0], "PROCESSING", progress=number) for number in range(10)),
                backend.report(backend.calls[0], "FINISHED", data=1),
                *(backend.report(backend.calls[0], "PROCESSING", progress=number) for number in range(10)),
            )
            events = names([sent async for sent in stream])

    assert events[-1] == "TaskSucceeded"
    assert events.count("TaskSucceeded") == 1
