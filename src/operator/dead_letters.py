"""`taskstream dead-letters` and `taskstream errors`: what failed, and why."""

from __future__ import annotations

import argparse

from . import filters
from .bulk import DISCARD, RETRY_DEAD, define_bulk
from .commands import NounCommands, OperatorSession, list_options, runs
from .failures import ServiceRefused
from .output import Column
from .text import Styled, number, when, words


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands of dead letters."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_dead_letters, "list tasks that failed for good, the oldest first", lists=True)
    filters.filter_options(listing, "dead letters")
    for action in (RETRY_DEAD, DISCARD):
        define_bulk(commands, action)


def define_errors(parser: argparse.ArgumentParser) -> None:
    """Add the options of `errors`."""
    runs(parser, list_errors)
    list_options(parser)
    parser.add_argument("--since", metavar="TIME", help="default: the last day")
    parser.add_argument("--before", metavar="TIME")
    for name in ("type", "server", "kind", "owner"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only of this {name}")


async def list_dead_letters(session: OperatorSession) -> int:
    """Print dead letters."""
    columns = [
        Column("ID", lambda task: task["id"]),
        Column("KIND", lambda task: task["failureKind"]),
        Column("TYPE", lambda task: task["type"], long=True),
        Column("SERVER", lambda task: task["serverId"], long=True, optional=True),
        Column("TRIES", lambda task: f"{task['attempt']}/{task['attempts']}", right=True, optional=True),
        Column("FAILED", lambda task: when(task["endedAt"], session.now, exact=session.options.exact)),
        Column("ERROR", lambda task: Styled(task["error"] or "", "red"), long=True),
    ]
    try:
        return await session.table(
            "/api/dead-letters",
            "deadLetters",
            columns,
            filters.query(session.options, "dead letters"),
            "no dead letters",
        )
    except ServiceRefused as refusal:
        raise filters.explained(refusal) from None


async def list_errors(session: OperatorSession) -> int:
    """Print errors in groups, the most frequent first."""
    options = session.options
    columns = [
        Column("COUNT", lambda group: number(group["count"]), right=True),
        Column("FINAL", lambda group: number(group["final"]), right=True),
        Column("KIND", lambda group: group["kind"]),
        Column("LAST", lambda group: when(group["last"], session.now, exact=options.exact)),
        Column("FINGERPRINT", lambda group: group["fingerprint"]),
        Column("SERVERS", lambda group: words(group["servers"]), long=True, optional=True),
        Column("ERROR", lambda group: Styled(group["shape"], "red"), long=True),
    ]
    names = ("since", "before", "type", "server", "kind", "owner")
    query = [(name, value) for name in names if (value := getattr(options, name))]
    return await session.table("/api/errors", "errors", columns, query, "no errors")
