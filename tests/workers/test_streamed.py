"""Servers that stream their answer: its progress is seen as it comes, with no callback but the connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from taskstream.push.attempt_reports import MOST_LINES
from testkit.backend import Answerer, BackendServer, at_first
from testkit.nats import NatsServer
from testkit.queue_surface import MODEL
from testkit.service import Service, running_service
from testkit.sse import opened, received
from testkit.waiting import wait_until

from .behaviour import called, errors, types

UPDATES = 1_000
CONTENT_TYPES = {"events": "text/event-stream", "lines": "application/x-ndjson"}
Say = Callable[[Any], Awaitable[None]]
Tell = Callable[[BackendServer, dict[str, Any], Say, web.Request], Awaitable[None]]


def streaming(tell: Tell, framing: str = "lines") -> Answerer:
    """Return a behaviour: `tell` says one thing after the other; what is no bytes is sent as an update."""

    async def answer(server: BackendServer, task: dict[str, Any], request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPES[framing]})
        await response.prepare(request)

        async def say(update: Any) -> None:
            text = update if isinstance(update, bytes) else json.dumps(update).encode()
            await response.write(b"data: " + text + b"\n\n" if framing == "events" else text + b"\n")

        await tell(server, task, say, request)
        return response

    return answer


async def flood(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    await server.let_go.wait()
    for number in range(UPDATES):
        await say({"progress": number * 100 / UPDATES, "log": f"line {number}", "output": f"{number};"})
    await say({"data": "done"})


async def submitted(service: Service, backend: BackendServer, answer: Answerer, **options: Any) -> str:
    backend.answer = answer
    await service.admin.register(backend, "streams")
    task_id = await service.alice.submit({"payload": 1, **options})
    await called(backend, 1)
    return task_id


def kept(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in history if event["type"] == "ProgressReported"]


@pytest.mark.parametrize("framing", list(CONTENT_TYPES))
async def test_a_flood_of_updates_is_seen_whole_and_in_order_and_the_log_keeps_few(
    service: Service, backend: BackendServer, framing: str
) -> None:
    task_id = await submitted(service, backend, streaming(flood, framing))
    async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
        await received(stream, 1)
        backend.let_go.set()
        sent = [entry.data["event"] async for entry in stream]
    history = await service.alice.history(task_id)

    lines = [f"line {number}" for number in range(UPDATES)]
    output = "".join(f"{number};" for number in range(UPDATES))
    for events in (kept(sent), kept(history)):
        assert [line for event in events for line in event.get("lines", ())] == lines
        assert "".join(event.get("output", "") for event in events) == output
        shown = [event["progress"] for event in events]
        assert shown == sorted(shown)
        assert shown[-1] == (UPDATES - 1) * 100 / UPDATES
    assert len(kept(history)) < UPDATES / 20
    assert sent[-1]["type"] == history[-1]["type"] == "TaskSucceeded"
    assert (await service.alice.details(task_id))["result"]["data"] == "done"


async def test_lines_that_come_all_at_once_are_kept_in_events_of_a_bounded_number(
    service: Service, backend: BackendServer
) -> None:
    count = 5 * MOST_LINES

    async def at_once(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
        await say(b"\n".join(json.dumps({"log": str(number)}).encode() for number in range(count)))
        await say({"data": "done"})

    task_id = await submitted(service, backend, streaming(at_once))
    await service.alice.reaches(task_id, "FINISHED")

    events = kept(await service.alice.history(task_id))
    assert [line for event in events for line in event.get("lines", ())] == [str(number) for number in range(count)]
    assert max(len(event.get("lines", ())) for event in events) <= MOST_LINES


async def test_progress_is_seen_while_the_server_is_still_at_work(service: Service, backend: BackendServer) -> None:
    async def tell(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
        await say({"progress": 40, "message": "half", "custom_data": {"chapterIndex": 1}})
        await server.let_go.wait()
        await say({"metadata": {"status": "FINISHED", "server_id": "one"}, "data": [1]})

    task_id = await submitted(service, backend, streaming(tell))

    async def shown() -> bool:
        details = await service.alice.details(task_id)
        return (details["status"], details["progress"], details["message"]) == ("PROCESSING", 40, "half")

    await wait_until(shown, "the progress")
    backend.let_go.set()
    assert (await service.alice.ended(task_id))["result"]["data"] == [1]


async def test_a_stream_may_say_that_the_task_failed(service: Service, backend: BackendServer) -> None:
    async def tell(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
        await say({"status": "FAILED", "message": "the model said no"})

    details = await service.alice.ended(await submitted(service, backend, streaming(tell, "events")))

    assert (details["status"], details["error"], details["attempt"]) == ("FAILED", "the model said no", 1)


async def test_a_server_that_goes_on_after_the_end_is_cut_off(service: Service, backend: BackendServer) -> None:
    async def tell(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
        await say({"data": 1})
        while True:
            await say({"progress": 5})
            await asyncio.sleep(0.01)

    task_id = await submitted(service, backend, streaming(tell))

    assert (await service.alice.ended(task_id))["status"] == "FINISHED"
    await wait_until(lambda: not backend.running, "the connection to be closed")
    assert kept(await service.alice.history(task_id)) == []


# An attempt that comes to nothing


async def no_end(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    await say({"progress": 10})


async def broken(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    await say({"progress": 10})
    assert request.transport is not None
    request.transport.abort()


async def garbage(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    await say({"progress": 10})
    await say(b"<html>")
    await server.let_go.wait()


async def of_another(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    await say({"task_id": "0" * 26 + "~somebody", "data": 1})


async def endless(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    while True:
        await say({"output": "more"})
        await asyncio.sleep(0.01)


async def too_large(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    for _ in range(10):
        await say({"output": "x" * 100_000})


async def no_line(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
    await say(b"x" * 1_000_000)


BROKEN = {
    "no-end": (no_end, "bad_answer", "without a result"),
    "broken": (broken, "unreachable", "broke off"),
    "garbage": (garbage, "bad_answer", "part 2 of the streamed answer is not JSON"),
    "of-another": (of_another, "bad_answer", "another task"),
    "endless": (endless, "timeout", "within the attempt's time"),
    "too-large": (too_large, "bad_answer", "larger than 200000 bytes"),
    "no-line": (no_line, "bad_answer", "larger than 200000 bytes"),
}


async def test_a_stream_that_does_not_end_well_is_an_attempt_that_failed(nats_url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(running_service(nats_url, max_result=200_000))
        tasks = {}
        for name, (tell, _, _) in BROKEN.items():
            backend = await stack.enter_async_context(BackendServer(at_first(streaming(tell))))
            await service.admin.register(backend, name, types=[name])
            tasks[name] = await service.alice.submit({"type": name, "payload": 1, "timeout": 1})

        for name, task_id in tasks.items():
            details = await service.alice.ended(task_id)
            history = await service.alice.history(task_id)
            _, kind, says = BROKEN[name]
            assert (name, details["status"], details["attempt"]) == (name, "FINISHED", 2)
            assert (name, errors(history)) == (name, [(1, kind)])
            failure = types(history).index("AttemptFailed")
            assert says in history[failure]["error"]
            assert kept(history[failure:]) == []


async def test_a_refusal_is_no_stream_whatever_it_calls_itself(service: Service, backend: BackendServer) -> None:
    async def refuse(server: BackendServer, task: dict[str, Any], _: web.Request) -> web.StreamResponse:
        return web.Response(status=422, body=b'{"error": "no such voice"}', content_type="text/event-stream")

    details = await service.alice.ended(await submitted(service, backend, refuse))

    assert details["error"] == "the server answered 422: no such voice"


# Races


async def test_cancelling_closes_the_stream_and_nothing_is_shown_after_it(
    service: Service, backend: BackendServer
) -> None:
    task_id = await submitted(service, backend, streaming(endless))
    async with opened(service.alice, f"/api/task/{task_id}/stream") as stream:
        await received(stream, 30)
        await service.alice.post(f"/api/task/{task_id}/cancel")
        sent = [entry.type async for entry in stream]

    assert sent[-1] == "TaskCancelled"
    await wait_until(lambda: backend.broken_off, "the connection to be closed")
    kinds = [event["type"] for event in await service.alice.history(task_id)]
    assert set(kinds[kinds.index("TaskCancelled") + 1 :]) <= {"CancelReported"}


async def test_what_is_streamed_after_the_owner_ended_the_task_is_shown_to_nobody(
    service: Service, backend: BackendServer
) -> None:
    task_id = await submitted(service, backend, streaming(endless), timeout=6)
    async with opened(service.alice, "/api/tasks/stream") as stream:
        await received(stream, 30)
        await service.alice.put(f"/api/task/{task_id}", {"data": 1, "metadata": {"status": "FINISHED"}})
        await wait_until(lambda: not backend.running, "the attempt's time to be over")
        await service.alice.submit({"payload": 2})
        names = []
        async for entry in stream:
            names.append(entry.type)
            if entry.type == "TaskSubmitted":
                break

    assert names[names.index("TaskSucceeded") :] == ["TaskSucceeded", "TaskSubmitted"]


# What else must hold


async def test_a_key_that_is_streamed_back_does_not_enter_the_log(service: Service, backend: BackendServer) -> None:
    key = "sk-of-alice-0123456789"

    async def tell(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
        told = request.headers["X-AI-Key"]
        await say({"log": f"using {told}"})
        await say({"data": {"said": told}})

    backend.answer = streaming(tell)
    await service.admin.register(backend, "streams")
    answer = await service.alice.post("/api/projects/novel/queue-chapters", {}, headers=MODEL | {"X-AI-Key": key})
    details = await service.alice.ended(answer["taskId"])
    history = await service.alice.history(answer["taskId"])

    assert details["result"]["data"] == {"said": "[key removed]"}
    assert kept(history)[0]["lines"] == ["using [key removed]"]
    assert key not in str(history)


async def test_what_is_streamed_while_nats_is_away_is_in_the_log_once_and_in_order(
    nats: NatsServer, backend: BackendServer
) -> None:
    async def tell(server: BackendServer, task: dict[str, Any], say: Say, request: web.Request) -> None:
        for number in range(300):
            if number == 100:
                nats.kill()
            if number == 200:
                await asyncio.to_thread(nats.start)
            await say({"output": f"{number};"})
            await asyncio.sleep(0.005)
        await say({"data": "done"})

    async with running_service(nats.url) as service:
        task_id = await submitted(service, backend, streaming(tell))

        async def ended() -> bool:
            answer = await service.alice.get(f"/api/task/{task_id}")
            return answer.status == 200 and answer["taskDetails"]["status"] == "FINISHED"

        await wait_until(ended, "the end")
        history = await service.alice.history(task_id)

    assert errors(history) == []
    assert "".join(event["output"] for event in kept(history)) == "".join(f"{number};" for number in range(300))
