"""`taskstream tasks`: list, show, explain, follow, submit, retry, cancel and delete tasks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw

from . import filters, submission, task_view
from .bulk import CANCEL, DELETE, RETRY, define_bulk
from .client import decode, path
from .commands import EVENTS_PAGE, NounCommands, OperatorSession, events_number
from .event_lines import event_line
from .failures import ServiceRefused
from .following import follow_tasks
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
    history = commands.add("events", print_events, "print the history of a task, oldest event first", "id")
    history.add_argument("--event", action="append", metavar="NAME", help="only these events, such as AttemptFailed")
    history.add_argument("--limit", type=events_number, metavar="N", help="the newest, 1000 at most; default: all")
    history.add_argument("--bodies", action="store_true", help="with --json: with payload and results")
    following = commands.add("follow", follow_tasks, "print events as they happen: of one task to its end, or of all")
    following.add_argument("id", nargs="?", metavar="ID", help="a task; left out: all tasks")
    following.add_argument("--type", action="append", metavar="NAME", help="of all tasks: only these types")
    following.add_argument("--event", action="append", metavar="NAME", help="of all tasks: only these events")
    following.add_argument("--owner", metavar="USER", help="of all tasks: only this user's")
    following.add_argument("--after", metavar="ID", help="start after this event id; 0: at the beginning of the log")
    submission.define(commands)
    for action in (RETRY, CANCEL, DELETE):
        define_bulk(commands, action)


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


async def print_events(session: OperatorSession) -> int:
    """Print the events of a task."""
    options, output = session.options, session.output
    where = path("task", options.id, "events")
    chosen = [("event", ",".join(options.event))] if options.event else []
    query = [*chosen, ("bodies", str(options.bodies and output.json).lower()), ("limit", str(EVENTS_PAGE))]
    if options.limit:
        newest = await session.client.get(where, [*query[:-1], ("before", "end"), ("limit", str(options.limit))])
        _print_events(session, list(reversed(newest.raw("events"))))
        return 0
    after: int | None = 0
    while after is not None:
        page = await session.client.get(where, [*query, ("after", str(after))])
        _print_events(session, page.raw("events"))
        after = page.body["nextAfter"]
    return 0


def _print_events(session: OperatorSession, entries: Sequence[Raw]) -> None:
    for entry in entries:
        if session.output.json:
            session.output.raw(entry)
        else:
            session.output.text(event_line(decode(entry)))
