"""A real browser (Debian's chromium, without a window) that opens a page of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from .waiting import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 60.0
STOP_SECONDS = 10.0


@contextlib.contextmanager
def chromium(folder: Path, url: str) -> Iterator[None]:
    """Have a page open. Fails where there is no browser: a test that is passed over proves nothing."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise AssertionError("there is no browser here: apt-get install chromium")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += [f"--user-data-dir={folder / 'browser'}", "--remote-debugging-port=0", "--no-proxy-server"]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen([found, *options, url], stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        # It is many processes; all of them are in the session that was made for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)


class Page:
    """What a page's script has told: it posts what it notes to `/note`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.notes: list[dict[str, Any]] = []

    def noted(self, **wanted: Any) -> list[dict[str, Any]]:
        return [note for note in self.notes if all(note.get(name) == value for name, value in wanted.items())]

    async def notes_that(self, count: int, **wanted: Any) -> None:
        """Wait until so many notes with these values are there."""
        await wait_until(
            lambda: len(self.noted(**wanted)) >= count, f"{count} notes with {wanted} of the page", START_SECONDS
        )


@contextlib.asynccontextmanager
async def page(html: str) -> AsyncIterator[Page]:
    """Serve a page on an origin of its own."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    async def note(request: web.Request) -> web.Response:
        served.notes.append(await request.json())
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/", show)
    app.router.add_post("/note", note)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served = Page(f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield served
    finally:
        await runner.cleanup()
