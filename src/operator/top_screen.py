"""What `taskstream top` draws: figures, plots, pools, servers, alarms and running tasks, as many as fit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from .pools import free, waiting
from .servers import condition, reason
from .text import STYLES, between, duration, number, plain, when

BLOCKS = " ▁▂▃▄▅▆▇█"
LEAST_ROWS = 3
"""Rows of each table, title included, before any gets more."""


class Overview(Struct, frozen=True, kw_only=True):
    """One reading of the service. None: this role may not read it."""

    read_at: datetime
    stats: Any = None
    pools: Any = None
    servers: Any = None
    alarms: Any = None
    running: Any = None
    failed: Any = None
    problem: str = ""
    is_final: bool = False
    """True if trying again cannot help."""

    def as_json(self) -> bytes:
        """Return all of it as one JSON object, each part as the API has it."""
        names = ("stats", "pools", "servers", "alarms", "running", "failed")
        return msgspec.json.encode({name: getattr(self, name) for name in names})


class TopScreen:
    """Draws the newest overview for the size that the terminal has. After an error, what was known stays."""

    def __init__(self, url: str, overview: Overview) -> None:
        self._url = url
        self._overview = self._known = overview

    @property
    def overview(self) -> Overview:
        return self._overview

    @overview.setter
    def overview(self, found: Overview) -> None:
        self._overview = found
        if not found.problem:
            self._known = found

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        lines = self.lines(width, options.size.height)
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        yield Text("\n").join(lines)

    def lines(self, width: int, height: int) -> list[Text]:
        """Return the lines of a screen of this size."""
        head = [self._title(), *self._figures(width)]
        sections = [rows for rows in self._sections() if rows]
        room = height - len(head) - 1
        shares = _shares([len(rows) + 1 for rows in sections], room)
        lines = list(head)
        for rows, share in zip(sections, shares, strict=True):
            if share >= LEAST_ROWS - 1:
                lines.append(Text())
                kept = rows[: share - 1]
                if len(kept) < len(rows) and len(kept) > 1:
                    kept[-1] = Text(f"… {len(rows) - len(kept) + 1} more", style="dim")
                lines += kept
        lines = lines[: height - 1]
        return [*lines, *[Text()] * (height - 1 - len(lines)), Text("q: quit", style="dim")]

    def _title(self) -> Text:
        at = self._overview.read_at.astimezone().strftime("%H:%M:%S")
        problem = f"  {plain(self._overview.problem)}" if self._overview.problem else ""
        return Text.assemble(("taskstream", "bold"), (f"  {plain(self._url)}  ", "dim"), at, (problem, "bold red"))

    def _figures(self, width: int) -> list[Text]:
        stats = self._known.stats
        if not stats:
            return []
        totals, window, series = stats["totals"], stats["window"], stats["series"]
        last = series[-2] if len(series) > 1 else {}
        parts = [
            ("waiting", totals["waiting"], STYLES["WAITING"]),
            ("held", totals["held"], ""),
            ("running", totals["processing"], STYLES["PROCESSING"]),
            ("finished 1 h", window["finished"], STYLES["FINISHED"]),
            ("failed 1 h", window["failed"], STYLES["FAILED"] if window["failed"] else ""),
            ("ended/min", sum(last.get(name, 0) for name in ("finished", "failed", "cancelled")), ""),
        ]
        line = Text()
        for name, value, style in parts:
            line.append(f"{'  ' if line else ''}{name} ", style="dim")
            line.append(number(value), style=style)
        times = Text()
        for name in ("wait", "run"):
            times.append(f"{'  ' if times else ''}{name} p50/p95 ", style="dim")
            times.append(f"{duration(window[name]['p50'])}/{duration(window[name]['p95'])}")
        plot = spark([entry["finished"] + entry["failed"] for entry in series], max(10, width - 24))
        return [line, times, Text.assemble(("ended, last hour  ", "dim"), (plot, STYLES["FINISHED"]))]

    def _sections(self) -> list[list[Text]]:
        known = self._known
        now = self._overview.read_at
        alarms = [
            Text.assemble(
                ("! " if alarm["severity"] == "critical" else "· ", STYLES[alarm["severity"]]), plain(alarm["text"])
            )
            for alarm in (known.alarms or {}).get("alarms", [])
        ]
        pools = [
            (
                pool["name"],
                "paused" if pool["pause"] else "",
                number(waiting(pool)),
                number(pool.get("running")),
                number(free(pool)),
            )
            for pool in _busy_first((known.pools or {}).get("pools", []), waiting)
        ]
        servers = [
            (
                server["id"],
                condition(server),
                f"{server['activeTasks']}/{server['currentLimit']}",
                reason(server),
            )
            for server in _bad_first((known.servers or {}).get("servers", []))
            if "circuit" in server
        ]
        running = [
            (
                task["id"],
                task["type"],
                task["serverId"],
                between(task["startedAt"], None, now),
                "" if task["progress"] is None else f"{task['progress']:.0f} %",
            )
            for task in (known.running or {}).get("tasks", [])
        ]
        failed = [
            (task["id"], when(task["endedAt"], now), task["error"]) for task in (known.failed or {}).get("tasks", [])
        ]
        return [
            [Text(f"ALARMS {len(alarms)}", style="bold red"), *alarms] if alarms else [],
            rows_of("POOL STATE WAITING RUNNING FREE", pools, "2 3 4"),
            rows_of("SERVER STATE RUNNING REASON", servers, "2"),
            rows_of("RUNNING TYPE SERVER FOR DONE", running, "3 4"),
            rows_of("FAILED WHEN ERROR", failed, ""),
        ]


def rows_of(titles: str, rows: Sequence[Sequence[Any]], right: str) -> list[Text]:
    """Return aligned lines, the titles first; empty without rows. `right`: columns that are numbers."""
    if not rows:
        return []
    heads = titles.split()
    cells = [[plain(getattr(cell, "text", "" if cell is None else cell)) for cell in row] for row in rows]
    widths = [max(cell_len(row[at]) for row in [heads, *cells]) for at in range(len(heads))]
    numbers = {int(each) for each in right.split()}
    lines = []
    for at_row, row in enumerate([heads, *cells]):
        line = Text()
        for at, cell in enumerate(row):
            padding = " " * (widths[at] - cell_len(cell))
            style = "bold" if at_row == 0 else getattr(rows[at_row - 1][at], "style", "")
            line.append(padding + cell if at in numbers else cell + padding, style=style)
            line.append("  ")
        lines.append(line)
    return lines


def spark(values: Sequence[float], width: int) -> str:
    """Return a plot of one line, the newest value at the end."""
    shown = list(values)[-width:]
    most = max(shown, default=0)
    if not most:
        return "▁" * len(shown)
    return "".join(BLOCKS[max(1, round(value / most * (len(BLOCKS) - 1)))] for value in shown)


def _shares(wanted: Sequence[int], room: int) -> list[int]:
    """Divide lines: each gets what it wants, or an equal part of what the smaller ones leave."""
    shares = [0] * len(wanted)
    left, open_ = room, sorted(range(len(wanted)), key=lambda at: wanted[at])
    while open_:
        part = left // len(open_)
        at = open_.pop(0)
        shares[at] = min(wanted[at], part)
        left -= shares[at]
    return shares


def _busy_first(pools: Sequence[Any], count: Any) -> list[Any]:
    return sorted(pools, key=lambda pool: (-count(pool), pool["name"]))


def _bad_first(servers: Sequence[Any]) -> list[Any]:
    def order(server: Any) -> tuple[bool, int, str]:
        is_bad = server.get("status") != "online" or server.get("circuit", "closed") != "closed"
        return not is_bad, -server.get("activeTasks", 0), server["id"]

    return sorted(servers, key=order)
