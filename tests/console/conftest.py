"""The console in a real browser, on a real service. Every test fails on a console error, a violation of the content
security policy, or a request to another origin."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright, expect

from testkit.backend import BackendServer, status
from testkit.browser import NAMES
from testkit.nats import running_nats
from testkit.service import Service, running_service, token

ROOT = Path(__file__).parents[2]
AXE = ROOT / "console" / "node_modules" / "axe-core" / "axe.min.js"
DESKTOP = {"width": 1280, "height": 800}
PATIENCE_MS = 15_000
"""For a busy machine: no test waits this long for what comes."""
expect.set_options(timeout=PATIENCE_MS)
WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`);
});
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have all tests of this folder share one event loop, and with it one browser."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and isinstance(item, pytest.Function) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's chromium, shared by all tests; each has a context of its own."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "there is no browser here: apt-get install chromium"
    assert (ROOT / "src" / "console_files" / "index.html").exists(), "the console is not built: make console"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"],
        )
        yield browser
        await browser.close()


@pytest.fixture
def contexts() -> list[BrowserContext]:
    """What a test has opened. It is closed before the service that its pages poll."""
    return []


async def close(contexts: list[BrowserContext]) -> None:
    while contexts:
        await contexts.pop().close()


@pytest_asyncio.fixture(loop_scope="session")
async def api(nats_url: str, contexts: list[BrowserContext]) -> AsyncIterator[Service]:
    """The API without a worker, for one test."""
    async with running_service(nats_url, worker=False) as service:
        yield service
        await close(contexts)


@pytest_asyncio.fixture(loop_scope="session")
async def service(nats_url: str, contexts: list[BrowserContext]) -> AsyncIterator[Service]:
    """API and worker, for one test."""
    async with running_service(nats_url) as service:
        yield service
        await close(contexts)


@pytest_asyncio.fixture(loop_scope="session")
async def backend() -> AsyncIterator[BackendServer]:
    """A backend server that echoes, until the test says otherwise."""
    async with BackendServer() as backend:
        yield backend


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stocked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with some of everything, for tests that only read.

    Of alice: 5 tasks `echo` that are finished, 3 `broken` that are failed, 4 `held` until next year, 2 `nowhere` that
    wait for a server, 1 that is cancelled. One server, `gpu-1`, is online.
    """
    with running_nats(tmp_path_factory.mktemp("console") / "nats") as nats:
        async with running_service(nats.url) as service, BackendServer() as backend:
            await stock(service, backend)
            yield service


async def stock(service: Service, backend: BackendServer) -> None:
    """Fill a service as `stocked` says."""
    await service.admin.register(backend, "gpu-1", types=["echo", "broken", "held"], maxConcurrent=4)
    for name, attempts in (("echo", 1), ("broken", 1), ("nowhere", 1), ("held", 1)):
        await service.admin.done("PUT", f"/api/types/{name}", {"attempts": attempts})
    done = [await service.alice.submit({"type": "echo", "payload": {"number": number}}) for number in range(5)]
    for task_id in done:
        await service.alice.reaches(task_id, "FINISHED")
    backend.answer = status(400, {"error": "CUDA out of memory"})
    broken = [await service.alice.submit({"type": "broken", "payload": {"number": number}}) for number in range(3)]
    for task_id in broken:
        await service.alice.reaches(task_id, "FAILED")
    for number in range(4):
        await service.alice.submit({"type": "held", "payload": number, "runAt": "2036-01-01T00:00:00Z"})
    for number in range(3):
        cancelled = await service.alice.submit({"type": "nowhere", "payload": number})
    await service.alice.done("POST", f"/api/task/{cancelled}/cancel")
    # Lists come from the index, a moment after the log.
    await service.alice.until("/api/tasks/count", lambda counts: counts["count"] == 15, "15 tasks in the index")


class Console:
    """Opens the console in a context of its own, and notes what must not happen."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.faults: list[str] = []
        self._allowed: list[re.Pattern[str]] = []
        self._origins: set[str] = set()

    def allow(self, pattern: str) -> None:
        """Expect errors with this text: those of requests that the test has refused."""
        self._allowed.append(re.compile(pattern))

    def check(self) -> None:
        """Raise AssertionError if something happened that must not."""
        bad = [fault for fault in self.faults if not any(pattern.search(fault) for pattern in self._allowed)]
        assert not bad, "\n".join(bad)

    async def open(
        self, service: Any, path: str = "/", *, subject: str = "root", roles: tuple[str, ...] = ("admin",)
    ) -> Page:
        """Open a route with a token, as a link of `taskstream console` does. `service`: it, or the URL of one."""
        url = service if isinstance(service, str) else service.url
        bearer = token(subject, *roles)
        return await self.go(f"{url}/console/#/token={quote(bearer, safe='')}&to={quote(path, safe='')}")

    async def go(self, url: str) -> Page:
        """Open an address in a new tab."""
        parts = urlsplit(url)
        self._origins.add(f"{parts.scheme}://{parts.netloc}")
        page = await self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.on("request", self._on_request)
        await page.goto(url)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console {message.type}: {message.text} {message.location.get('url', '')}")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and f"{parts.scheme}://{parts.netloc}" not in self._origins:
            self.faults.append(f"request to another origin: {request.url}")


@pytest_asyncio.fixture(loop_scope="session")
async def console(browser: Browser, contexts: list[BrowserContext]) -> AsyncIterator[Console]:
    """Opens pages of the console. At the end of the test nothing bad may have happened in them."""
    # Without motion: a colour that is on its way to another has any contrast.
    context = await browser.new_context(
        viewport=DESKTOP, locale="en-GB", timezone_id="Europe/Berlin", reduced_motion="reduce"
    )
    await context.add_init_script(WATCH)
    contexts.append(context)
    opened = Console(context)
    yield opened
    await close(contexts)
    opened.check()


async def check_accessible(page: Page) -> None:
    """Raise AssertionError for each serious or critical finding of axe-core."""
    # Through the protocol: a script tag or a policy that is switched off would make the policy's tests worthless.
    if not await page.evaluate("() => 'axe' in window"):
        session = await page.context.new_cdp_session(page)
        answer = await session.send("Runtime.evaluate", {"expression": AXE.read_text() + "; undefined"})
        assert "exceptionDetails" not in answer, answer
        await session.detach()
    found = await page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] })).violations")
    serious = [
        f"{violation['id']} ({violation['impact']}): {violation['help']}\n"
        + "\n".join(
            f"    {node['html'][:200]}\n    {node.get('failureSummary', '')[:300]}" for node in violation["nodes"][:3]
        )
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]
    assert not serious, "\n".join(serious)


async def settled(page: Page) -> None:
    """Wait until nothing on the page is loading."""
    await expect(page.locator("[aria-busy=true]")).to_have_count(0)
