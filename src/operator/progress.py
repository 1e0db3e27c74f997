"""A progress bar on stderr, if that is a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .output import Output


@contextlib.contextmanager
def progress_bar(output: Output, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many are done by now. `total`: None if unknown."""
    if not output.messages.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.messages, transient=True) as bar:
        shown = bar.add_task(what, total=total)
        yield lambda done: bar.update(shown, completed=done)
