"""Cancel, retry, delete and discard tasks: by ids, or by a filter whose matches are counted and confirmed first."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ..runtime.failures import EXIT_FAILED
from . import filters
from .commands import NounCommands, OperatorSession
from .confirmation import confirm_count
from .failures import EXIT_NOT_FOUND, ServiceRefused, WrongUsage
from .progress import progress_bar
from .text import number

IDS_AT_ONCE = 1_000
NO_TASK = "there is no such task"
"""The service's reason for an id that it does not know."""


class BulkAction(NamedTuple):
    """A command for many tasks."""

    name: str
    """As the API has it: the last part of the path."""
    verb: str
    done: str
    """What became of the tasks: `retried`."""
    text: str
    where: str = "/api/tasks/"
    of: filters.Of = "tasks"
    statuses: tuple[str, ...] = ()
    """What it is for unless a status is given."""


RETRY = BulkAction(
    "retry", "Retry", "retried", "queue failed tasks again, each with all attempts", statuses=("FAILED",)
)
CANCEL = BulkAction(
    "cancel", "Cancel", "cancelled", "end tasks that have not ended", statuses=("WAITING", "PROCESSING")
)
DELETE = BulkAction("delete", "Delete", "deleted", "remove tasks from all lists; cancel those that have not ended")
RETRY_DEAD = BulkAction(
    "retry", "Retry", "retried", "queue dead letters again", where="/api/dead-letters/", of="dead letters"
)
DISCARD = BulkAction(
    "discard",
    "Discard",
    "discarded",
    "remove dead letters from all lists",
    where="/api/dead-letters/",
    of="dead letters",
)


class BulkCounts:
    """What came of a command, over all pages."""

    def __init__(self) -> None:
        self.matched = self.done = self.unchanged = 0
        self.refused: Counter[str] = Counter()

    def add(self, answer: dict[str, Any]) -> None:
        self.matched += answer["matched"]
        self.done += answer["done"]
        self.unchanged += answer["unchanged"]
        for each in answer["refused"]:
            self.refused[each["reason"]] += each["count"]

    def as_json(self, *, dry_run: bool) -> bytes:
        """Return the same object as the API for one page, without ids."""
        refused = [{"reason": reason, "count": count} for reason, count in self.refused.most_common()]
        return msgspec.json.encode(
            {
                "dryRun": dry_run,
                "matched": self.matched,
                "done": self.done,
                "unchanged": self.unchanged,
                "refused": refused,
            }
        )


def define_bulk(commands: NounCommands, action: BulkAction) -> argparse.ArgumentParser:
    """Add a command to a noun."""

    async def run(session: OperatorSession) -> int:
        return await command_tasks(session, action)

    parser = commands.add(action.name, run, action.text)
    parser.add_argument("ids", nargs="*", metavar="ID", help="tasks; or use filters")
    parser.add_argument("--reason", default="", help="recorded in the history of each task")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; print what would change")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--detach", action="store_true", help="leave the work to the service; print the id of the operation"
    )
    filters.filter_options(parser, action.of)
    return parser


async def command_tasks(session: OperatorSession, action: BulkAction) -> int:
    """Give the command; return 0 if no task refused it."""
    options = session.options
    given = filters.fields(options, action.of)
    if options.ids and (given or options.owner):
        raise WrongUsage("give ids or filters, not both")
    if not options.ids and not given:
        raise WrongUsage("give ids, or at least one filter such as --since 1h")
    try:
        if options.detach:
            return await _detach(session, action, given)
        counts = await (_by_ids(session, action) if options.ids else _by_filter(session, action, given))
    except ServiceRefused as refusal:
        raise filters.explained(refusal) from None
    _print(session, action, counts)
    if options.ids and counts.refused and set(counts.refused) == {NO_TASK} and not counts.done:
        return EXIT_NOT_FOUND
    return EXIT_FAILED if options.ids and counts.refused else 0


async def _detach(session: OperatorSession, action: BulkAction, given: dict[str, Any]) -> int:
    """Start an operation of the service after the same count and question; print its id."""
    options, output = session.options, session.output
    if options.dry_run:
        raise WrongUsage("--dry-run counts at once: leave out --detach")
    body: dict[str, Any] = {
        "action": action.name,
        "deadLetters": action.of == "dead letters",
        "reason": options.reason,
    }
    if options.ids:
        confirm_count(output, len(options.ids), action.verb, "", yes=options.yes, always=False)
        body["ids"] = list(dict.fromkeys(options.ids))
    else:
        wanted, whose, is_all = _selection(session, action, given)
        if not options.yes:
            found = await _pages(session, action, wanted, "Looking", dry_run=True)
            confirm_count(output, found.done, action.verb, whose, yes=False, always=is_all)
        body["filter"] = wanted
    answer = await session.client.send("POST", "/api/operations", body)
    if output.json:
        output.raw(answer.content)
    else:
        started = answer.body["id"]
        output.line(started)
        output.note(f"`taskstream operations wait {started}` shows its progress")
    return 0


async def _by_ids(session: OperatorSession, action: BulkAction) -> BulkCounts:
    options, ids = session.options, list(dict.fromkeys(session.options.ids))
    if not options.dry_run:
        confirm_count(session.output, len(ids), action.verb, "", yes=options.yes, always=False)
    counts = BulkCounts()
    with progress_bar(session.output, action.verb, len(ids)) as show:
        for at in range(0, len(ids), IDS_AT_ONCE):
            body = {"ids": ids[at : at + IDS_AT_ONCE], "dryRun": options.dry_run, "reason": options.reason}
            counts.add((await session.client.send("POST", action.where + action.name, body)).body)
            show(counts.matched)
    return counts


async def _by_filter(session: OperatorSession, action: BulkAction, given: dict[str, Any]) -> BulkCounts:
    """Count first, then ask, then do it to the same tasks: relative times are fixed before."""
    options = session.options
    wanted, whose, is_all = _selection(session, action, given)
    found = await _pages(session, action, wanted, "Looking", dry_run=True)
    if options.dry_run or not found.done:
        return found
    confirm_count(session.output, found.done, action.verb, whose, yes=options.yes, always=is_all)
    return await _pages(session, action, wanted, action.verb, dry_run=False, total=found.matched)


def _selection(session: OperatorSession, action: BulkAction, given: dict[str, Any]) -> tuple[dict[str, Any], str, bool]:
    """Return the filter with fixed times, whose tasks it selects in words, and whether it is all users'."""
    options = session.options
    owner = options.owner or ("*" if session.access.is_admin else None)
    wanted = filters.fixed(given, session.now)
    if action.statuses and not options.status:
        wanted["status"] = list(action.statuses)
    if owner is not None:
        wanted["owner"] = owner
    whose = " of all users" if owner == "*" else f" of {owner}" if owner else ""
    return wanted, whose, owner == "*"


async def _pages(
    session: OperatorSession,
    action: BulkAction,
    wanted: dict[str, Any],
    what: str,
    *,
    dry_run: bool,
    total: int | None = None,
) -> BulkCounts:
    counts, cursor = BulkCounts(), None
    with progress_bar(session.output, what, total) as show:
        while True:
            body = {"filter": wanted, "dryRun": dry_run, "reason": session.options.reason, "cursor": cursor}
            answer = (await session.client.send("POST", action.where + action.name, body)).body
            counts.add(answer)
            show(counts.matched)
            cursor = answer["nextCursor"]
            if not cursor:
                return counts


def _print(session: OperatorSession, action: BulkAction, counts: BulkCounts) -> None:
    options, output = session.options, session.output
    if output.json:
        output.raw(counts.as_json(dry_run=options.dry_run))
        return
    rows: Sequence[tuple[str, object]] = [
        (f"would be {action.done}" if options.dry_run else action.done, number(counts.done)),
        ("unchanged", number(counts.unchanged) if counts.unchanged else None),
    ]
    output.facts(rows)
    for reason, count in counts.refused.most_common():
        output.line(f"{number(count)} refused: {reason}")
    if options.dry_run:
        output.note("nothing was changed")
