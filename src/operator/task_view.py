"""One task for people: its facts, and why it waits, runs or ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from rich.text import Text

from .commands import OperatorSession
from .output import Column, TablePrinter
from .text import Styled, between, clock_time, pairs, plain, state, when, words

LONGEST_BODY = 4_000
"""Characters of a payload or result on a terminal."""


def print_task(session: OperatorSession, body: Mapping[str, Any]) -> None:
    """Print what `GET /api/task/{id}` answers."""
    task, output = body["taskDetails"], session.output

    def at(name: str) -> str | None:
        value = task.get(name)
        return None if value is None else f"{clock_time(value)} ({when(value, session.now)})"

    progress = None if task["progress"] is None else f"{task['progress']:g} %"
    output.facts(
        [
            ("id", task["id"]),
            ("status", state(task["status"])),
            ("owner", task["owner"]),
            ("type", task["type"]),
            ("priority", task["priority"]),
            ("server", task["serverId"]),
            ("attempt", f"{task['attempt']} of {task['attempts']}"),
            ("progress", progress),
            ("message", task["message"]),
            ("error", Styled(task["error"], "red") if task["error"] else None),
            ("failure", task["failureKind"]),
            ("submitted", at("createdAt")),
            ("started", at("startedAt")),
            ("ended", at("endedAt")),
            ("ran", between(task["startedAt"], task["endedAt"], session.now) if task["startedAt"] else None),
            ("next attempt", at("nextAttemptAt")),
            ("not before", at("runAt")),
            ("expires", at("expiresAt")),
            ("deadline", at("deadline")),
            ("key", task["concurrencyKey"]),
            ("batch", task["batchId"]),
            ("schedule", task["scheduleId"]),
            ("depends on", words(task.get("dependsOn")) if task.get("dependsOn") else None),
            ("requires", pairs(task.get("require")) if task.get("require") else None),
            ("prefers", pairs(task.get("prefer")) if task.get("prefer") else None),
            ("withheld", task.get("withheld") or body.get("withheld")),
        ]
    )
    for title, name in (("Payload", "request"), ("Result", "result")):
        if task.get(name) is not None:
            output.heading(title)
            print_json(session, task[name])


def print_json(session: OperatorSession, value: Any) -> None:
    """Print a value as indented JSON; on a terminal, the beginning of a long one."""
    text = plain(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), lines=True)
    console = session.output.console
    if console.is_terminal and len(text) > LONGEST_BODY:
        console.print(Text(text[:LONGEST_BODY] + "…"))
        session.output.note(f"{len(text):,} characters; `--json` prints all")
    else:
        console.print(Text(text), soft_wrap=True)


def print_why(session: OperatorSession, why: Mapping[str, Any]) -> None:
    """Print what `GET /api/task/{id}/why` answers."""
    output = session.output
    output.line(why["summary"], "bold")
    output.facts(
        [
            ("status", state(why["status"])),
            ("since", f"{clock_time(why['since'])} ({when(why['since'], session.now)})"),
            ("attempt", f"{why['attempt']} of {why['attempts']}"),
            ("last error", why["lastError"]),
        ]
    )
    if why["holds"]:
        output.heading("It waits for")
        for hold in why["holds"]:
            since = "" if hold["since"] is None else f", since {when(hold['since'], session.now)}"
            output.line(f"  {hold['text']} ({hold['kind']}{since})")
            output.line(f"    ends: {hold['release']}", "dim")
    if why["verdicts"]:
        output.heading("Servers")
        for verdict in why["verdicts"]:
            output.line(f"  {verdict['count']} {verdict['text']}")
    if why["servers"]:
        output.console.print()
        TablePrinter(
            output,
            [
                Column("SERVER", lambda row: row["serverId"]),
                Column("VERDICT", lambda row: row["verdict"]),
                Column("WHY", lambda row: row["text"], long=True),
            ],
        ).add(why["servers"])
    if why["ended"]:
        ended = why["ended"]
        output.facts(
            [
                ("ended by", f"{ended['by']['kind']} {ended['by']['id']}"),
                ("failure", ended["failureKind"]),
                ("cancellation", ended["cancelDetail"]),
                ("now", ended["release"]),
            ]
        )
