"""Ids that clients resume after: in this log they continue it exactly; of any other the client is told."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskstream.push.feed import LONGEST_EVENT_ID, start_of
from taskstream.streams.jetstream.api import api as call
from taskstream.streams.topology.definitions import TASKS
from taskstream.streams.topology.epochs import Epoch, LogExtent, epochs_in, extent_in, read_extent
from testkit.replaced_log import saved_log
from testkit.service import Client, Service, running_service
from testkit.sse import opened, sequence_of
from testkit.waiting import wait_until

Message = dict[str, Any]
Messages = AsyncIterator[Message]
FIRST, SECOND = "aaaaaaaa", "bbbbbbbb"
SECOND_NANOSECONDS = 1_000_000_000
RESTORED = LogExtent(epochs=(Epoch(FIRST, 1), Epoch(SECOND, 11)), first=4, last=20)
FOREIGN = (
    *("cccccccc-3", f"{FIRST}-11", f"{SECOND}-21", "21"),
    *("x", "-1", "9" * 30, "1;x", "1;a:b:c:d", "3\n", "\u0663", f"{FIRST}-"),
)


@pytest.mark.parametrize("event_id", ["3", "20", f"{FIRST}-0", f"{FIRST}-10", f"{SECOND}-11", f"{SECOND}-20"])
def test_an_id_of_each_epoch_up_to_its_end_is_in_the_log(event_id: str) -> None:
    resumed = start_of(event_id, RESTORED).resumed

    assert resumed is not None
    assert resumed.sequence == sequence_of(event_id)


@pytest.mark.parametrize("event_id", FOREIGN)
def test_any_other_id_is_foreign(event_id: str) -> None:
    assert start_of(event_id, RESTORED).is_foreign


@given(st.text(max_size=20) | st.from_regex(r"([ab]{8}-)?[0-9]{1,3}(;[a-z]:[0-9]:[0-9]:[0-9]){0,2}", fullmatch=True))
def test_any_text_is_an_id_of_the_log_or_a_foreign_one(text: str) -> None:
    start = start_of(text, RESTORED)

    assert bool(text) == (start.is_foreign or start.resumed is not None)
    if start.resumed is not None:
        assert start.resumed.sequence <= RESTORED.last
        assert start_of(str(start.resumed), RESTORED).resumed is not None


@given(st.integers(0, RESTORED.last))
def test_the_id_of_a_position_is_in_its_own_log_and_says_its_epoch(sequence: int) -> None:
    event_id = RESTORED.name(sequence)

    assert event_id.startswith(FIRST if sequence <= 10 else SECOND)
    assert start_of(event_id, RESTORED).resumed is not None


# Doors


def sse(path: str, *, in_header: bool) -> Callable[[Client, str], contextlib.AbstractAsyncContextManager[Messages]]:
    @contextlib.asynccontextmanager
    async def connect(client: Client, event_id: str) -> AsyncIterator[Messages]:
        query = "" if in_header else f"?after={quote(event_id)}"
        async with opened(client, path + query, event_id if in_header else None, with_reached=True) as stream:

            async def messages() -> Messages:
                async for sent in stream:
                    yield sent.data | {"id": sent.id}

            yield messages()

    return connect


def websocket(**scope: Any) -> Callable[[Client, str], contextlib.AbstractAsyncContextManager[Messages]]:
    @contextlib.asynccontextmanager
    async def connect(client: Client, event_id: str) -> AsyncIterator[Messages]:
        headers = {"Authorization": f"Bearer {client.bearer}"}
        async with client.session.ws_connect(f"{client.url}/ws", headers=headers) as socket:
            await socket.send_json({"type": "subscribe", "after": event_id, **scope})
            assert (await socket.receive_json(timeout=60))["type"] == "subscribed"

            async def messages() -> Messages:
                async for message in socket:
                    yield json.loads(message.data)

            yield messages()

    return connect


def doors(task_id: str, batch_id: str) -> dict[str, Callable[[Client, str], Any]]:
    """Return every way to follow the tasks of a batch, one of which is `task_id`."""
    paths = {
        "task": f"/api/task/{task_id}/stream",
        "all": "/api/tasks/stream",
        "batch": f"/api/batches/{batch_id}/stream",
    }
    found: dict[str, Callable[[Client, str], Any]] = {}
    for name, path in paths.items():
        found[f"sse {name}, header"] = sse(path, in_header=True)
        found[f"sse {name}, query"] = sse(path, in_header=False)
    return found | {
        "ws task": websocket(task=task_id),
        "ws all": websocket(all=True),
        "ws batch": websocket(batch=batch_id),
    }


@contextlib.asynccontextmanager
async def following(service: Service, event_id: str) -> AsyncGenerator[dict[str, Messages], None]:
    """Follow a new batch by every door after an id."""
    batch = await service.alice.post("/api/tasks/batch", [{"n": 1}, {"n": 2}])
    async with contextlib.AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(connect(service.alice, event_id))
            for name, connect in doors(batch["taskIds"][1], batch["batchId"]).items()
        }


async def until(messages: Messages, *types: str) -> list[Message]:
    """Return the messages up to the first of a type, that one included."""
    found = []
    async for message in messages:
        found.append(message)
        if message["type"] in types:
            return found
    raise AssertionError(f"the stream ended after {found}")


async def cancel_all(service: Service) -> None:
    for task in await service.alice.tasks():
        if task["status"] == "WAITING":
            await service.alice.done("POST", f"/api/task/{task['id']}/cancel")


@pytest.mark.parametrize("event_id", ["cccccccc-1", "1000", "e1-1", "nonsense", "1;x"])
async def test_a_foreign_id_starts_with_reset_and_the_state_by_each_door(api: Service, event_id: str) -> None:
    async with following(api, event_id) as streams:
        states = {name: await until(messages, "state") for name, messages in streams.items()}
        await cancel_all(api)
        ends = {name: await until(messages, "TaskCancelled") for name, messages in streams.items()}

    for name, sent in states.items():
        assert [message["type"] for message in sent if message["type"] != "batch"] == ["reset", "state"], name
        assert ends[name][-1]["id"].count("-") == 1, name


async def test_a_past_end_id_of_this_log_starts_with_reset_and_the_state_by_each_door(api: Service) -> None:
    extent = await read_extent(api.container.reading)
    async with following(api, f"{extent.epochs[0].id}-1000") as streams:
        for name, messages in streams.items():
            assert (await until(messages, "state"))[0]["type"] == "reset", name


async def test_an_id_of_an_older_version_still_resumes_by_each_door(api: Service) -> None:
    async with following(api, "0") as streams:
        for name, messages in streams.items():
            types = [message["type"] for message in await until(messages, "TaskSubmitted")]
            assert types == ["reached", "TaskSubmitted"], name


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.integers(0, 9).map(str))
async def test_any_id_resumes_or_is_told_to_be_foreign_and_then_events_come(api: Service, text: str) -> None:
    """Never silence: the first message says which of the two it is."""
    connect = sse("/api/tasks/stream", in_header=False)
    async with connect(api.alice, text) as messages:
        first = await anext(messages)
        start = start_of(text, await read_extent(api.container.reading))
        assert first["type"] == ("reset" if start.is_foreign else "reached")
        task_id = await api.alice.submit({"payload": text})
        while (await until(messages, "TaskSubmitted"))[-1]["taskId"] != task_id:
            pass
    await cancel_all(api)


async def test_an_id_that_is_longer_than_any_of_ours_is_foreign(api: Service) -> None:
    async with sse("/api/tasks/stream", in_header=False)(
        api.alice, "1" + ";a:1:1:1" * (LONGEST_EVENT_ID // 8)
    ) as messages:
        assert (await anext(messages))["type"] == "reset"


async def test_a_history_goes_on_after_a_sequence_or_an_id_and_says_if_it_is_foreign(api: Service) -> None:
    task_id = await api.alice.submit({"payload": 1})
    await api.alice.done("POST", f"/api/task/{task_id}/cancel")
    epoch = (await read_extent(api.container.reading)).epochs[0].id
    pages = {
        after: await api.alice.done("GET", f"/api/task/{task_id}/events?after={after}")
        for after in ("0", "1", "2", f"{epoch}-1", "3", "cccccccc-1", "x", "-1")
    }

    found = {after: ([entry["sequence"] for entry in page["events"]], page["reset"]) for after, page in pages.items()}
    assert found == {
        "0": ([1, 2], False),
        "1": ([2], False),
        "2": ([], False),
        f"{epoch}-1": ([2], False),
        **dict.fromkeys(("3", "cccccccc-1", "x", "-1"), ([1, 2], True)),
    }


# Events past the retention


async def age(service: Service) -> int:
    """Let all events so far pass the retention; return the last one's sequence."""
    connection = service.container.appending
    config = (await call(connection, f"STREAM.INFO.{TASKS}"))["config"]
    short = {"max_age": SECOND_NANOSECONDS, "duplicate_window": SECOND_NANOSECONDS}
    await call(connection, f"STREAM.UPDATE.{TASKS}", config | short)

    async def is_past() -> bool:
        extent = await read_extent(connection)
        return extent.first > extent.last

    await wait_until(is_past, "all events to be past the retention")
    await call(connection, f"STREAM.UPDATE.{TASKS}", config)
    return (await read_extent(connection)).last


@pytest.mark.parametrize("door", ["sse", "ws"])
async def test_what_is_past_the_retention_is_told_first_and_once(api: Service, door: str) -> None:
    connect = {"sse": sse("/api/tasks/stream", in_header=True), "ws": websocket(all=True)}[door]
    for number in range(3):
        await api.alice.submit({"payload": number})
    last = await age(api)
    async with connect(api.alice, "1") as messages:
        reached, gap = await until(messages, "gap")
        task_id = await api.alice.submit({"payload": "new"})
        submitted = await until(messages, "TaskSubmitted")

    assert (reached["type"], sequence_of(reached["id"])) == ("reached", 1)
    assert (gap["from"], gap["to"], sequence_of(gap["id"])) == (2, last, last)
    assert [message["taskId"] for message in submitted] == [task_id]
    async with connect(api.alice, gap["id"]) as messages:
        assert [message["type"] for message in await until(messages, "TaskSubmitted")] == ["reached", "TaskSubmitted"]


@pytest.mark.parametrize("door", ["sse", "ws"])
async def test_a_client_that_does_not_resume_is_told_of_no_gap(api: Service, door: str) -> None:
    connect = {"sse": sse("/api/tasks/stream", in_header=False), "ws": websocket(all=True)}[door]
    for number in range(3):
        await api.alice.submit({"payload": number})
    last = await age(api)
    async with connect(api.bob, "") as messages:
        task_id = await api.bob.submit({"payload": "new"})
        reached, submitted = await until(messages, "TaskSubmitted")

    assert (reached["type"], sequence_of(reached["id"])) == ("reached", last)
    assert submitted["taskId"] == task_id


async def test_what_is_whole_has_no_gap_though_the_log_has(api: Service) -> None:
    await api.alice.submit({"payload": "old"})
    await age(api)
    async with following(api, "0") as streams:
        for name, messages in streams.items():
            types = [message["type"] for message in await until(messages, "TaskSubmitted")]
            assert ("gap" in types) == ("all" in name), name


# Another log in place of this one


async def test_when_the_log_is_replaced_open_streams_end_and_start_anew(nats_url: str) -> None:
    """An older backup is restored into the NATS of a service that runs on."""
    async with running_service(nats_url, worker=False) as service:
        connection = service.container.appending
        kept = await service.alice.submit({"payload": "kept"})
        put_back = await saved_log(connection)
        last = await service.alice.submit({"payload": "lost"})
        connections = {"sse": sse("/api/tasks/stream", in_header=True), "ws": websocket(all=True)}
        async with contextlib.AsyncExitStack() as stack:
            ids, streams = {}, {}
            for name, connect in connections.items():
                streams[name] = await stack.enter_async_context(connect(service.alice, "0"))
                while (message := (await until(streams[name], "TaskSubmitted"))[-1])["taskId"] != last:
                    pass
                ids[name] = message["id"]

            await put_back(service.container.appending)
            for name, messages in streams.items():
                rest = (
                    [message async for message in messages if message["type"] == "error"]
                    if name == "sse"
                    else (await until(messages, "error"))
                )
                assert [message.get("error") for message in rest] == ["subscribe again"] * (name == "ws")
        new = await service.alice.submit({"payload": "new"})
        for name, connect in connections.items():
            async with connect(service.alice, ids[name]) as messages:
                reset, *states = await until(messages, "state") + await until(messages, "state")
                assert reset["type"] == "reset"
                assert {state["taskId"] for state in states} == {kept, new}, name
                newer = await service.alice.submit({"payload": name})
                assert (await until(messages, "TaskSubmitted"))[-1]["taskId"] == newer


async def test_extent_of_an_empty_log(api: Service) -> None:
    info = await call(api.container.reading, f"STREAM.INFO.{TASKS}")

    assert extent_in(info) == LogExtent(epochs=epochs_in(info["config"]["metadata"]), first=1, last=0)
