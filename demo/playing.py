"""Plays a story on a screen: what went wrong is said, and nothing is left running."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp

from .processes import DemoFailed
from .screen import Screen


class Playable(Protocol):
    async def tell(self) -> list[str]:
        """Do everything; return what was not as it should be. Raises DemoFailed."""
        ...

    def log_tail(self) -> str:
        """Return the end of the service's log."""
        ...


async def play(screen: Screen, story_on: Callable[[AsyncExitStack], Playable]) -> bool:
    """Tell a story and return whether all went well; if not, the screen says why.

    Whatever happens, also Ctrl-C, what the story has put on its stack is undone: its processes are ended and its
    folder is removed.
    """
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    try:
        problems = await _told(story_on)
    except asyncio.CancelledError:
        screen.keep()
        screen.say()
        screen.say("Stopped. All processes are ended, and the demo's folder is removed.")
        return False
    if problems:
        screen.keep()
        screen.title(screen.style("Something went wrong", "bad"))
        for problem in problems:
            screen.say(f"  {problem}")
    return not problems


async def _told(story_on: Callable[[AsyncExitStack], Playable]) -> list[str]:
    async with AsyncExitStack() as stack:
        story = story_on(stack)
        try:
            return await story.tell()
        except DemoFailed as error:
            return [str(error)]
        except (aiohttp.ClientError, TimeoutError) as error:
            return [f"the service did not answer: {error!r}", story.log_tail()]
