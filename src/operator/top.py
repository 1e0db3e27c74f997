"""`taskstream top`: the service, live and full screen. `q` or Ctrl-C ends it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from rich.live import Live

from ..clock import utc_now
from .client import OperatorClient
from .commands import OperatorSession, runs
from .failures import EXIT_REFUSED, CommandFailed, ServiceRefused, WrongUsage
from .top_screen import Overview, TopScreen

EVERY_SECONDS = 2.0
QUIT_KEYS = frozenset("qQ\x03\x1b")
"""q, Ctrl-C and Escape."""
RUNNING_SHOWN = 50


def define(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    runs(parser, watch)
    parser.add_argument(
        "--every", type=_seconds, default=EVERY_SECONDS, metavar="SECONDS", help=f"default: {EVERY_SECONDS:g}"
    )


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.2 <= found <= 3_600:
        raise argparse.ArgumentTypeError("must be a number of seconds from 0.2 to 3600")
    return found


async def watch(session: OperatorSession) -> int:
    """Show the service until a key ends it; with --json, print one overview and return."""
    if session.output.json:
        overview = await read_overview(session.client)
        if overview.problem:
            raise CommandFailed(overview.problem)
        session.output.raw(overview.as_json())
        return 0
    if not sys.stdin.isatty() or not session.output.console.is_terminal:
        raise WrongUsage("top needs a terminal; `taskstream pools list` and `taskstream top --json` do not")
    overview = await read_overview(session.client)
    if overview.is_final:
        raise CommandFailed(overview.problem, EXIT_REFUSED)
    ended = asyncio.Event()
    screen = TopScreen(session.access.url, overview)
    live = Live(screen, console=session.output.console, screen=True, auto_refresh=False)
    with _keys(ended), live, _resizes(live):
        while not ended.is_set():
            live.refresh()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), session.options.every)
                break
            screen.overview = await read_overview(session.client)
    return 0


async def read_overview(client: OperatorClient) -> Overview:
    """Return what the service says now; what went wrong is in `problem`."""

    async def read(where: str, *query: tuple[str, str]) -> Any:
        try:
            return (await client.get(where, query)).body
        except ServiceRefused as refusal:
            if refusal.http_status in (403, 404):  # not for this role, or an older service
                return None
            raise

    names = ("stats", "pools", "servers", "alarms", "running", "failed")
    try:
        found = await asyncio.gather(
            read("/api/stats", ("from", "1h"), ("step", "60")),
            read("/api/pools", ("limit", "200")),
            read("/api/servers", ("limit", "200")),
            read("/api/alarms"),
            read("/api/tasks", ("status", "PROCESSING"), ("limit", str(RUNNING_SHOWN))),
            read("/api/tasks", ("status", "FAILED"), ("sort", "-ended"), ("limit", "5")),
        )
    except CommandFailed as failure:
        is_final = isinstance(failure, ServiceRefused) and failure.http_status in (400, 401)
        return Overview(read_at=utc_now(), problem=str(failure), is_final=is_final)
    return Overview(read_at=utc_now(), **dict(zip(names, found, strict=True)))


@contextlib.contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """Set the event at a key that ends, at SIGINT and at SIGTERM; put the terminal back as it was."""
    import termios  # noqa: PLC0415 - Windows has none
    import tty  # noqa: PLC0415

    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)

    def pressed() -> None:
        typed = os.read(descriptor, 64).decode(errors="replace")
        if not typed or typed in QUIT_KEYS or typed[0] in "qQ":  # an arrow key begins with Escape, too
            ended.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, pressed)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes(live: Live) -> Iterator[None]:
    """Draw again when the terminal gets another size."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, live.refresh)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
