"""Time limits of tests. Processes that a hung test has started end with it.

Three limits, each for cases that the one before cannot reach:

* A test that is a coroutine is cancelled inside its loop, so that its own `async with` and `finally` end what it
  started while the fixtures' servers still run.
* pytest-timeout (`timeout` in pyproject.toml, or the test's own mark) fails whatever else waits: a plain test, a
  fixture. Its signal is lost in a callback of an event loop, and it comes once, so a teardown may be without it.
* The process is ended, and all it has started. xdist reports that test as failed and runs the others in a new one;
  with `--dist loadfile` it would run that test again, and again.

`--timeout 0` lifts them all, for a debugger.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from .usage import descendants

SETUP_SECONDS = 10.0
"""How much sooner than pytest-timeout a coroutine is cancelled: that one counts from the start of the setup."""
TEARDOWN_SECONDS = 60.0
"""What a teardown may take, and how much later than pytest-timeout the process ends."""


def limit_seconds(item: pytest.Item) -> float:
    """Return the limit of a test, as pytest-timeout finds it; 0: there is none."""
    mark, option = item.get_closest_marker("timeout"), item.config.getoption("timeout")
    return float(mark.args[0] if mark else item.config.getini("timeout") if option is None else option)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Limit the time of a setup."""
    limit = limit_seconds(item)
    with process_ends_after(limit and limit + TEARDOWN_SECONDS, item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Limit the time of a test."""
    limit = limit_seconds(item)
    if limit and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = cancelled_after(max(limit - SETUP_SECONDS, limit / 2), item.obj)
    with process_ends_after(limit and limit + TEARDOWN_SECONDS, item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Limit the time of a teardown."""
    with process_ends_after(limit_seconds(item) and TEARDOWN_SECONDS, item):
        return (yield)


def cancelled_after(seconds: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return the test with a limit at which it is cancelled."""

    @functools.wraps(test)
    async def limited(**fixtures: Any) -> None:
        try:
            async with asyncio.timeout(seconds) as limit:
                await test(**fixtures)
        except TimeoutError as error:
            if limit.expired():
                raise AssertionError(f"did not end within {seconds:g} s") from error  # its cause says where it was
            raise

    return limited


@contextlib.contextmanager
def process_ends_after(seconds: float, item: pytest.Item) -> Iterator[None]:
    """End this process if the block takes longer; 0: no limit."""
    if not seconds:
        yield
        return
    timer = threading.Timer(seconds, end_process, [item])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def end_process(item: pytest.Item) -> None:
    """Show what was printed and where every thread is, kill what was started, and end."""
    try:
        assert sys.__stderr__ is not None
        capture = item.config.pluginmanager.getplugin("capturemanager")
        capture.suspend_global_capture()
        print(*capture.read_global_capture(), f"{item.nodeid} does not end", sep="\n", file=sys.__stderr__, flush=True)
        faulthandler.dump_traceback(sys.__stderr__)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        os._exit(1)
