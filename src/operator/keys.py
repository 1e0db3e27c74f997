"""`taskstream keys`: API keys, which programs use in place of a JWT."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from ..instants import milliseconds, parse_duration
from .client import path
from .commands import NounCommands, OperatorSession
from .failures import WrongUsage
from .nouns import Body, change, show, sure, yes_option
from .output import Column
from .text import NONE, Styled, shown, when

COLOURS = {"active": "green", "expired": "yellow", "orphaned": "yellow", "revoked": "red"}


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    listing = commands.add("list", list_keys, "list API keys with their last use", lists=True)
    listing.add_argument("--owner", metavar="USER", help="of this user; default: all that you may see")
    commands.add("show", show_key, "show an API key with its rights", "key")
    creating = commands.add("create", create_key, "make an API key and print it, once")
    creating.add_argument("name", metavar="NAME", help="what it is for")
    creating.add_argument("--with-role", action="append", metavar="ROLE", help="default: user; may be repeated")
    creating.add_argument("--owner", metavar="USER", help="whom it acts for; default: you")
    creating.add_argument("--type", action="append", metavar="TYPE", help="it reaches only tasks of these types")
    creating.add_argument("--server", action="append", metavar="SERVER", help="of the role service: acts for these")
    creating.add_argument("--expires", metavar="TIME", help="in 12h, 90d, …, or an instant in ISO 8601; default: never")
    creating.add_argument("--rate", type=float, metavar="N", help="requests per second; default: any number")
    creating.add_argument("--no-payloads", action="store_true", help="it reads no payloads of other users")
    revoking = commands.add("revoke", revoke_key, "have an API key work nowhere any more", "key")
    revoking.add_argument("--reason", default="", help="recorded in the log")
    yes_option(revoking)


def _status(key: Mapping[str, Any]) -> Styled:
    return Styled(key["status"], COLOURS.get(key["status"], ""))


def _when(session: OperatorSession, at: int | None) -> str:
    return NONE if at is None else when(at, session.now, exact=session.options.exact)


async def list_keys(session: OperatorSession) -> int:
    """Print API keys."""
    options = session.options
    columns = [
        Column("ID", lambda key: key["id"]),
        Column("STATUS", _status),
        Column("NAME", lambda key: key["name"], long=True),
        Column("ROLES", lambda key: ",".join(key["roles"])),
        Column("LAST USED", lambda key: _when(session, key["lastUsedAt"])),
        Column("EXPIRES", lambda key: _when(session, key["expiresAt"]), optional=True),
        Column("TYPES", lambda key: ",".join(key["types"]) or NONE, long=True, optional=True),
        Column("OWNER", lambda key: key["owner"], long=True, optional=True),
    ]
    query = [("owner", options.owner)] if options.owner else []
    return await session.table("/api/keys", "keys", columns, query, "no keys: `taskstream keys create 'my program'`")


def _facts(session: OperatorSession, key: Body) -> Iterable[tuple[str, object]]:
    yield "id", key["id"]
    yield "name", key["name"]
    yield "owner", key["owner"]
    yield "status", _status(key)
    yield "roles", ", ".join(key["roles"])
    yield "types", ", ".join(key["types"]) or "all"
    yield "servers", None if key["servers"] is None else ", ".join(key["servers"]) or "none"
    yield "rate", None if key["rate"] is None else f"{key['rate']:g} requests per second"
    yield "payloads", shown(key["payloads"])
    yield "created", f"{_when(session, key['createdAt'])} by {_who(key['createdBy'])}"
    yield "expires", _when(session, key["expiresAt"])
    yield "last used", _when(session, key["lastUsedAt"])
    if key["revokedAt"] is not None:
        yield "revoked", f"{_when(session, key['revokedAt'])} by {_who(key['revokedBy'])}"
        yield "reason", key["reason"]


def _who(by: Mapping[str, str]) -> str:
    return f"{by['id']}, with the key {by['key']}" if by.get("key") else by["id"]


async def show_key(session: OperatorSession) -> int:
    """Print one API key."""
    return await show(session, path("keys", session.options.key), _facts)


async def create_key(session: OperatorSession) -> int:
    """Make an API key and print it."""
    options = session.options
    named = {
        "owner": options.owner,
        "types": options.type,
        "servers": options.server,
        "expiresAt": _expiry(session, options.expires),
        "rate": options.rate,
        "payloads": False if options.no_payloads else None,
    }
    body = {"name": options.name, "roles": options.with_role or ["user"]}
    body |= {name: value for name, value in named.items() if value is not None}
    return await change(session, "POST", "/api/keys", body, lambda answer: str(answer["key"]))


def _expiry(session: OperatorSession, given: str | None) -> int | str | None:
    if given is None or given.isdigit():
        return None if given is None else int(given)
    try:
        lasts = parse_duration(given)
    except ValueError:
        return given  # an instant, which the API reads
    try:
        ends = session.now + lasts
    except OverflowError:
        raise WrongUsage(f"--expires {given}: is after the year 9999") from None
    if lasts <= timedelta(0):
        raise WrongUsage(f"--expires {given}: must be in the future")
    return milliseconds(ends)


async def revoke_key(session: OperatorSession) -> int:
    """Revoke an API key."""
    key = session.options.key
    sure(session, f"Revoke the API key {key}, and the keys that it made?")
    body = {"reason": session.options.reason}
    return await change(session, "DELETE", path("keys", key), body, f"revoked {key}")
