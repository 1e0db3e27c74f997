"""`taskstream tasks submit`: a payload and options, or a whole submission from a file."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..events.task import PRIORITIES
from ..runtime.failures import EXIT_FAILED
from .client import path
from .commands import NounCommands, OperatorSession, name_and_value, whole_number
from .failures import WrongUsage
from .following import follow_task
from .inputs import parse_json, read_json_file
from .task_view import print_task

LONGEST_WAIT = 30
"""Seconds that one request waits."""
TEXTS = {
    "type": ("type", "NAME", "task type; default: default"),
    "run-at": ("runAt", "TIME", "earliest start, ISO 8601"),
    "expires-at": ("expiresAt", "TIME", "latest start; a task that still waits then fails"),
    "deadline": ("deadline", "TIME", "latest end"),
    "key": ("concurrencyKey", "KEY", "tasks with the same key share a limit"),
}
NUMBERS = {
    "timeout": ("timeout", "SECONDS", "of one attempt"),
    "delay": ("delay", "SECONDS", "until the earliest start"),
}


def define(commands: NounCommands) -> None:
    """Add the command."""
    parser = commands.add("submit", submit, "submit a task and print its id")
    parser.add_argument("payload", nargs="?", metavar="PAYLOAD", help="JSON; `-` or nothing: stdin")
    parser.add_argument("--file", metavar="FILE", help="the payload in a file")
    parser.add_argument("--body", metavar="FILE", help="a whole submission as in docs/tasks.md, without other options")
    for name, (_, metavar, text) in TEXTS.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    for name, (_, metavar, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", metavar=metavar, type=float, help=text)
    parser.add_argument("--priority", choices=PRIORITIES, help="default: that of the type")
    parser.add_argument("--attempts", type=whole_number, metavar="N", help="attempts in all")
    parser.add_argument("--depends-on", action="append", metavar="ID", help="a task that must end first; repeatable")
    parser.add_argument(
        "--require", action="append", type=name_and_value, metavar="NAME=VALUE", help="label its server must have"
    )
    parser.add_argument(
        "--prefer", action="append", type=name_and_value, metavar="NAME=VALUE", help="label of a preferred server"
    )
    parser.add_argument("--idempotency-key", metavar="KEY", help="the same key again is the same task")
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--wait", action="store_true", help="wait for the end and print the task; status 1 if it failed")
    then.add_argument("--follow", action="store_true", help="print its events until its end; status 1 if it failed")


async def submit(session: OperatorSession) -> int:
    """Submit a task."""
    options, output = session.options, session.output
    named = {} if options.idempotency_key is None else {"Idempotency_Key": options.idempotency_key}
    answer = await session.client.send("POST", "/api/task", _body(options), **named)
    task_id: str = answer.body["taskId"]
    if options.wait:
        return await _wait(session, task_id)
    if output.json and not options.follow:
        output.raw(answer.content)
    elif not output.json:
        output.line(task_id)
    if options.follow:
        return await follow_task(session, task_id)
    return 0


async def _wait(session: OperatorSession, task_id: str) -> int:
    while True:
        answer = await session.client.get(path("task", task_id), [("wait", str(LONGEST_WAIT))])
        status = answer.body["taskDetails"]["status"]
        if status not in ("WAITING", "PROCESSING"):
            break
    if session.output.json:
        session.output.raw(answer.content)
    else:
        print_task(session, answer.body)
    return 0 if status == "FINISHED" else EXIT_FAILED


def _body(options: argparse.Namespace) -> Any:
    """Return the submission. Raises WrongUsage."""
    found = _options(options)
    if options.body is not None:
        if found or options.payload is not None or options.file is not None:
            raise WrongUsage("--body has the whole submission: leave out the payload and its options")
        return read_json_file(options.body)
    if options.payload is not None and options.file is not None:
        raise WrongUsage("give PAYLOAD or --file, not both")
    if options.file is not None:
        found["payload"] = read_json_file(options.file)
    elif options.payload in (None, "-"):
        if options.payload is None and sys.stdin.isatty():
            raise WrongUsage("""no payload: give it as JSON, such as '{"prompt": "a lighthouse"}', or --file FILE""")
        found["payload"] = read_json_file("-")
    else:
        found["payload"] = parse_json(options.payload, "PAYLOAD")
    return found


def _options(options: argparse.Namespace) -> dict[str, Any]:
    names = {name: field for name, (field, _, _) in (TEXTS | NUMBERS).items()}
    names |= {"priority": "priority", "attempts": "attempts", "depends-on": "dependsOn"}
    found = {field: getattr(options, name.replace("-", "_")) for name, field in names.items()}
    for name in ("require", "prefer"):
        found[name] = dict(getattr(options, name)) if getattr(options, name) else None
    return {field: value for field, value in found.items() if value is not None}
