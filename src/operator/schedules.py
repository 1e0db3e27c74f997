"""`taskstream schedules`: tasks that are submitted again and again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from .client import path
from .commands import NounCommands, OperatorSession
from .failures import WrongUsage
from .inputs import json_object, parse_json, read_json_file
from .nouns import Body, add_pausing, change, show, sure, yes_option
from .output import Column
from .text import Styled, clock_time, number, shown, when


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_schedules, "list schedules with their next runs", lists=True)
    listing.add_argument("--owner", metavar="USER", help="of this user; default: all that you may see")
    commands.add("show", show_schedule, "show a schedule with its next five runs", "schedule")
    creating = commands.add("create", create_schedule, "create a schedule and print its id")
    creating.add_argument("cron", nargs="?", metavar="CRON", help="such as '0 7 * * 1-5' or @daily")
    creating.add_argument("payload", nargs="?", metavar="PAYLOAD", help="JSON; `-`: stdin")
    creating.add_argument("--file", metavar="FILE", help="the whole schedule as JSON, as in docs/schedules.md")
    creating.add_argument("--time-zone", metavar="NAME", help="such as Europe/Berlin; default: UTC")
    creating.add_argument("--type", metavar="NAME", help="task type; default: default")
    creating.add_argument("--name", help="for people")
    creating.add_argument("--missed", choices=("skip", "catch_up"), help="what to do about missed runs; default: skip")
    add_pausing(commands, "schedule", lambda options: path("schedules", options.schedule), "schedule")
    commands.add("run", run_schedule, "submit its task now and print the task's id", "schedule")
    deleting = commands.add("delete", delete_schedule, "delete a schedule", "schedule")
    yes_option(deleting)


def condition(schedule: Mapping[str, Any]) -> Styled:
    if schedule["paused"]:
        return Styled("paused", "yellow")
    return Styled("failing", "red") if schedule["lastFailure"] else Styled("active", "green")


async def list_schedules(session: OperatorSession) -> int:
    """Print schedules."""
    options = session.options
    columns = [
        Column("ID", lambda schedule: schedule["id"]),
        Column("STATE", condition),
        Column("CRON", lambda schedule: schedule["cron"]),
        Column("NEXT", lambda schedule: when(schedule["nextAt"], session.now, exact=options.exact)),
        Column("ZONE", lambda schedule: schedule["timeZone"], long=True, optional=True),
        Column("RUNS", lambda schedule: number(schedule["counts"]["fired"]), right=True, optional=True),
        Column("NAME", lambda schedule: schedule["name"], long=True),
    ]
    query = [("owner", options.owner)] if options.owner else []
    empty = "no schedules: `taskstream schedules create '@daily' '{\"report\": 1}'`"
    return await session.table("/api/schedules", "schedules", columns, query, empty)


def _facts(session: OperatorSession, schedule: Body) -> Iterable[tuple[str, object]]:
    failure = schedule["lastFailure"]
    yield "id", schedule["id"]
    yield "name", schedule["name"]
    yield "description", schedule["description"]
    yield "state", condition(schedule)
    yield "why paused", schedule["pauseReason"] if schedule["paused"] else None
    yield "held", schedule.get("heldReason")
    yield "cron", f"{schedule['cron']} ({schedule['timeZone']})"
    yield (
        "missed runs",
        schedule["missed"] + (f", the latest {schedule['catchUp']}" if schedule["missed"] == "catch_up" else ""),
    )
    for at, run in enumerate(schedule.get("nextRuns") or ()):
        yield "next runs" if at == 0 else "", f"{clock_time(run)} ({when(run, session.now)})"
    yield "last run", shown(schedule["lastFired"]) if schedule["lastFired"] else None
    yield "last failure", Styled(shown(failure), "red") if failure else None
    yield "counts", ", ".join(f"{name} {number(count)}" for name, count in schedule["counts"].items())
    yield "task", shown(schedule.get("task"))


async def show_schedule(session: OperatorSession) -> int:
    """Print one schedule."""
    return await show(session, path("schedules", session.options.schedule), _facts)


async def create_schedule(session: OperatorSession) -> int:
    """Create a schedule."""
    options = session.options
    named = {"timeZone": options.time_zone, "name": options.name, "missed": options.missed}
    body = {name: value for name, value in named.items() if value is not None}
    if options.file:
        if options.cron is not None:
            raise WrongUsage("give --file, or CRON and PAYLOAD")
        body = json_object(options.file) | body
    else:
        if options.cron is None or options.payload is None:
            raise WrongUsage("give CRON and PAYLOAD, or --file FILE")
        payload = read_json_file("-") if options.payload == "-" else parse_json(options.payload, "PAYLOAD")
        task = {"payload": payload} | ({"type": options.type} if options.type else {})
        body |= {"cron": options.cron, "task": task}
    return await change(session, "POST", "/api/schedules", body, lambda answer: str(answer["id"]))


async def run_schedule(session: OperatorSession) -> int:
    """Submit the task of a schedule now."""
    where = path("schedules", session.options.schedule, "run")
    return await change(session, "POST", where, {}, lambda answer: str(answer["taskId"]))


async def delete_schedule(session: OperatorSession) -> int:
    """Delete a schedule."""
    schedule = session.options.schedule
    sure(session, f"Delete the schedule {schedule}?")
    return await change(session, "DELETE", path("schedules", schedule), None, f"deleted {schedule}")
