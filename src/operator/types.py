"""`taskstream types`: task types and their settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from .client import path
from .commands import NounCommands, OperatorSession
from .failures import ServiceRefused, WrongUsage
from .inputs import json_object
from .nouns import Body, add_pausing, change, show, sure, yes_option
from .output import Column
from .text import Styled, duration, number, shown, when

NUMBERS = {
    "attempts": ("attempts", int, "attempts in all"),
    "timeout": ("timeout", float, "seconds of one attempt"),
    "backoff-base": ("backoffBase", float, "seconds: upper bound of the first backoff"),
    "backoff-cap": ("backoffCap", float, "seconds: longest backoff"),
    "concurrency": ("concurrency", int, "running tasks of the type"),
    "per-second": ("perSecond", float, "average starts per second"),
    "burst": ("burst", int, "largest burst of starts"),
    "key-concurrency": ("keyConcurrency", int, "running tasks with the same concurrency key"),
}
TEXTS = {
    "pool": "pool of its tasks",
    "priority": "high, normal or low",
    "description": "for people",
    "dialect": "wire format",
    "model": "its name in other services' APIs, such as acme/flux",
}


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    commands.add("list", list_types, "list task types", lists=True)
    commands.add("show", show_type, "show a type's settings", "type")
    setting = commands.add("set", set_type, "define a type, or change settings of one", "type")
    setting.add_argument("--file", metavar="FILE", help="all settings as JSON, as in docs/tasks.md; `-`: stdin")
    for name, (_, kind, text) in NUMBERS.items():
        setting.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    for name, text in TEXTS.items():
        setting.add_argument(f"--{name}", help=text)
    setting.add_argument("--schema", metavar="FILE", help="JSON Schema of payloads")
    setting.add_argument("--unset", action="append", metavar="NAME", help="back to the default, such as per-second")
    deleting = commands.add("delete", delete_type, "delete a type's settings", "type")
    yes_option(deleting)
    add_pausing(commands, "type", lambda options: path("types", options.type), "type")


def limit(kind: Mapping[str, Any]) -> str | None:
    """Return the limits of a type or owner."""
    running = None if kind["concurrency"] is None else f"{number(kind['concurrency'])} at a time"
    rate = None if kind["perSecond"] is None else f"{kind['perSecond']:g}/s"
    return ", ".join(filter(None, (running, rate))) or None


COLUMNS = (
    Column("TYPE", lambda kind: kind["name"]),
    Column("STATE", lambda kind: Styled("paused", "yellow") if kind["pause"] else Styled("open", "green")),
    Column("POOL", lambda kind: kind["pool"], long=True),
    Column("ATTEMPTS", lambda kind: number(kind["attempts"]), right=True),
    Column("TIMEOUT", lambda kind: duration(kind["timeout"]), right=True),
    Column("LIMIT", limit, optional=True),
    Column("SCHEMA", lambda kind: "yes" if kind["schema"] is not None else "no", optional=True),
    Column("DESCRIPTION", lambda kind: kind["description"], long=True, optional=True),
)


async def list_types(session: OperatorSession) -> int:
    """Print the types."""
    return await session.table("/api/types", "types", COLUMNS)


def _facts(session: OperatorSession, kind: Body) -> Iterable[tuple[str, object]]:
    pause = kind["pause"]
    yield "type", kind["name"]
    yield "paused", f"by {pause['by']}, {when(pause['since'], session.now)}: {pause['reason']}" if pause else None
    for name, value in kind.items():
        if name not in ("name", "pause", "own") and value not in (None, "", []):
            yield name, shown(value)


async def show_type(session: OperatorSession) -> int:
    """Print one type."""
    return await show(session, path("types", session.options.type), _facts)


async def set_type(session: OperatorSession) -> int:
    """Replace a type's settings by a file's, or change those that options name."""
    options = session.options
    given = {field: value for name, (field, _, _) in NUMBERS.items() if (value := _option(options, name)) is not None}
    given |= {name: value for name in TEXTS if (value := _option(options, name)) is not None}
    if options.schema:
        given["schema"] = json_object(options.schema)
    where = path("types", options.type)
    if options.file:
        if given or options.unset:
            raise WrongUsage("--file has all settings: leave out the other options")
        body = json_object(options.file)
    else:
        if not given and not options.unset:
            raise WrongUsage("nothing to set: give options, or --file FILE")
        body = await _present(session, where) | given
        for name in options.unset or ():
            field = NUMBERS[name][0] if name in NUMBERS else name
            if field not in (*TEXTS, "schema", *(each[0] for each in NUMBERS.values())):
                raise WrongUsage(f"--unset {name}: is not one of {', '.join([*NUMBERS, *TEXTS, 'schema'])}")
            body.pop(field, None)
    return await change(session, "PUT", where, body, f"set {options.type}")


async def _present(session: OperatorSession, where: str) -> dict[str, Any]:
    """Return the settings that a type has of its own; empty for a new one."""
    try:
        found = (await session.client.get(where)).body
    except ServiceRefused as refusal:
        if refusal.http_status == 404:
            return {}
        raise
    own: dict[str, Any] = {name: value for name, value in (found.get("own") or {}).items() if value is not None}
    if found.get("schemaFrom"):
        own["schemaFrom"] = found["schemaFrom"]
    elif found.get("schema") is not None:
        own["schema"] = found["schema"]
    return own


def _option(options: argparse.Namespace, name: str) -> Any:
    return getattr(options, name.replace("-", "_"))


async def delete_type(session: OperatorSession) -> int:
    """Delete a type's settings."""
    name = session.options.type
    sure(session, f"Delete the settings of {name}?")
    return await change(session, "DELETE", path("types", name), None, f"deleted {name}")
