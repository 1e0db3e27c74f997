"""How long the messages of a stream may wait for more, which their reader may change at any time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


def _nothing() -> None:
    """Do nothing."""


class Patience:
    """0 seconds: each message comes at once. Otherwise messages are fetched together, after so many seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._changed = asyncio.Event()
        self._react: Callable[[], None] = _nothing

    def change(self, seconds: float) -> None:
        """Set another patience; a pause ends now."""
        if seconds != self.seconds:
            self.seconds = seconds
            self._changed.set()
            self._react()

    def on_change(self, react: Callable[[], None] = _nothing) -> None:
        """Call `react`, and nothing else, after each change."""
        self._react = react

    async def pause(self) -> None:
        """Wait as long as messages may wait, or until the patience changes."""
        self._changed.clear()
        if self.seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.seconds):
                    await self._changed.wait()
