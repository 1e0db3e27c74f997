"""`taskstream servers`: the fleet."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Raw

from ..runtime.failures import EXIT_FAILED
from .client import decode, path
from .commands import EVENTS_PAGE, NounCommands, OperatorSession, events_number, name_and_value
from .event_lines import event_line
from .failures import CommandFailed, ServiceRefused, WrongUsage
from .inputs import json_object, parse_json, read_json_file
from .nouns import Body, change, show, sure, yes_option
from .output import Column
from .text import Styled, clock_time, number, pairs, plain, shown, state, when, words

DRAIN_POLL_SECONDS = 1.0
LONGEST_KEY_FILE = 64 * 1024
NOT_FOUND = 404


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_servers, "list servers with their states", lists=True)
    listing.add_argument("--removed", action="store_true", help="those that were removed")
    listing.add_argument("--since", metavar="TIME", help="with --removed: removed at or after, such as 12h")
    commands.add("show", show_server, "show a server: state, reason, settings", "server")
    history = commands.add("events", print_events, "print the history of a server", "server")
    history.add_argument("--limit", type=events_number, metavar="N", help="the newest, 1000 at most; default: all")
    _define_register(commands)
    draining = commands.add("drain", drain, "send no new tasks; running ones end", "server")
    draining.add_argument("--reason", default="", help="recorded")
    draining.add_argument("--wait", action="store_true", help="wait until nothing runs on it: it may be shut down then")
    pausing = commands.add("pause", pause, "begin maintenance: no new tasks; running ones end", "server")
    pausing.add_argument("--reason", default="", help="recorded")
    commands.add("resume", resume, "end a drain or maintenance", "server")
    restoring = commands.add("restore", restore, "restore a removed server with its settings", "server")
    restoring.add_argument("--api-key-file", metavar="FILE", help="its API key, if it had one; `-`: stdin")
    removing = commands.add("remove", remove, "remove a server; its API key is destroyed", "server")
    yes_option(removing)
    detecting = commands.add("detect", detect, "ask a server what it speaks", "server")
    detecting.description = "Ask a server what it speaks; with the dialect `auto`, what is found applies."
    trying = commands.add("try", try_server, "call a server once, outside the queue", "server")
    trying.add_argument("payload", nargs="?", default="{}", metavar="PAYLOAD", help="JSON; `-`: stdin; default: {}")
    trying.add_argument("--type", default="default", help="task type; default: default")
    trying.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: 30")


def _define_register(commands: NounCommands) -> None:
    parser = commands.add("register", register, "register a server, or replace its registration")
    parser.description = (
        "Register a server: with the JSON of docs/servers.md (--file), or with an id, an address and options."
    )
    parser.add_argument("server", nargs="?", metavar="SERVER", help="its id")
    parser.add_argument("address", nargs="?", metavar="ADDRESS", help="URL that takes tasks (endpoints.predict)")
    parser.add_argument("--file", metavar="FILE", help="the registration as JSON; `-`: stdin")
    parser.add_argument("--health", metavar="URL", help="URL that answers GET with 2xx while the server is well")
    parser.add_argument("--dialect", help="wire format; `auto`: it is found out; default: that of the task type")
    parser.add_argument("--preset", help="a program's settings: see docs/servers.md")
    parser.add_argument("--name", help="for people; default: its id")
    parser.add_argument("--provider", help="for people; default: local")
    parser.add_argument("--type", action="append", metavar="NAME", help="task type it serves; default: all; repeatable")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="tasks at a time; default: 10")
    parser.add_argument("--label", action="append", type=name_and_value, metavar="NAME=VALUE", help="repeatable")
    parser.add_argument("--weight", type=int, metavar="N", help="share of the tasks, if balancing is weighted")
    parser.add_argument("--model", help="its model there, for the dialect oip")
    parser.add_argument("--api-key-file", metavar="FILE", help="the key that is sent to it; `-`: stdin")
    parser.add_argument("--callback", action="store_true", help="it may answer 202 and report later")
    parser.add_argument("--pull", action="store_true", help="it fetches its tasks and has no address")
    parser.add_argument("--check", action="store_true", help="register nothing; say what would be refused or found")


def condition(server: Mapping[str, Any]) -> Styled:
    """Return the state of a server in a word or two."""
    if server.get("maintenance"):
        return Styled("maintenance" if server["status"] == "online" else "maintenance, offline", "yellow")
    if server["status"] == "online" and server["circuit"] != "closed":
        return Styled(f"circuit {server['circuit']}", "red" if server["circuit"] == "open" else "yellow")
    if server["status"] == "online" and server["busySince"]:
        return Styled("busy", "yellow")
    return state(server["status"])


def reason(server: Mapping[str, Any]) -> str:
    """Return why it has this state."""
    if server.get("maintenance"):
        return server["maintenanceReason"] or "maintenance"
    return (server["circuitReason"] if server["circuit"] != "closed" else "") or server["statusReason"]


def milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f} ms"


COLUMNS = (
    Column("SERVER", lambda server: server["id"]),
    Column("STATE", condition),
    Column("RUNNING", lambda server: f"{server['activeTasks']}/{server['currentLimit']}", right=True),
    Column("LATENCY", lambda server: milliseconds(server["latencyMs"]), right=True, optional=True),
    Column("TYPES", lambda server: words(server["types"]) if server["types"] else "all", long=True, optional=True),
    Column("REASON", reason, long=True),
)
SHORT_COLUMNS = (
    Column("SERVER", lambda server: server["id"]),
    Column("STATE", lambda server: state(server["status"])),
    Column("TYPES", lambda server: words(server["types"]) if server["types"] else "all", long=True),
)


async def list_servers(session: OperatorSession) -> int:
    """Print the servers, or those that were removed."""
    options = session.options
    if options.since and not options.removed:
        raise WrongUsage("--since is for --removed")
    if options.removed:
        columns = [
            Column("SERVER", lambda server: server["id"]),
            Column("REMOVED", lambda server: when(server["removed"]["since"], session.now, exact=options.exact)),
            Column("RETURNS", lambda server: "if it answers" if server["removed"]["returns"] else "no"),
            Column("REASON", lambda server: server["removed"]["reason"], long=True),
        ]
        query = [("removed", "true"), *([("since", options.since)] if options.since else [])]
        return await session.table("/api/servers", "servers", columns, query, empty="no server was removed")
    columns = [
        Column(column.title, _either(column, SHORT_COLUMNS), column.long, column.right, column.optional)
        for column in COLUMNS
    ]
    empty = "no servers: `taskstream servers register ID ADDRESS --dialect auto`"
    return await session.table("/api/servers", "servers", columns, empty=empty)


def _either(column: Column, short: Iterable[Column]) -> Any:
    """Return the cell of a server; of the short form, which tokens of services get, what it has."""
    known = {each.title: each.cell for each in short}

    def cell(server: Mapping[str, Any]) -> object:
        return column.cell(server) if "circuit" in server else known.get(column.title, lambda _: None)(server)

    return cell


def _facts(session: OperatorSession, server: Body) -> Iterable[tuple[str, object]]:
    def at(name: str) -> str | None:
        value = server.get(name)
        return None if value is None else f"{clock_time(value)} ({when(value, session.now)})"

    yield "id", server["id"]
    if "circuit" not in server:
        yield from ((name, shown(value)) for name, value in server.items() if name != "id")
        return
    yield "name", server["name"]
    yield "provider", server["provider"]
    yield "state", condition(server)
    yield "reason", reason(server)
    yield "since", at("statusSince")
    yield "maintenance since", at("maintenanceSince")
    yield "circuit", state(server["circuit"])
    yield "circuit opens again", at("circuitOpenUntil")
    yield "tasks only of", server["circuitOwner"]
    yield "busy since", at("busySince")
    yield "next try", at("nextTryAt")
    yield "running", f"{server['activeTasks']} of {server['currentLimit']} (at most {server['maxConcurrent']})"
    yield "latency", milliseconds(server["latencyMs"])
    yield "last sign of life", at("lastHeartbeat")
    yield "registered", at("registeredAt")
    yield "mode", server["mode"]
    yield "address", server["endpoints"].get("predict")
    yield "health address", server["endpoints"].get("health")
    detected = server["dialectDetected"]
    yield (
        "dialect",
        f"{server['dialect'] or 'that of the type'}"
        + (f", found to be {detected['dialect']}" if detected and detected.get("dialect") else ""),
    )
    yield "preset", server["preset"]
    yield "types", words(server["types"]) if server["types"] else "all"
    yield "models", words(server["servedModels"]) if server["servedModels"] is not None else None
    yield "labels", pairs(server["labels"]) if server["labels"] else None
    yield "weight", server["weight"]
    yield "API key", "stored" if server["hasApiKey"] else "none"


async def show_server(session: OperatorSession) -> int:
    """Print one server. Of one that was removed, say what may be done."""
    server = session.options.server
    try:
        return await show(session, path("servers", server), _facts)
    except ServiceRefused as refusal:
        if refusal.http_status != NOT_FOUND:
            raise
        with contextlib.suppress(ServiceRefused):
            newest = [("before", "end"), ("limit", "1")]
            events = (await session.client.get(path("servers", server, "events"), newest)).body["events"]
            if events and events[0]["event"]["type"] == "ServerRemoved":
                text = f"{server} was removed: see `servers events {server}`; `servers restore {server}` brings it back"
                raise CommandFailed(text, refusal.status) from None
        raise


async def print_events(session: OperatorSession) -> int:
    """Print a server's events, oldest first."""
    options = session.options
    where = path("servers", options.server, "events")
    if options.limit:
        size = str(options.limit)
        page = await session.client.get(where, [("before", "end"), ("limit", size)])
        _print_events(session, list(reversed(page.raw("events"))))
        return 0
    after: int | None = 0
    while after is not None:
        page = await session.client.get(where, [("after", str(after)), ("limit", str(EVENTS_PAGE))])
        _print_events(session, page.raw("events"))
        after = page.body["nextAfter"]
    return 0


def _print_events(session: OperatorSession, entries: Iterable[Raw]) -> None:
    for entry in entries:
        if session.output.json:
            session.output.raw(entry)
        else:
            session.output.text(event_line(decode(entry)))


async def register(session: OperatorSession) -> int:
    """Register a server, or check a registration."""
    body = registration(session.options)
    output = session.output
    if session.options.check:
        answer = await session.client.send("POST", "/api/servers/check", {"server": body})
        if output.json:
            output.raw(answer.content)
            return 0
        found = answer.body
        health, detected = found["health"], found["detected"]
        output.facts(
            [
                ("id", found["id"]),
                ("registered", "yes: it would be replaced" if found["registered"] else "no"),
                ("dialect", found["dialect"] or "that of the task type, or unknown"),
                ("detected", None if detected is None else detected["reason"]),
                ("health", None if health is None else Styled(health["reason"], "green" if health["well"] else "red")),
                ("checked", None if found["healthChecked"] else "never: it is online while it sends heartbeats"),
            ]
        )
        return 0 if health is None or health["well"] else EXIT_FAILED
    answer = await session.client.send("POST", "/api/servers", body)
    if output.json:
        output.raw(answer.content)
        return 0
    done = answer.body
    output.line(f"registered {done['id']}")
    if done["reset"]:
        output.note(f"set back to their defaults: {words(done['reset'])}")
    if detected := done.get("detected"):
        output.line(_detection(detected))
    output.note(f"`taskstream servers show {done['id']}` shows its first health check")
    return 0


def _detection(found: Mapping[str, Any]) -> str:
    """Say what a server was found to speak, or how to name it."""
    if found["dialect"]:
        return f"it speaks {found['dialect']}"
    return f"it gets no tasks: {found['reason']}, or, if it was written for Taskstream, register its /predict without"


def registration(options: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON of a registration. Raises WrongUsage."""
    found = {
        "dialect": options.dialect,
        "preset": options.preset,
        "types": options.type,
        "maxConcurrent": options.max_concurrent,
        "labels": dict(options.label) if options.label else None,
        "weight": options.weight,
        "model": options.model,
        "apiKey": read_key(options.api_key_file) if options.api_key_file else None,
        "mode": "pull" if options.pull else None,
        "callback": True if options.callback else None,
        "async": True if options.callback else None,
    }
    body = {name: value for name, value in found.items() if value is not None}
    if options.file is not None:
        if options.server is not None:
            raise WrongUsage("give --file, or SERVER and ADDRESS")
        named = {"name": options.name, "provider": options.provider}
        found = json_object(options.file) | body | {name: value for name, value in named.items() if value is not None}
        if options.health:
            found["endpoints"] = {**(found.get("endpoints") or {}), "health": options.health}
        return found
    if options.server is None or (options.address is None) != bool(options.pull):
        raise WrongUsage("give SERVER and ADDRESS (with --pull no ADDRESS), or --file FILE")
    body |= {"id": options.server, "name": options.name or options.server, "provider": options.provider or "local"}
    if options.address is not None:
        body["endpoints"] = {"predict": options.address} | ({"health": options.health} if options.health else {})
    elif options.health:
        raise WrongUsage("--health has no meaning with --pull")
    return body


def read_key(name: str) -> str:
    """Return a key from a file, or from stdin for `-`. Raises WrongUsage, and OSError with the file's name."""
    if name == "-":
        content = sys.stdin.buffer.read(LONGEST_KEY_FILE + 1)
    else:
        with Path(name).open("rb") as file:
            content = file.read(LONGEST_KEY_FILE + 1)
    key = content.decode(errors="replace").strip()
    if not key or len(content) > LONGEST_KEY_FILE:
        raise WrongUsage(f"{name}: must contain the key, and nothing else")
    return key


async def drain(session: OperatorSession) -> int:
    """Begin a drain; with --wait, return once nothing runs on the server."""
    options, output = session.options, session.output
    where = path("servers", options.server, "drain")
    running: int | None = None
    while True:
        answer = await session.client.send("POST", where, {"reason": options.reason})
        found = answer.body
        if found["drained"] or not options.wait:
            break
        if found["running"] != running:
            running = found["running"]
            output.note(f"{number(running)} tasks run on it")
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    if output.json:
        output.raw(answer.content)
    elif found["drained"]:
        output.line(f"drained {options.server}: it may be shut down; then `taskstream servers resume {options.server}`")
    else:
        output.line(f"draining {options.server}: {number(found['running'])} tasks run on it; --wait waits for them")
    return 0


async def pause(session: OperatorSession) -> int:
    """Begin maintenance."""
    options = session.options
    body = {"maintenance": True, "reason": options.reason}
    return await change(
        session, "POST", path("servers", options.server, "maintenance"), body, f"paused {options.server}"
    )


async def resume(session: OperatorSession) -> int:
    """End a drain or maintenance."""
    server = session.options.server
    return await change(session, "POST", path("servers", server, "resume"), {}, f"resumed {server}")


async def restore(session: OperatorSession) -> int:
    """Restore a removed server."""
    options = session.options
    body = {"apiKey": read_key(options.api_key_file)} if options.api_key_file else {}
    return await change(session, "POST", path("servers", options.server, "restore"), body, f"restored {options.server}")


async def remove(session: OperatorSession) -> int:
    """Remove a server."""
    server = session.options.server
    sure(session, f"Remove {server}?")
    return await change(session, "DELETE", path("servers", server), None, f"removed {server}")


async def detect(session: OperatorSession) -> int:
    """Find out what a server speaks."""

    def found(answer: Body) -> str:
        applied = "; it applies" if answer["applied"] else ""
        return f"{answer['dialect']}{applied}" if answer["dialect"] else f"unknown: {answer['reason']}"

    return await change(session, "POST", path("servers", session.options.server, "detect"), None, found)


async def try_server(session: OperatorSession) -> int:
    """Call a server; return 1 if a task would have failed."""
    options, output = session.options, session.output
    payload = read_json_file("-") if options.payload == "-" else parse_json(options.payload, "PAYLOAD")
    body = {"payload": payload, "type": options.type, "timeout": options.timeout}
    answer = await session.client.send("POST", path("servers", options.server, "try"), body)
    found = answer.body
    verdict = found["verdict"]
    is_good = verdict["outcome"] in ("completed", "accepted")
    if output.json:
        output.raw(answer.content)
        return 0 if is_good else EXIT_FAILED
    output.facts(
        [
            ("outcome", Styled(verdict["outcome"], "green" if is_good else "red")),
            ("reason", verdict["reason"]),
            ("took", f"{found['durationMs']:,} ms"),
            ("dialect", found["dialect"]),
            ("notes", words(verdict["notes"]) if verdict["notes"] else None),
        ]
    )
    for exchange in found["exchanges"]:
        output.heading(f"{exchange['method']} {exchange['url']}")
        _print_text(session, exchange["body"]["text"])
        if exchange["answer"]:
            output.line(f"answered {exchange['answer']['status']}", "bold")
            _print_text(session, exchange["answer"]["body"]["text"])
        if exchange["error"]:
            output.line(exchange["error"], "red")
    return 0 if is_good else EXIT_FAILED


def _print_text(session: OperatorSession, text: str | None) -> None:
    for line in plain(text or "", lines=True).splitlines()[:40]:
        session.output.line(f"  {line}")
