"""`taskstream limits`: limits and quotas of owners."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from .client import path
from .commands import NounCommands, OperatorSession
from .failures import WrongUsage
from .nouns import Body, change, show
from .output import Column
from .text import number, shown, size, words
from .types import limit

LIMITS = {
    "concurrency": ("concurrency", int, "running tasks; 0: no limit"),
    "per-second": ("perSecond", float, "average starts per second; 0: no limit"),
    "burst": ("burst", int, "largest burst of starts"),
    "waiting": ("waiting", int, "waiting tasks; 0: no limit"),
    "stored": ("stored", int, "bytes of events and results; 0: no limit"),
}


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    commands.add("list", list_limits, "list the users with limits of their own", lists=True)
    commands.add("show", show_limits, "show the limits in force for a user, and what is used of quotas", "user")
    setting = commands.add("set", set_limits, "set limits of a user; others stay", "user")
    for name, (_, kind, text) in LIMITS.items():
        setting.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    commands.add("remove", remove_limits, "remove a user's own limits: those of the service apply", "user")


COLUMNS = (
    Column("USER", lambda owner: owner["owner"]),
    Column("STARTS", lambda owner: limit(owner) or "no limit"),
    Column("WAITING", lambda owner: number(owner["waiting"]), right=True),
    Column("STORED", lambda owner: size(owner["stored"]), right=True),
    Column("OWN", lambda owner: words(owner["own"] or {}), long=True),
)


async def list_limits(session: OperatorSession) -> int:
    """Print the owners that have limits of their own."""
    return await session.table("/api/owners", "owners", COLUMNS, empty="no user has limits of their own")


async def show_limits(session: OperatorSession) -> int:
    """Print one owner's limits, and then the quotas."""
    owner, output = session.options.user, session.output
    quotas = await session.client.get(path("owners", owner, "quotas"))
    if output.json:
        output.raw((await session.client.get(path("owners", owner, "limits"))).content)
        output.raw(quotas.content)
        return 0

    def facts(_: OperatorSession, found: Body) -> Iterable[tuple[str, object]]:
        own = found["own"] or {}
        yield "user", found["owner"]
        for name, (field, _kind, _text) in LIMITS.items():
            value = size(found[field]) if name == "stored" and found[field] is not None else shown(found[field])
            yield name, "no limit" if found[field] is None else f"{value}{' (own)' if field in own else ''}"

    await show(session, path("owners", owner, "limits"), facts)
    output.heading("Quotas")
    for quota in quotas.body["quotas"]:
        in_bytes = quota["unit"] == "bytes"
        used, most = (size(quota[name]) if in_bytes else number(quota[name]) for name in ("used", "limit"))
        output.facts([(quota["policy"], f"{used} of {most}" + ("" if in_bytes else f" {quota['unit']}"))])
    return 0


async def set_limits(session: OperatorSession) -> int:
    """Set limits; those that are not named stay."""
    options = session.options
    given = {
        field: value
        for name, (field, _, _) in LIMITS.items()
        if (value := getattr(options, name.replace("-", "_"))) is not None
    }
    if not given:
        raise WrongUsage(f"nothing to set: give {', '.join(f'--{name}' for name in LIMITS)}")
    where = path("owners", options.user, "limits")
    own = (await session.client.get(where)).body["own"] or {}
    body = {name: value for name, value in own.items() if value is not None} | given
    return await change(session, "PUT", where, body, f"set the limits of {options.user}")


async def remove_limits(session: OperatorSession) -> int:
    """Remove an owner's own limits."""
    user = session.options.user
    return await change(
        session, "DELETE", path("owners", user, "limits"), None, f"the limits of the service apply to {user}"
    )
