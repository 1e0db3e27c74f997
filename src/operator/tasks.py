"""`taskstream tasks`: list, show and explain tasks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from . import filters, task_view
from .client import path
from .commands import NounCommands, OperatorSession
from .failures import ServiceRefused
from .output import Column
from .text import Styled, number, state, when

SORTS = ("created", "ended", "duration")
COUNTED_BY = ("status", "type", "pool", "server", "priority", "kind", "owner", "hold")


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_tasks, "list tasks, the newest first", lists=True)
    listing.add_argument("--sort", choices=SORTS, default="created", help="newest, latest end or longest run first")
    listing.add_argument("--reverse", action="store_true", help="in the opposite order")
    filters.filter_options(listing)
    counting = commands.add("count", count_tasks, "count tasks")
    counting.add_argument("--by", metavar="WHAT", help="one count for each value: " + ", ".join(COUNTED_BY))
    filters.filter_options(counting)
    showing = commands.add("show", show_task, "show a task with its payload and result", "id")
    showing.add_argument("--no-bodies", action="store_true", help="without payload and result")
    commands.add("why", explain_task, "say why a task waits, runs or ended", "id")


def columns(session: OperatorSession) -> list[Column]:
    """Return the columns of a list of tasks."""
    now, exact = session.now, session.options.exact

    def outcome(task: Mapping[str, Any]) -> object:
        if task["status"] == "PROCESSING":
            share = "" if task["progress"] is None else f"{task['progress']:.0f} % "
            return f"{share}{task['message'] or ''}".strip()
        return Styled(task["error"], "red") if task["error"] else None

    return [
        Column("ID", lambda task: task["id"]),
        Column("STATUS", lambda task: state(task["status"])),
        Column("TYPE", lambda task: task["type"], long=True),
        Column("SERVER", lambda task: task["serverId"], long=True, optional=True),
        Column("TRIES", lambda task: f"{task['attempt']}/{task['attempts']}", right=True, optional=True),
        Column("CHANGED", lambda task: when(task["updatedAt"], now, exact=exact)),
        Column("ERROR OR PROGRESS", outcome, long=True),
    ]


async def list_tasks(session: OperatorSession) -> int:
    """Print tasks."""
    options = session.options
    sort = options.sort if options.reverse else f"-{options.sort}"
    try:
        return await session.table(
            "/api/tasks",
            "tasks",
            columns(session),
            [*filters.query(options), ("sort", sort)],
            empty="no task matches",
        )
    except ServiceRefused as refusal:
        raise filters.explained(refusal) from None


async def count_tasks(session: OperatorSession) -> int:
    """Print the number of tasks that match."""
    options, output = session.options, session.output
    by = [("by", options.by)] if options.by else []
    try:
        answer = await session.client.get("/api/tasks/count", [*filters.query(options), *by])
    except ServiceRefused as refusal:
        raise filters.explained(refusal) from None
    if output.json:
        output.raw(answer.content)
        return 0
    found = answer.body

    def counted(entry: Mapping[str, Any]) -> str:
        return ("at least " if entry["capped"] else "") + number(entry["count"])

    if options.by:
        output.facts([*((row["value"] or "(none)", counted(row)) for row in found["by"]), ("all", counted(found))])
    else:
        output.line(counted(found))
    return 0


async def show_task(session: OperatorSession) -> int:
    """Print one task."""
    query = [("bodies", "false")] if session.options.no_bodies else []
    answer = await session.client.get(path("task", session.options.id), query)
    if session.output.json:
        session.output.raw(answer.content)
    else:
        task_view.print_task(session, answer.body)
    return 0


async def explain_task(session: OperatorSession) -> int:
    """Print why a task waits, runs or ended."""
    answer = await session.client.get(path("task", session.options.id, "why"))
    if session.output.json:
        session.output.raw(answer.content)
    else:
        task_view.print_why(session, answer.body)
    return 0
