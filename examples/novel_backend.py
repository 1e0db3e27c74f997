"""A backend server that writes novels: serves the task types `chapter` and `outline`, and reports by callback.

    export NOVEL_TOKEN=$(taskstream token --sub root --role admin)     # to register itself; not needed afterwards
    python examples/novel_backend.py --port 9002 --service http://127.0.0.1:8080

The task's headers name the model: `X-AI-BaseUrl` (any OpenAI-compatible API), `X-AI-Model`, `X-AI-Key`. Without
`X-AI-BaseUrl` the server writes without a model, the same text for the same task: enough for a trial. It calls any URL
it gets. In a network with internal services, route its requests through a proxy that allows only known models.

A cancelled task is not announced. Its next report is rejected (409), and the server stops the work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

log = logging.getLogger("novel")

TYPES = ["chapter", "outline"]
REPORT_PAUSE_SECONDS = 0.3
MODEL_TRIES = 3
MODEL_PAUSE_SECONDS = 0.5
MODEL_SECONDS = 180
OUTLINED_AT_ONCE = 25
PREVIEW_CHARACTERS = 120
_CHARACTER = re.compile(
    "[々〇\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]"
)
"""Characters of scripts that are written without spaces: Han, hiragana, katakana."""
_WORD = re.compile(r"\w+(?:['\u2019.-]\w+)*")


class ModelFailed(Exception):
    """The model returned no text. The message says why, without any part of the prompt or the answer."""


class Superseded(Exception):
    """This attempt no longer counts: the task was cancelled, or another attempt runs."""


def count_words(text: str) -> int:
    """Return the length of a text as its readers count it: characters of Chinese and Japanese, words of all else."""
    characters = _CHARACTER.findall(text)
    return len(characters) + len(_WORD.findall(_CHARACTER.sub(" ", text)))


class Chapter(NamedTuple):
    """A chapter, or its entry in an outline."""

    title: str
    text: str

    @property
    def words(self) -> int:
        return count_words(self.text)

    @property
    def preview(self) -> str:
        return self.text[:PREVIEW_CHARACTERS]


# Writing


class OwnWriter:
    """A writer without a model: the same text for the same novel and chapter."""

    PEOPLE = ("the keeper", "a stranger", "her brother", "the captain", "an old friend", "the clockmaker")
    DEEDS = ("waited for", "wrote to", "forgave", "followed", "lied to", "remembered", "never saw")
    PLACES = ("at the lighthouse", "on the ice", "in the archive", "below the market", "by the last tram")
    TIMES = ("That night", "Before the storm", "Years later", "At first", "In the end", "Once more")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        """Seconds per chapter, so that progress is visible."""

    async def chapter(self, novel: str, index: int, _: str) -> Chapter:
        await asyncio.sleep(self._seconds)
        sentences = [self._sentence(novel, index, number) for number in range(12)]
        return Chapter(self._title(novel, index), " ".join(sentences))

    async def outline(self, novel: str, first: int, last: int, words: int, _: str) -> list[Chapter]:
        await asyncio.sleep(self._seconds)
        count = max(1, words // 10)
        return [
            Chapter(self._title(novel, index), " ".join(self._sentence(novel, index, n) for n in range(count)))
            for index in range(first, last + 1)
        ]

    def _title(self, novel: str, index: int) -> str:
        who, where = self._pick(self.PEOPLE, novel, index, "title"), self._pick(self.PLACES, novel, index, "title")
        return f"{who} {where}".title()

    def _sentence(self, *place: Any) -> str:
        who, whom = self._pick(self.PEOPLE, *place, "who"), self._pick(self.PEOPLE, *place, "whom")
        deed, where = self._pick(self.DEEDS, *place, "deed"), self._pick(self.PLACES, *place, "where")
        return f"{self._pick(self.TIMES, *place, 'when')}, {who} {deed} {whom} {where}."

    def _pick(self, words: Sequence[str], *place: Any) -> str:
        digest = hashlib.sha256(repr(place).encode()).digest()
        return words[int.from_bytes(digest[:8]) % len(words)]


class ModelWriter:
    """A writer that asks a model over an OpenAI-compatible API."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, model: str, key: str) -> None:
        self._session = session
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._model = model
        self._key = key

    async def chapter(self, novel: str, index: int, before: str) -> Chapter:
        so_far = f" The chapter before begins: {before}" if before else ""
        said = await self._ask(f"Write chapter {index} of the novel “{novel}”. Its title is the first line.{so_far}")
        title, _, text = said.partition("\n")
        return Chapter(title.strip("#* "), text.strip() or title)

    async def outline(self, novel: str, first: int, last: int, words: int, wish: str) -> list[Chapter]:
        said = await self._ask(
            f"Outline the chapters {first} to {last} of the novel “{novel}”, each on one line of about {words} words: "
            f"its title, a colon, what happens. Nothing else. {wish}"
        )
        lines = [re.sub(r"^[\s\d.)*-]+", "", line) for line in said.splitlines() if line.strip()]
        parts = [line.partition(":") for line in lines[: last - first + 1]]
        return [Chapter(title.strip(), text.strip()) for title, _, text in parts]

    async def _ask(self, prompt: str) -> str:
        """Return the model's answer. Raises ModelFailed."""
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}]}
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(total=MODEL_SECONDS)
        why = ""
        for number in range(MODEL_TRIES):
            if number:
                await asyncio.sleep(MODEL_PAUSE_SECONDS * number)
            try:
                async with self._session.post(self._url, json=body, headers=headers, timeout=timeout) as answer:
                    if answer.status == 200:
                        return str((await answer.json())["choices"][0]["message"]["content"])
                    why = f"the model answered {answer.status}"
                    if answer.status < 500 and answer.status != 429:
                        break
            except (aiohttp.ClientError, TimeoutError):
                why = "the model could not be reached"
            except (ValueError, LookupError, TypeError):
                why = "the model answered with something else than a completion"
        raise ModelFailed(why)


# Reporting


class Callback:
    """Sends the updates of one attempt."""

    def __init__(self, session: aiohttp.ClientSession, task: Mapping[str, Any], server_id: str) -> None:
        self._session = session
        self._url = task["callback_url"]
        self._headers = {"Authorization": f"Bearer {task['callback_token']}"}
        self._give_up_at = task["deadline"] / 1000
        self._server_id = server_id
        self._started = time.monotonic()

    async def progress(self, percent: float, message: str, **chapter: Any) -> None:
        await self._send("PROCESSING", None, progress=percent, message=message, custom_data=chapter)

    async def end(self, data: dict[str, Any], error: str | None) -> None:
        elapsed = round((time.monotonic() - self._started) * 1000)
        status = "FAILED" if error else "FINISHED"
        await self._send(status, data, progress=100, message=error, processing_time=elapsed)

    async def _send(self, status: str, data: Any, **metadata: Any) -> None:
        """Send an update and repeat it until it is answered. Repeating a final update is harmless.

        Raises Superseded if it is rejected, or the attempt's deadline has passed.
        """
        body = {"data": data, "metadata": {"server_id": self._server_id, "status": status, **metadata}}
        while time.time() < self._give_up_at:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.put(self._url, json=body, headers=self._headers) as answer:
                    if answer.status < 300:
                        return
                    if answer.status < 500 and answer.status != 429:
                        log.warning("a report was refused: %s %s", answer.status, await answer.text())
                        raise Superseded
            await asyncio.sleep(REPORT_PAUSE_SECONDS)
        raise Superseded


# Serving


class NovelBackend:
    def __init__(self, server_id: str, seconds: float) -> None:
        self._server_id = server_id
        self._seconds = seconds
        self._jobs: dict[str, tuple[int, asyncio.Task[None]]] = {}
        """By task id: the attempt and its running work."""
        self._session: aiohttp.ClientSession

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.post("/predict", self.predict), web.get("/health", self.health)])
        app.cleanup_ctx.append(self._clients)
        return app

    async def _clients(self, _: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as self._session:
            yield
            for _attempt, job in list(self._jobs.values()):
                job.cancel()

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "writing": len(self._jobs)})

    async def predict(self, request: web.Request) -> web.Response:
        """Accept a task. A repeated attempt changes nothing; a later one replaces an earlier one."""
        task = await request.json()
        task_id, attempt, wish = task["task_id"], task["attempt"], task["request"]
        if not isinstance(wish, dict) or not {"chaptersToGenerate", "targetChapters"} & wish.keys():
            return web.json_response({"error": "this server writes chapters and outlines"}, status=422)
        if "callback_url" not in task:
            return web.json_response({"error": "register this server with async and callback"}, status=422)
        running = self._jobs.get(task_id)
        if running is None or running[0] < attempt:
            if running is not None:
                running[1].cancel()
            job = asyncio.create_task(self._work(task, self._writer(request.headers)))
            self._jobs[task_id] = attempt, job
            job.add_done_callback(lambda done: self._finished(task_id, done))
        accepted = {"task_id": task_id, "backend_task_id": f"{self._server_id}-{attempt}", "status": "PROCESSING"}
        return web.json_response({**accepted, "message": "it is being written"}, status=202)

    def _finished(self, task_id: str, done: asyncio.Task[None]) -> None:
        if task_id in self._jobs and self._jobs[task_id][1] is done:
            del self._jobs[task_id]

    def _writer(self, headers: Mapping[str, str]) -> OwnWriter | ModelWriter:
        base_url = headers.get("X-AI-BaseUrl")
        if not base_url:
            return OwnWriter(self._seconds)
        return ModelWriter(self._session, base_url, headers.get("X-AI-Model", ""), headers.get("X-AI-Key", ""))

    async def _work(self, task: Mapping[str, Any], writer: OwnWriter | ModelWriter) -> None:
        callback = Callback(self._session, task, self._server_id)
        with contextlib.suppress(Superseded):
            if "chaptersToGenerate" in task["request"]:
                await self._write_chapters(task["request"], writer, callback)
            else:
                await self._write_outline(task["request"], writer, callback)

    async def _write_chapters(
        self, wish: Mapping[str, Any], writer: OwnWriter | ModelWriter, callback: Callback
    ) -> None:
        total = wish["chaptersToGenerate"]
        chapters: list[dict[str, Any]] = []
        errors: list[str] = []
        before = ""
        for index in range(1, total + 1):
            name = f"chapter {index} of {total}"
            place = {"chapterIndex": index}
            await callback.progress(100 * (index - 1) / total, name, **place, status="generating")
            try:
                written = await writer.chapter(wish["projectName"], index, before)
            except ModelFailed as error:
                errors.append(str(error))
                await callback.progress(
                    100 * index / total, f"{name} failed", **place, status="error", error=str(error)
                )
                continue
            before = written.preview
            told = {**place, "title": written.title, "preview": written.preview, "wordCount": written.words}
            await callback.progress(100 * index / total, f"{name} is written", **told, status="complete")
            chapters.append({**place, "title": written.title, "content": written.text, "wordCount": written.words})
        data = {"chapters": chapters, "totalGenerated": len(chapters), "totalFailed": len(errors)}
        await callback.end(data, None if chapters else errors[-1])

    async def _write_outline(
        self, wish: Mapping[str, Any], writer: OwnWriter | ModelWriter, callback: Callback
    ) -> None:
        """Outline OUTLINED_AT_ONCE chapters per request. One failed request fails the task."""
        total = wish["targetChapters"]
        outline: list[dict[str, Any]] = []
        for part, first in enumerate(range(1, total + 1, OUTLINED_AT_ONCE), 1):
            last = min(total, first + OUTLINED_AT_ONCE - 1)
            name = f"chapters {first} to {last} of {total}"
            await callback.progress(100 * (first - 1) / total, name, chapterIndex=first, status="generating")
            try:
                written = await writer.outline(
                    wish["projectName"], first, last, wish["targetWordCount"], wish.get("customPrompt", "")
                )
            except ModelFailed as error:
                await callback.end({"outline": outline, "totalGenerated": len(outline)}, str(error))
                return
            outline += [
                {"chapterIndex": index, "title": chapter.title, "summary": chapter.text}
                for index, chapter in enumerate(written, first)
            ]
            volume = {"volumeIndex": part, "title": f"Chapters {first} to {last}", "chapterCount": len(written)}
            await callback.progress(100 * last / total, f"{name} are outlined", **volume, status="complete")
        data = {"outline": outline, "totalGenerated": len(outline), "totalFailed": total - len(outline)}
        await callback.end(data, None)


async def register(service: str, token: str, server_id: str, url: str) -> None:
    """Register this server with the service. Repeating is harmless. Raises aiohttp.ClientResponseError."""
    body = {
        "id": server_id,
        "name": "Novel writer",
        "provider": "example",
        "endpoints": {"predict": f"{url}/predict", "health": f"{url}/health"},
        "async": True,
        "callback": True,
        "types": TYPES,
    }
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        await session.post(f"{service}/api/servers", json=body, headers=headers)


async def serve(options: argparse.Namespace) -> None:
    """Serve until the process ends."""
    runner = web.AppRunner(NovelBackend(options.id, options.seconds).app(), shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port).start()
    port = runner.addresses[0][1]
    if options.service:
        url = options.url or f"http://{options.host}:{port}"
        await register(options.service.rstrip("/"), os.environ["NOVEL_TOKEN"], options.id, url)
    print(port, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A backend server that writes chapters and outlines.")
    parser.add_argument("--id", default="novel-1")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="default: a free port; it is printed")
    parser.add_argument("--service", help="register with this service; needs a token (role admin) in NOVEL_TOKEN")
    parser.add_argument("--url", help="URL of this server for the service; default: http://HOST:PORT")
    parser.add_argument("--seconds", type=float, default=0.0, help="seconds per chapter when writing without a model")
    options = parser.parse_args()
    if options.service and "NOVEL_TOKEN" not in os.environ:
        parser.error("--service needs a token: set NOVEL_TOKEN")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
