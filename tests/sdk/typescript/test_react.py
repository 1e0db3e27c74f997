"""The React hooks in a browser under StrictMode, on a real service: one connection for a page, whatever happens."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Request, Route, async_playwright, expect

from testkit.backend import BackendServer, accept
from testkit.browser import NAMES
from testkit.processes import Processes, Up, clients_of
from testkit.service import ServiceClients, token
from testkit.waiting import wait_until

from .conftest import SDK, passes

expect.set_options(timeout=30_000)
README = (SDK / "react/README.md").read_text()
EXAMPLES = re.findall(r"^## .*?\n\n```tsx\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
MOUNT = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
IMPORTS
const apps = [NAMES];
const App = apps[new URLSearchParams(location.search).get("example")];
createRoot(document.getElementById("root")).render(<StrictMode><main><App /></main></StrictMode>);
"""
HTML = '<!doctype html><meta charset="utf-8"><title>Test</title><div id="root"></div><script src="page.js"></script>'
FOLLOW = """async () => {
  const taskId = await window.client.submit("long", {});
  const items = [];
  for await (const item of window.client.stream(taskId, { after: "0" })) items.push(item.type);
  return [items.at(-1), (await window.client.wait(taskId)).result.data];
}"""
AI = {"X-AI-Provider": "p", "X-AI-Model": "m", "X-AI-Key": "a key of the tests"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "there is no browser here: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"],
        )
        yield browser
        await browser.close()


class Shown:
    """The page of sdk/react/test/page.tsx, and the requests that it makes."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.answers: list[int] = []
        self.faults: list[str] = []
        self.tokens = 0
        """Tokens that it asked for."""
        page.on("request", self._on_request)
        page.on("response", lambda response: self.answers.append(response.status))
        page.on("console", lambda message: message.type in ("error", "warning") and self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)

    def to(self, path: str) -> list[str]:
        """Return the requests so far whose URL has a text."""
        return [url for url in self.requests if path in url]

    async def show(self, **what: Any) -> None:
        await self.page.evaluate("(what) => window.show(what)", what)

    async def connection(self, state: str) -> None:
        """Wait for the connection to have a state."""
        await expect(self.page.locator("main")).to_have_attribute("data-connection", state)

    def task(self, task_id: str) -> Any:
        return self.page.locator(f'[data-task="{task_id}"]')

    async def has(self, task_id: str, status: str) -> None:
        await expect(self.task(task_id)).to_have_attribute("data-status", status)


class World:
    """A service, a backend that accepts and waits for reports, and pages of one user."""

    def __init__(self, up: Up, service: ServiceClients, backend: BackendServer, browser: Browser, script: Path) -> None:
        self.up = up
        self.backend = backend
        self._service = service
        self._browser = browser
        self._script = script
        self._contexts: list[BrowserContext] = []
        self.start_test("nobody")

    def start_test(self, user: str) -> None:
        """Begin anew, with another user."""
        self.user = user
        self.client = self._service.client(user)
        self.backend.calls.clear()

    async def opened(
        self, query: str = "", script: Path | None = None, *, blocked: bool = False, first_token_seconds: int = 3600
    ) -> Shown:
        """Open the page, or one with another script. `blocked`: streams do not get through to it."""
        context = await self._browser.new_context()
        self._contexts.append(context)
        page = await context.new_page()
        shown = Shown(page)

        def next_token() -> str:
            shown.tokens += 1
            return token(self.user, lifetime_seconds=first_token_seconds if shown.tokens == 1 else 3600)

        await page.expose_function("getToken", next_token)

        async def files(route: Route) -> None:
            is_script = route.request.url.endswith(".js")
            body = (script or self._script).read_text() if is_script else HTML
            await route.fulfill(body=body, content_type="text/javascript" if is_script else "text/html")

        await page.route("**/of-the-tests/*", files)
        if blocked:
            await page.route("**/api/live?*", lambda route: route.abort())
        await page.route("**/token", lambda route: route.fulfill(body=token(self.user)))
        await page.goto(f"{self.up.url}/of-the-tests/page.html{query}")
        await expect(page.locator("main")).to_be_attached()
        return shown

    async def close_pages(self) -> None:
        while self._contexts:
            await self._contexts.pop().close()

    async def begun(self) -> tuple[str, dict[str, Any]]:
        """Submit a task; return its id and the call to the backend."""
        task_id = await self.client.submit({"type": "long", "payload": {}})
        await wait_until(lambda: any(c["task_id"] == task_id for c in self.backend.calls), "the call")
        return task_id, next(call for call in self.backend.calls if call["task_id"] == task_id)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One service for all tests of this module."""
    folder = tmp_path_factory.mktemp("react")
    script = folder / "page.js"
    await passes(folder, str(SDK / "build.mjs"), "--page", str(script))
    processes = Processes(folder)
    try:
        up = await processes.up()
        async with clients_of(up.url) as service, BackendServer(accept) as backend:
            more = {"types": ["long", "chapter", "resize"], "maxConcurrent": 40, "callback": True, "async": True}
            await service.admin.register(backend, "one", **more)
            yield World(up, service, backend, browser, script)
    finally:
        processes.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def world(shared: World, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The service, for a user of the test's own; its pages are closed at the end."""
    shared.start_test(request.node.name[5:40])
    yield shared
    await shared.close_pages()


async def test_all_hooks_of_a_page_share_one_connection_under_strict_mode(world: World) -> None:
    tasks = [await world.begun() for _ in range(5)]
    page = await world.opened()

    lists = [{"type": ["long"]}, {"status": ["FAILED"]}]
    await page.show(tasks=[task_id for task_id, _ in tasks], lists=lists, queued=True)
    await page.connection("live")
    for number, (task_id, call) in enumerate(tasks):
        await world.backend.report(call, "PROCESSING", progress=50, output=f"one {number} ")
        await world.backend.report(call, "PROCESSING", output="two")
        await expect(page.task(task_id).locator("pre")).to_have_text(f"one {number} two")
        await world.backend.report(call, "FINISHED", data=[number])
        await page.has(task_id, "FINISHED")
        await expect(page.task(task_id).locator("code")).to_have_text(f"[{number}]")
    rows = page.page.locator("ul").first.locator("li")
    await expect(rows).to_have_text([f"{task_id} FINISHED" for task_id, _ in tasks[::-1]])

    assert len(page.to("/api/live")) == 1
    assert page.faults == []


async def test_a_part_that_is_mounted_again_is_as_it_was_and_opens_no_connection(world: World) -> None:
    task_id, call = await world.begun()
    page = await world.opened()
    await page.show(tasks=[task_id])
    await page.connection("live")
    await world.backend.report(call, "PROCESSING", output="one ")
    await expect(page.task(task_id).locator("pre")).to_have_text("one ")

    await page.show(tasks=[])
    await expect(page.task(task_id)).to_have_count(0)
    await world.backend.report(call, "PROCESSING", output="two")
    await page.show(tasks=[task_id])

    await expect(page.task(task_id).locator("pre")).to_have_text("one two")
    assert len(page.to("/api/live")) == 1
    await page.show(tasks=[])
    await page.connection("idle")


async def test_a_page_goes_on_after_kill_9_of_the_service_without_gap_or_repetition(world: World) -> None:
    task_id, call = await world.begun()
    page = await world.opened()
    await page.show(tasks=[task_id], lists=[{"type": ["long"]}])
    await page.connection("live")
    expected = ""
    for turn in range(3):
        for number in range(5):
            expected += f"{turn}.{number} "
            await world.backend.report_until_taken(call, "PROCESSING", output=f"{turn}.{number} ")
        await expect(page.task(task_id).locator("pre")).to_have_text(expected)
        if turn < 2:
            world.up.kill()
            await page.connection("connecting")
            await world.up.serve()
            await page.connection("live")
    await world.backend.report_until_taken(call, "FINISHED", data=1)

    await page.has(task_id, "FINISHED")
    await expect(page.task(task_id).locator("pre")).to_have_text(expected)
    await expect(page.page.locator("ul li")).to_have_text([f"{task_id} FINISHED"])


async def test_where_streams_are_blocked_the_page_polls(world: World) -> None:
    task_id, call = await world.begun()
    page = await world.opened(blocked=True)
    await page.show(tasks=[task_id], lists=[{"type": ["long"]}])
    await page.connection("polling")

    await world.backend.report(call, "PROCESSING", progress=30, output="one ")
    await expect(page.task(task_id)).to_have_attribute("data-progress", "30")
    await world.backend.report(call, "PROCESSING", output="two")
    await world.backend.report(call, "FINISHED", data=[1])

    await page.has(task_id, "FINISHED")
    await expect(page.task(task_id).locator("pre")).to_have_text("one two")
    await expect(page.task(task_id).locator("code")).to_have_text("[1]")
    await expect(page.page.locator("ul li")).to_have_text([f"{task_id} FINISHED"])


async def test_a_token_is_renewed_before_it_ends_and_the_stream_goes_on(world: World) -> None:
    task_id, call = await world.begun()
    page = await world.opened(first_token_seconds=15)
    await page.show(tasks=[task_id])
    await page.connection("live")
    reports = 0

    async def report() -> bool:
        nonlocal reports
        reports += 1
        await world.backend.report(call, "PROCESSING", output="x")
        return len(page.to("/api/live")) == 2

    await wait_until(report, "the stream with the second token")
    await world.backend.report(call, "FINISHED", data=1)

    await page.has(task_id, "FINISHED")
    await expect(page.task(task_id).locator("pre")).to_have_text("x" * reports)
    assert 401 not in page.answers
    assert page.tokens == 2


async def test_a_task_that_does_not_exist_hides_no_other(world: World) -> None:
    task_id, call = await world.begun()
    nobody = task_id.replace(task_id[:26], "0" * 26)
    page = await world.opened()
    await page.show(tasks=[nobody, task_id])

    await expect(page.task(nobody)).to_have_attribute("data-error", re.compile("no .*task"))
    await page.connection("live")
    await world.backend.report(call, "FINISHED", data=1)
    await page.has(task_id, "FINISHED")


async def test_more_tasks_than_a_stream_takes_are_all_followed(world: World) -> None:
    tasks = [await world.begun() for _ in range(18)]
    page = await world.opened()
    await page.show(tasks=[task_id for task_id, _ in tasks])
    await page.connection("live")
    for number, (_, call) in enumerate(tasks):
        await world.backend.report(call, "PROCESSING", output="one ")
        await world.backend.report(call, "FINISHED", data=number)

    for number, (task_id, _) in enumerate(tasks):
        await page.has(task_id, "FINISHED")
        await expect(page.task(task_id).locator("pre")).to_have_text("one ")
        await expect(page.task(task_id).locator("code")).to_have_text(str(number))
    assert len(page.to("/api/live")) == 1


async def test_a_form_submits_once_and_shows_its_task_and_a_button_cancels(world: World) -> None:
    page = await world.opened()
    await page.show(submits="long")
    await page.page.get_by_role("button", name="Submit").click()
    await wait_until(lambda: world.backend.calls, "the call")
    assert len([url for url in page.requests if url.endswith("/api/task")]) == 1
    await world.backend.report(world.backend.calls[0], "FINISHED", data="done")
    await expect(page.page.locator("output")).to_have_text('"done"')

    task_id, _ = await world.begun()
    await page.show(tasks=[task_id])
    await page.has(task_id, "PROCESSING")
    await page.task(task_id).get_by_role("button").click()
    await page.has(task_id, "CANCELLED")
    assert page.faults == []


async def test_chapters_of_the_queue_are_pushed_and_can_be_stopped(world: World) -> None:
    page = await world.opened()
    await page.show(queued=True)
    await page.connection("live")
    path = "/api/projects/novel/queue-chapters"
    await world.client.done("POST", path, {"chaptersToGenerate": 2}, headers=AI)
    await wait_until(lambda: world.backend.calls, "the call")

    chapter = page.page.locator("ol li")
    await expect(chapter).to_have_attribute("data-queued", "processing")
    await world.backend.report(world.backend.calls[0], "PROCESSING", progress=40)
    await expect(chapter).to_contain_text("novel 40")
    await chapter.get_by_role("button").click()
    await expect(chapter).to_have_attribute("data-queued", "failed")
    assert len(page.to("/api/live")) == 1


async def test_the_client_itself_runs_and_streams_in_a_browser(world: World) -> None:
    page = await world.opened()
    running = asyncio.create_task(page.page.evaluate(FOLLOW))
    await wait_until(lambda: world.backend.calls, "the call")
    await world.backend.report(world.backend.calls[0], "FINISHED", data={"a": 1})

    assert await running == ["TaskSucceeded", {"a": 1}]


async def test_the_examples_of_the_readme_run_in_a_browser(world: World, tmp_path: Path) -> None:
    names = [f"App{number}" for number in range(len(EXAMPLES))]
    for name, text in zip(names, EXAMPLES, strict=True):
        (tmp_path / f"{name}.tsx").write_text(text)
    imports = "".join(f'import {{ App as {name} }} from "./{name}.tsx";\n' for name in names)
    (tmp_path / "examples.tsx").write_text(MOUNT.replace("IMPORTS", imports).replace("NAMES", ", ".join(names)))
    script = tmp_path / "examples.js"
    await passes(tmp_path, str(SDK / "build.mjs"), "--page", str(script), str(tmp_path / "examples.tsx"))
    assert len(EXAMPLES) == 5

    submits = await world.opened("?example=0", script)
    await submits.page.get_by_role("button", name="Resize").click()
    await wait_until(lambda: world.backend.calls, "the call")
    listing = await world.opened("?example=2", script)
    await expect(listing.page.locator("li")).to_contain_text("resize PROCESSING")
    answer = await world.opened(f"?example=1&task={world.backend.calls[0]['task_id']}", script)
    await world.backend.report(world.backend.calls[0], "PROCESSING", output="so far")
    await expect(answer.page.locator("pre")).to_have_text("so far")
    await world.backend.report(world.backend.calls[0], "FINISHED", data={"width": 320})
    await expect(submits.page.locator("output")).to_have_text('{"width":320}')
    await expect(answer.page.locator("article")).to_have_attribute("aria-busy", "false")
    await expect(listing.page.locator("li")).to_have_count(0)

    queue = await world.opened("?example=3", script)
    await world.client.done("POST", "/api/projects/novel/queue-chapters", {}, headers=AI)
    await expect(queue.page.locator("section p")).to_contain_text("novel: processing")
    double = await world.opened("?example=4", script)
    await double.page.get_by_role("button").click()
    await expect(double.page.get_by_role("button")).to_have_text("42")
    for page in (submits, listing, answer, queue, double):
        assert page.faults == []
