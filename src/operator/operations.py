"""`taskstream operations`: commands for many tasks that the service carries out."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from ..runtime.failures import EXIT_FAILED
from .client import path
from .commands import NounCommands, OperatorSession
from .nouns import Body, change, show
from .output import Column
from .progress import progress_bar
from .text import Styled, number, shown, when

ENDED = frozenset({"done", "stopped", "failed"})
POLL_SECONDS = 1.0
COLOURS = {"done": "green", "failed": "red", "running": "cyan", "paused": "yellow", "pausing": "yellow"}


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_operations, "list operations, the newest first", lists=True)
    listing.add_argument("--owner", metavar="USER", help="of this user; default: all that you may see")
    commands.add("show", show_operation, "show an operation with its counts", "operation")
    commands.add(
        "wait", wait_operation, "wait for the end, with a progress bar; status 1 unless it is done", "operation"
    )
    for name, text, done in (
        ("pause", "change no more tasks until it is resumed", "paused"),
        ("resume", "go on", "resumed"),
        ("stop", "end it; what it has changed stays", "stopped"),
    ):
        commands.add(name, _steering(name, done), text, "operation")


def _steering(name: str, done: str) -> Any:
    async def steer(session: OperatorSession) -> int:
        operation = session.options.operation
        return await change(session, "POST", path("operations", operation, name), {}, f"{done} {operation}")

    return steer


def _state(operation: Mapping[str, Any]) -> Styled:
    return Styled(operation["state"], COLOURS.get(operation["state"], ""))


def _share(operation: Mapping[str, Any]) -> str | None:
    return None if operation["progress"] is None else f"{operation['progress'] * 100:.0f} %"


async def list_operations(session: OperatorSession) -> int:
    """Print operations."""
    options = session.options
    columns = [
        Column("ID", lambda operation: operation["id"]),
        Column("ACTION", lambda operation: operation["action"]),
        Column("STATE", _state),
        Column("DONE", _share, right=True),
        Column("CHANGED", lambda operation: number(operation["counts"]["done"]), right=True),
        Column("STARTED", lambda operation: when(operation["startedAt"], session.now, exact=options.exact)),
        Column("BY", lambda operation: operation["by"], long=True, optional=True),
        Column("REASON", lambda operation: operation["reason"], long=True, optional=True),
    ]
    query = [("owner", options.owner)] if options.owner else []
    return await session.table("/api/operations", "operations", columns, query, "no operations")


def facts(session: OperatorSession, operation: Body) -> Iterable[tuple[str, object]]:
    """Return the facts of an operation."""
    counts = operation["counts"]
    yield "id", operation["id"]
    yield "action", operation["action"] + (", nothing is changed" if operation.get("dryRun") else "")
    yield "state", _state(operation)
    yield "why", operation.get("stateReason")
    yield "progress", _share(operation)
    yield "filter", shown(operation["filter"]) if operation["filter"] else f"{number(operation['ids'])} ids"
    yield "by", operation["by"]
    yield "reason", operation["reason"]
    yield "started", when(operation["startedAt"], session.now, exact=session.options.exact)
    yield (
        "ended",
        when(operation["endedAt"], session.now, exact=session.options.exact) if operation["endedAt"] else None,
    )
    for name in ("matched", "done", "unchanged"):
        yield name, number(counts[name])
    for refused in counts["refused"]:
        yield f"{number(refused['count'])} refused", refused["reason"]


async def show_operation(session: OperatorSession) -> int:
    """Print one operation."""
    return await show(session, path("operations", session.options.operation), facts)


async def wait_operation(session: OperatorSession) -> int:
    """Wait until an operation has ended."""
    where = path("operations", session.options.operation)
    with progress_bar(session.output, "Working", 100) as report:
        while True:
            answer = await session.client.get(where)
            found = answer.body
            report(int((found["progress"] or 0) * 100))
            if found["state"] in ENDED:
                break
            await asyncio.sleep(POLL_SECONDS)
    if session.output.json:
        session.output.raw(answer.content)
    else:
        session.output.facts(facts(session, found))
    return 0 if found["state"] == "done" else EXIT_FAILED
