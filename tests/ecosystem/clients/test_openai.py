"""OpenAI's SDKs, unmodified, over two servers of which one may die."""

from __future__ import annotations

import os
import signal
from typing import Any

from testkit.processes import Up
from testkit.service import ServiceClients
from testkit.vllm import WORDS
from testkit.waiting import wait_until

from .conftest import Program, Servers


async def test_completions_embeddings_and_models(openai: Program, servers: Servers) -> None:
    await servers.start("v1")

    assert await openai.run("chat", "llama") == [[WORDS, 10, True]]
    assert "".join(await openai.run("stream", "llama")) == WORDS
    assert await openai.run("others", "llama") == [WORDS, [0.25, -0.5], ["llama"], "model"]


async def test_errors_are_the_sdk_s_own_classes(openai: Program, servers: Servers) -> None:
    await servers.start("v1")

    assert await openai.run("errors", "llama") == [
        ["NotFoundError", 404, "model_not_found", "model"],
        ["BadRequestError", 400, "400", None],
        ["NotFoundError", 404, "not_found", "response_id"],
        ["BadRequestError", 400, "unsupported_parameter", "previous_response_id"],
        ["AuthenticationError", 401, "invalid_api_key", None],
    ]


async def test_a_server_that_is_killed_before_its_answer_is_not_noticed(
    openai: Program, servers: Servers, service: ServiceClients
) -> None:
    first = await servers.start("v1", "--silent")
    await openai.start("chat", "llama")
    await processing(service)
    await servers.start("v2")

    first.kill()

    assert await openai.rest() == [[WORDS, 10, True]]


async def test_of_many_calls_none_is_lost_with_a_server(openai: Program, servers: Servers) -> None:
    first = await servers.start("v1")
    await servers.start("v2")
    await openai.start("many", "llama", "60")
    answers = [await openai.line() for _ in range(5)]

    first.kill()

    assert answers + await openai.rest() == [WORDS] * 60


async def test_a_stream_whose_server_is_killed_raises_an_error(openai: Program, servers: Servers) -> None:
    first = await servers.start("v1")
    await openai.start("stream", "llama", "hold")
    assert await openai.line() == "It"
    await servers.start("v2")

    first.kill()

    [last] = await openai.rest()
    assert "not tried again" in last["error"]


async def test_background_responses_are_polled_listed_cancelled_and_deleted(openai: Program, servers: Servers) -> None:
    await servers.start("v1")

    queued, ended, roles, gone = await openai.run("background", "llama")

    assert (queued, ended, roles, gone) == ("queued", ["completed", WORDS, 7, {"a": "b"}], ["user"], "gone")
    assert await openai.run("cancel", "llama") == [["cancelled", "cancelled"]]


async def test_a_batch_loses_no_line_with_a_server_and_the_api(openai: Program, servers: Servers, up: Up) -> None:
    first = await servers.start("v1")
    await servers.start("v2")
    await openai.start("batch", "llama", "200")
    assert await openai.line() == ["batch", True, True]
    assert await openai.line() == ["validating", {"a": "b"}]

    first.kill()
    os.kill(up.pids()["api-1"], signal.SIGKILL)

    assert await openai.rest() == [["completed", 200, 200, 200], [True, True], True]


async def test_a_batch_is_cancelled(openai: Program, servers: Servers) -> None:
    await servers.start("v1")

    assert await openai.run("batch", "llama", "20", "hold") == [
        ["batch", True, True],
        ["validating", {"a": "b"}],
        ["cancelled", 0, 0, 0],
        [True, True],
        True,
    ]


async def test_a_response_goes_on_after_the_api_was_killed(openai: Program, servers: Servers, up: Up) -> None:
    await servers.start("v1", "--pause", "0.3")
    await openai.start("resume", "llama", "tell")
    events = [await openai.line() for _ in range(7)]

    os.kill(up.pids()["api-1"], signal.SIGKILL)

    *rest, last = await openai.rest()
    check_events(events + rest, "response.completed")
    assert last == {"text": WORDS}


async def test_a_response_ends_in_order_after_the_worker_was_killed(openai: Program, servers: Servers, up: Up) -> None:
    await servers.start("v1")
    await openai.start("resume", "llama", "hold")
    events = [await openai.line() for _ in range(6)]

    os.kill(up.pids()["worker-1"], signal.SIGKILL)

    *rest, _ = await openai.rest()
    check_events(events + rest, "response.failed")


def check_events(events: list[Any], last: str) -> None:
    """Check that events have dense numbers, each once, and say the beginning of WORDS."""
    assert [number for number, *_ in events] == list(range(len(events)))
    assert WORDS.startswith("".join(delta for *_, delta in events if delta is not None))
    assert events[-1][1] == last


async def processing(service: ServiceClients) -> None:
    async def look() -> bool:
        return [task["status"] for task in await service.alice.tasks()] == ["PROCESSING"]

    await wait_until(look, "the call at the server")
