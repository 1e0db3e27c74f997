"""The work that every model here does: say a text loudly, word by word. It needs no library.

`mode` in the input chooses how: `quick`, `slow` (waits after the first word until `release` exists in the folder) or
`fail`. `ECOSYSTEM_FOLDER` is the run's folder. What the model does is noted in its file `trace`, a line each, so that a
case sees whether work goes on after a cancel. A setup lasts as long as `hold-setup` exists there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

FOLDER = Path(os.environ["ECOSYSTEM_FOLDER"])
STEP_SECONDS = 0.05
MOST_SECONDS = 120.0
"""How long a setup or a slow call lasts at most."""


def note(line: str) -> None:
    """Add a line to the trace."""
    with (FOLDER / "trace").open("a") as trace:
        trace.write(f"{line}\n")


def pauses(while_there: str = "", until_there: str = "") -> Iterator[float]:
    """Yield the seconds to pause, again and again, while a file exists or until one does."""
    ends = time.monotonic() + MOST_SECONDS
    while time.monotonic() < ends:
        if (while_there and not (FOLDER / while_there).exists()) or (until_there and (FOLDER / until_there).exists()):
            return
        yield STEP_SECONDS


def set_up() -> None:
    """Do the slow setup."""
    note("setup")
    for seconds in pauses(while_there="hold-setup"):
        time.sleep(seconds)
    if (FOLDER / "break-setup").exists():
        raise RuntimeError("the weights are broken")
    note("ready")


async def set_up_async() -> None:
    """Do the slow setup without blocking the loop."""
    note("setup")
    for seconds in pauses(while_there="hold-setup"):
        await asyncio.sleep(seconds)
    note("ready")


def loud_words(text: str, mode: str) -> Iterator[str]:
    """Yield the words in capitals. Notes `start`, `step` (of a slow call) and `end` or `stopped`."""
    note(f"start {mode}")
    ended = False
    try:
        for place, word in enumerate(text.split()):
            if mode == "fail" and place:
                ended = True
                raise ValueError("the model broke on its second word")
            if mode == "slow" and place:
                for seconds in pauses(until_there="release"):
                    note("step")
                    time.sleep(seconds)
            yield word.upper()
        ended = True
    finally:
        note("end" if ended else "stopped")


async def loud_words_async(text: str, mode: str) -> AsyncIterator[str]:
    """Yield the same without blocking the loop."""
    note(f"start {mode}")
    ended = False
    try:
        for place, word in enumerate(text.split()):
            if mode == "fail" and place:
                ended = True
                raise ValueError("the model broke on its second word")
            if mode == "slow" and place:
                for seconds in pauses(until_there="release"):
                    note("step")
                    await asyncio.sleep(seconds)
            yield word.upper()
        ended = True
    finally:
        note("end" if ended else "stopped")
