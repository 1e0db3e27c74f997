"""Progress of all tasks, counted from the service's list of tasks."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .screen import styled
from .workload import SERVERS

RATE_OVER_SECONDS = 3.0
ENDED = frozenset({"FINISHED", "FAILED", "CANCELLED"})


class DemoProgress:
    """Counts over one reading of the list."""

    def __init__(self, tasks: Sequence[Mapping[str, Any]], servers: Mapping[str, Mapping[str, Any]]) -> None:
        statuses = Counter(task["status"] for task in tasks)
        self.submitted = len(tasks)
        self.done = statuses["FINISHED"]
        self.running = statuses["PROCESSING"]
        self.waiting = statuses["WAITING"]
        self.failed = statuses["FAILED"]
        self.cancelled = statuses["CANCELLED"]
        self.retried = sum(task["attempt"] > 1 for task in tasks)
        self.servers = servers
        self._on = Counter((task["serverId"], task["status"]) for task in tasks)

    @property
    def ended(self) -> int:
        return self.done + self.failed + self.cancelled

    def running_on(self, server_id: str) -> int:
        return self._on[server_id, "PROCESSING"]

    def done_by(self, server_id: str) -> int:
        return self._on[server_id, "FINISHED"]


class Meter:
    """Tasks that ended per second, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, ended: int) -> float:
        now = time.monotonic()
        self._seen.append((now, ended))
        while len(self._seen) > 2 and self._seen[0][0] < now - RATE_OVER_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return (ended - before) / (now - since) if now > since else 0.0


def block(progress: DemoProgress, total: int, rate: float) -> list[RenderableType]:
    """Return what a terminal shows."""
    bar = Table.grid(padding=(0, 1))
    bar.add_column(width=1)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_column(justify="right", width=7)
    bar.expand = True
    share = ProgressBar(total=total, completed=progress.ended, complete_style="green", finished_style="green")
    bar.add_row("", share, f"{progress.ended} of {total}", f"{rate:.1f}/s")
    counts = Text.assemble(
        f"  done {progress.done} · running {progress.running} · waiting {progress.waiting} · ",
        (f"retried {progress.retried}", "yellow"),
        " · ",
        (f"failed {progress.failed}", "red"),
    )
    return [Text(), bar, counts, Text(), *_server_lines(progress)]


def _server_lines(progress: DemoProgress) -> Iterable[Text]:
    for plan in SERVERS:
        server = progress.servers.get(plan.server_id, {})
        is_online = server.get("status") == "online"
        circuit = server.get("circuit", "closed")
        state = server.get("status", "gone") + ("" if circuit == "closed" else f", circuit {circuit}")
        running = progress.running_on(plan.server_id)
        slots = "▮" * running + "▯" * max(0, plan.max_concurrent - running)
        done = progress.done_by(plan.server_id)
        light = styled("●", "bad" if not is_online else "good" if circuit == "closed" else "warn")
        yield Text.assemble("  ", light, f" {plan.server_id:<9} {slots:<9} {done:>4} done   {state}")


def plain(progress: DemoProgress, total: int, rate: float, elapsed_seconds: float) -> str:
    """Return the line for any other output."""
    return (
        f"  {elapsed_seconds:5.1f} s  {progress.ended:>4} of {total}: done {progress.done}, "
        f"running {progress.running}, waiting {progress.waiting}, retried {progress.retried}, "
        f"failed {progress.failed}; {rate:.1f}/s"
    )
