"""`examples/novel_backend.py`: a real server of the queue surface's types, by itself and with a model."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from examples.novel_backend import NovelBackend, count_words, register
from testkit.queue_surface import MODEL
from testkit.service import Service
from testkit.waiting import wait_until

SCRIPT = Path(__file__).parents[2] / "examples" / "novel_backend.py"
KEY = "sk-of-alice-0123456789"


class Model:
    """An API compatible with OpenAI's, as far as it is used: writes what it was asked, or refuses."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.refuse: dict[int, int] = {}
        """By number of the request, from 1: the status it is refused with."""
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def complete(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization", ""))
        number = len(self.asked)
        await self.let_go.wait()
        if status := self.refuse.get(number):
            return web.json_response({"error": {"message": f"not with {KEY}"}}, status=status)
        prompt = self.asked[-1]["messages"][-1]["content"]
        said = "\n".join(f"{n}. Title {n}: it happens" for n in range(1, 4)) if "Outline" in prompt else "# A\nB b b"
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": said}}]})

    async def take_report(self, _: web.Request) -> web.Response:
        """Stand in for the service's callback address."""
        return web.json_response({})


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def model() -> AsyncIterator[tuple[Model, dict[str, str]]]:
    """A model, and the headers that name it."""
    found = Model()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.complete)
    app.router.add_put("/v1/report", found.take_report)
    async with serving(app) as url:
        yield found, {"X-AI-BaseUrl": f"{url}/v1", "X-AI-Model": "small", "X-AI-Key": KEY}
        found.let_go.set()


@pytest.fixture
async def writer(service: Service) -> AsyncIterator[str]:
    """The address of a server that writes and is registered."""
    async with serving(NovelBackend("novel-1", 0.0).app()) as url:
        await register(service.url, str(service.admin.bearer), "novel-1", url)
        await service.admin.server_is("novel-1", "online")
        yield url


async def queue(service: Service, what: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> str:
    answer = await service.alice.post(f"/api/projects/novel/queue-{what}", body, headers=MODEL | (headers or {}))
    assert answer.status == 200, answer
    return str(answer["taskId"])


async def written(service: Service, task_id: str) -> dict[str, Any]:
    details = await service.alice.ended(task_id)
    assert details["status"] == "FINISHED", details
    found: dict[str, Any] = details["result"]["data"]
    return found


async def told(service: Service, task_id: str) -> list[tuple[float, str, dict[str, Any]]]:
    """Return percent, message and chapter of each report that the log has."""
    events = [event for event in await service.alice.history(task_id) if event["type"] == "ProgressReported"]
    return [(event["progress"], event["message"], event["custom_data"]) for event in events]


async def idle(service: Service, writer: str) -> None:
    async def look() -> bool:
        async with service.alice.session.get(f"{writer}/health") as answer:
            return bool((await answer.json())["writing"] == 0)

    await wait_until(look, "nothing to be written any more")


async def test_chapters_are_written_and_each_is_reported(service: Service, writer: str) -> None:
    task_id = await queue(service, "chapters", {"chaptersToGenerate": 2})
    data = await written(service, task_id)

    first, second = data["chapters"]
    assert (data["totalGenerated"], data["totalFailed"]) == (2, 0)
    assert (first["chapterIndex"], second["chapterIndex"]) == (1, 2)
    assert first["wordCount"] == len(first["content"].split()) > 50
    done = {"title": first["title"], "preview": first["content"][:120], "wordCount": first["wordCount"]}
    assert (await told(service, task_id))[:3] == [
        (0, "chapter 1 of 2", {"chapterIndex": 1, "status": "generating"}),
        (50, "chapter 1 of 2 is written", {"chapterIndex": 1, "status": "complete", **done}),
        (50, "chapter 2 of 2", {"chapterIndex": 2, "status": "generating"}),
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It was a dark night.", 5),
        ("她走进雨里。", 5),
        ("她说：“OK，let's go！”然后走了。", 9),  # noqa: RUF001
        ("第12章 Über den Wolken", 6),
        ("猫は「ニャー」と鳴いた。", 9),
        ("그는 걸었다", 2),
        (" — … \n", 0),
        ("", 0),
    ],
)
def test_words_are_counted_as_readers_count_them(text: str, count: int) -> None:
    assert count_words(text) == count


async def test_by_itself_it_writes_the_same_for_the_same_task(service: Service, writer: str) -> None:
    first, again = [await written(service, await queue(service, "chapters", {})) for _ in range(2)]

    assert first == again


async def test_an_outline_has_as_many_chapters_as_were_asked_for(service: Service, writer: str) -> None:
    task_id = await queue(service, "outline", {"targetChapters": 60, "targetWordCount": 20})
    data = await written(service, task_id)

    assert [part["chapterIndex"] for part in data["outline"]] == list(range(1, 61))
    assert all(part["title"] and part["summary"] for part in data["outline"])
    assert [message for _, message, _ in await told(service, task_id)] == [
        "chapters 1 to 25 of 60",
        "chapters 1 to 25 of 60 are outlined",
        "chapters 26 to 50 of 60",
        "chapters 26 to 50 of 60 are outlined",
        "chapters 51 to 60 of 60",
        "chapters 51 to 60 of 60 are outlined",
    ]


async def test_a_model_writes_when_one_is_named(
    service: Service, writer: str, model: tuple[Model, dict[str, str]]
) -> None:
    asked, headers = model
    chapters = await written(service, await queue(service, "chapters", {"chaptersToGenerate": 2}, headers))
    outline = await written(service, await queue(service, "outline", {"targetChapters": 3}, headers))

    assert chapters["chapters"][1] == {"chapterIndex": 2, "title": "A", "content": "B b b", "wordCount": 3}
    assert [part["title"] for part in outline["outline"]] == ["Title 1", "Title 2", "Title 3"]
    assert set(asked.keys) == {f"Bearer {KEY}"}
    assert {body["model"] for body in asked.asked} == {"small"}
    assert "begins: B b b" in asked.asked[1]["messages"][-1]["content"]


async def test_a_chapter_the_model_does_not_write_is_reported_and_the_others_are_written(
    service: Service, writer: str, model: tuple[Model, dict[str, str]]
) -> None:
    asked, headers = model
    asked.refuse = {2: 400, 3: 503}  # the second chapter for good, the third once
    task_id = await queue(service, "chapters", {"chaptersToGenerate": 3}, headers)
    data = await written(service, task_id)

    assert ([chapter["chapterIndex"] for chapter in data["chapters"]], data["totalFailed"]) == ([1, 3], 1)
    failed = {"chapterIndex": 2, "status": "error", "error": "the model answered 400"}
    assert failed in [chapter for _, _, chapter in await told(service, task_id)]


@pytest.mark.parametrize("what", ["chapters", "outline"])
async def test_a_model_that_refuses_everything_fails_the_task(
    service: Service, writer: str, model: tuple[Model, dict[str, str]], what: str
) -> None:
    asked, headers = model
    asked.refuse = dict.fromkeys(range(1, 10), 401)
    details = await service.alice.ended(await queue(service, what, {}, headers))

    assert (details["status"], details["error"]) == ("FAILED", "the model answered 401")


async def test_a_cancelled_task_is_given_up_at_its_next_report(
    service: Service, writer: str, model: tuple[Model, dict[str, str]]
) -> None:
    asked, headers = model
    asked.let_go.clear()
    task_id = await queue(service, "chapters", {"chaptersToGenerate": 5}, headers)
    await wait_until(lambda: asked.asked, "the model to be asked")
    await service.alice.post(f"/api/queue/tasks/{task_id}/cancel")
    asked.let_go.set()

    await idle(service, writer)
    assert len(asked.asked) == 1


async def test_the_same_attempt_again_is_not_done_twice(
    service: Service, writer: str, model: tuple[Model, dict[str, str]]
) -> None:
    asked, headers = model
    asked.let_go.clear()
    task = {
        "task_id": "t1", "attempt": 1, "deadline": 4102444800000, "callback_url": f"{headers['X-AI-BaseUrl']}/report",
        "callback_token": "x", "request": {"projectName": "novel", "chaptersToGenerate": 1},
    }  # fmt: skip
    for _ in range(3):
        async with service.alice.session.post(f"{writer}/predict", json=task, headers=headers) as answer:
            assert answer.status == 202
        await wait_until(lambda: asked.asked, "the model to be asked")
    asked.let_go.set()
    await idle(service, writer)

    assert len(asked.asked) == 1


async def test_what_is_neither_chapters_nor_an_outline_is_refused(service: Service, writer: str) -> None:
    details = await service.alice.ended(await service.alice.submit({"type": "chapter", "payload": {"a": 1}}))

    assert (details["status"], details["attempt"]) == ("FAILED", 1)
    assert "writes chapters and outlines" in details["error"]


async def test_as_a_program_it_registers_itself(service: Service) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), "--id", "by-itself", "--service", service.url,
        env={"NOVEL_TOKEN": str(service.admin.bearer)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert int(await asyncio.wait_for(process.stdout.readline(), 60))
        await service.admin.server_is("by-itself", "online")
        assert (await service.admin.get("/api/servers/by-itself"))["types"] == ["chapter", "outline"]
    finally:
        process.kill()
        await process.wait()


async def test_a_wrong_token_is_said_so(service: Service) -> None:
    with pytest.raises(aiohttp.ClientResponseError, match="403"):
        await register(service.url, str(service.alice.bearer), "novel-1", "http://127.0.0.1:1")
