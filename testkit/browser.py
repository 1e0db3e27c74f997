"""A real browser (Debian's chromium, without a window) that opens a test's page."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from .http_server import HttpServer
from .waiting import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
STOP_SECONDS = 10.0


@contextlib.contextmanager
def chromium(folder: Path, url: str) -> Iterator[None]:
    """Keep a page open. Raises AssertionError if there is no browser: a skipped test proves nothing."""
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


class Page(HttpServer):
    """A page on an origin of its own. Its script posts what it notes to `/note`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.notes: list[dict[str, Any]] = []
        self._html = html

    @property
    def url(self) -> str:
        return self.base_url

    def noted(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return the notes with these values."""
        return [note for note in self.notes if all(note.get(name) == value for name, value in wanted.items())]

    async def notes_that(self, count: int, **wanted: Any) -> None:
        """Wait for this many notes with these values."""
        await wait_until(lambda: len(self.noted(**wanted)) >= count, f"{count} notes with {wanted} of the page")

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/", self._show)
        app.router.add_post("/note", self._note)

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html")

    async def _note(self, request: web.Request) -> web.Response:
        self.notes.append(await request.json())
        return web.Response(status=204)
