"""`taskstream pools`: queues, what waits in them, and their servers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from .client import path
from .commands import NounCommands, OperatorSession
from .nouns import Body, add_pausing, show
from .output import Column
from .text import Styled, clock_time, number, when, words


def define(parser: argparse.ArgumentParser) -> None:
    """Add the commands."""
    commands = NounCommands(parser)
    commands.add("list", list_pools, "list pools: what waits, what runs, who serves", lists=True)
    commands.add("show", show_pool, "show a pool: what waits for what, and its servers", "pool")
    commands.add("demand", show_demand, "show how many slots a pool needs, as autoscalers read it", "pool")
    add_pausing(commands, "pool", lambda options: path("pools", options.pool), "pool")


def waiting(pool: Mapping[str, Any]) -> int:
    return sum((pool["waiting"] or {}).values())


def pool_columns(session: OperatorSession) -> list[Column]:
    """Return the columns of a list of pools."""
    exact = session.options.exact

    def reasons(pool: Mapping[str, Any]) -> str | None:
        found = sorted((pool["waitingFor"] or {}).items(), key=lambda each: -each[1])
        return ", ".join(f"{name} {number(count)}" for name, count in found if count) or None

    return [
        Column("POOL", lambda pool: pool["name"]),
        Column("STATE", lambda pool: Styled("paused", "yellow") if pool["pause"] else Styled("open", "green")),
        Column("WAITING", lambda pool: number(waiting(pool)), right=True),
        Column("RUNNING", lambda pool: number(pool["running"]), right=True),
        Column("FREE", lambda pool: number(free(pool)), right=True),
        Column("SERVERS", lambda pool: number(pool["serverCount"]), right=True),
        Column("OLDEST", lambda pool: oldest(session, pool, exact=exact), optional=True),
        Column("WAITING FOR", reasons, long=True),
    ]


def free(pool: Mapping[str, Any]) -> int:
    """Return the slots that are free, of the servers that take tasks."""
    return sum(max(server["room"], 0) for server in pool["servers"] if server["available"])


def oldest(session: OperatorSession, pool: Mapping[str, Any], *, exact: bool) -> str | None:
    at = pool["oldestWaiting"]
    return None if at is None else when(at, session.now, exact=exact)


async def list_pools(session: OperatorSession) -> int:
    """Print the pools."""
    return await session.table("/api/pools", "pools", pool_columns(session))


def _facts(session: OperatorSession, pool: Body) -> Iterable[tuple[str, object]]:
    yield "pool", pool["name"]
    pause = pool["pause"]
    yield "paused", f"by {pause['by']}, {when(pause['since'], session.now)}: {pause['reason']}" if pause else None
    yield "types", words(pool["types"])
    yield "paused types", words(pool["pausedTypes"]) if pool["pausedTypes"] else None
    yield "waiting", ", ".join(f"{name} {number(count)}" for name, count in (pool["waiting"] or {}).items())
    yield "running", number(pool["running"])
    yield "starts per minute", number(pool["startsPerMinute"], 1)
    for name, count in (pool["waitingFor"] or {}).items():
        yield f"  for {name}", number(count)
    yield "oldest", oldest(session, pool, exact=session.options.exact)
    yield "counted", clock_time(pool["countedAt"]) if pool["countedAt"] else None
    for server in pool["servers"]:
        takes = "takes tasks" if server["available"] else "takes none"
        overflow = ", overflow" if server["overflow"] else ""
        room = server["room"]
        yield f"server {server['id']}", f"{takes}: {number(server['running'])} running, {number(room)} free{overflow}"


async def show_pool(session: OperatorSession) -> int:
    """Print one pool."""
    return await show(session, path("pools", session.options.pool), _facts)


async def show_demand(session: OperatorSession) -> int:
    """Print the demand of a pool."""

    def facts(_: OperatorSession, found: Body) -> Iterable[tuple[str, object]]:
        return [(name, number(value)) for name, value in found.items() if not isinstance(value, dict | list)]

    return await show(session, path("pools", session.options.pool, "demand"), facts)
