"""Processes are killed while a background response streams: its numbers and its bytes stay what clients have seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from testkit.nats import NatsServer
from testkit.processes import Processes, clients_of
from testkit.service import ServiceClients
from testkit.vllm import WORDS, VllmServer
from testkit.waiting import wait_until
from tests.facades.openai.openai_calls import RESPONSES, EventReader, StreamedEvent, register, streamed

DELTA = "response.output_text.delta"
STEPS = {"model": "llama", "input": "step", "background": True, "stream": True}


@pytest.fixture
async def vllm() -> AsyncIterator[VllmServer]:
    async with VllmServer() as found:
        yield found


async def read_words(stream: EventReader, vllm: VllmServer, count: int) -> StreamedEvent:
    """Read a stream up to the nth word, each of which is written when the one before has been read."""
    while (event := await stream.next()) is not None:
        if event.name == DELTA:
            count -= 1
            if count == 0:
                return event
            vllm.step()
    raise AssertionError("the stream ended")


async def rest_until_cut(stream: EventReader) -> None:
    """Read on until the connection breaks."""
    try:
        await stream.rest()
    except aiohttp.ClientError:
        return


async def resumed(service: ServiceClients, response_id: str, after: int) -> tuple[bytes, list[StreamedEvent]]:
    """Return the rest of a response's stream after an event."""
    path = f"{RESPONSES}/{response_id}?stream=true" + (f"&starting_after={after}" if after >= 0 else "")
    async with streamed(service.alice, "GET", path) as stream:
        events = await stream.rest()
        return stream.content, events


async def check_every_cut(service: ServiceClients, response_id: str) -> list[StreamedEvent]:
    """Check that a stream resumed after each event is the rest of the unbroken one; return its events."""
    unbroken, events = await resumed(service, response_id, -1)
    assert [event.number for event in events] == list(range(len(events)))
    for event in events:
        rest, _ = await resumed(service, response_id, event.number)
        assert unbroken.endswith(rest)
        assert len(rest) == len(unbroken) - unbroken.index(event.data) - len(event.data) - 2
    return events


def text_of(events: list[StreamedEvent]) -> str:
    return "".join(event.fields["delta"] for event in events if event.name == DELTA)


async def test_an_api_that_dies_leaves_the_stream_to_another(
    processes: Processes, nats: NatsServer, vllm: VllmServer
) -> None:
    processes.start("worker", "--nats-url", nats.url)
    first = processes.start("api", "--nats-url", nats.url)
    async with clients_of((await first.logged("ready"))["url"]) as service:
        await register(service, vllm)
        async with streamed(service.alice, "POST", RESPONSES, STEPS) as stream:
            last = await read_words(stream, vllm, 3)
            first.kill()
            await rest_until_cut(stream)
            before = stream.content
    vllm.step(7)
    second = processes.start("api", "--nats-url", nats.url)
    async with clients_of((await second.logged("ready"))["url"]) as service:
        response_id = f"resp_{(await service.alice.tasks())[0]['id'].partition('~')[0]}"
        after, _ = await resumed(service, response_id, last.number)
        unbroken, events = await resumed(service, response_id, -1)

        assert before + after == unbroken
        assert (text_of(events), events[-1].name) == (WORDS, "response.completed")
        assert await check_every_cut(service, response_id) == events


async def test_a_worker_that_dies_in_the_middle_contradicts_nothing(
    processes: Processes, nats: NatsServer, vllm: VllmServer
) -> None:
    worker = processes.start("worker", "--nats-url", nats.url)
    api = processes.start("api", "--nats-url", nats.url)
    async with clients_of((await api.logged("ready"))["url"]) as service:
        await register(service, vllm)
        async with streamed(service.alice, "POST", RESPONSES, STEPS | {"input": "long step"}) as stream:
            await read_words(stream, vllm, 20)
            worker.kill()
            processes.start("worker", "--nats-url", nats.url)
            last = (await stream.rest())[-1]
            unbroken = stream.content
        response_id = last.fields["response"]["id"]

        assert last.name == "response.failed"
        assert (await resumed(service, response_id, -1))[0] == unbroken
        events = await check_every_cut(service, response_id)
        assert text_of(events) == " ".join((WORDS.split(" ") * 3)[:20])
        assert len(vllm.asked) == 1


async def test_a_worker_that_dies_before_the_first_word_is_not_noticed(
    processes: Processes, nats: NatsServer, vllm: VllmServer
) -> None:
    worker = processes.start("worker", "--nats-url", nats.url)
    api = processes.start("api", "--nats-url", nats.url)
    vllm.is_silent = True
    async with clients_of((await api.logged("ready"))["url"]) as service:
        await register(service, vllm)
        async with streamed(service.alice, "POST", RESPONSES, STEPS | {"input": "tell"}) as stream:
            await wait_until(lambda: len(vllm.asked) == 1, "the call")
            worker.kill()
            vllm.is_silent = False
            processes.start("worker", "--nats-url", nats.url)
            events = await stream.rest()
            unbroken = stream.content
        response_id = events[-1].fields["response"]["id"]

        assert (text_of(events), events[-1].name) == (WORDS, "response.completed")
        assert (await resumed(service, response_id, -1))[0] == unbroken
        await check_every_cut(service, response_id)


async def test_all_of_it_is_killed_and_the_stream_goes_on_as_it_was(processes: Processes, vllm: VllmServer) -> None:
    up = await processes.up()
    async with clients_of(up.url) as service:
        await register(service, vllm)
        async with streamed(service.alice, "POST", RESPONSES, STEPS) as stream:
            last = await read_words(stream, vllm, 3)
            up.kill_all()
            await rest_until_cut(stream)
            before = stream.content
        up = await processes.up(up.port)

        async def response() -> Any:
            tasks = await service.alice.tasks()
            return f"resp_{tasks[0]['id'].partition('~')[0]}" if tasks else None

        response_id = await wait_until(response, "the response")
        after, _ = await resumed(service, response_id, last.number)
        unbroken, events = await resumed(service, response_id, -1)

        assert before + after == unbroken
        assert events[-1].name == "response.failed"
        assert await check_every_cut(service, response_id) == events
