"""The backlog of the queue of ready tasks: how many wait on each consumer, since when, and how many are in flight."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ..instants import parse_nats_time
from .client.connection import Connection, status_of
from .jetstream.api import api
from .jetstream.messages import first_position
from .topology.definitions import DISPATCH

REMOVAL_SECONDS = 0.5
"""Longer than NATS takes to remove a message after its ack."""
LOOKED_AT_AT_ONCE = 16


class Backlog(NamedTuple):
    """The backlog of one consumer."""

    waiting: int
    """Messages never delivered."""
    delivered: int
    """Sequence in the stream up to which everything has been delivered."""
    in_hand: int
    """Delivered and not acknowledged: tasks of running calls, and tasks that were returned."""
    delivered_at: datetime | None = None
    """When a message was delivered last, by NATS' clock; None: not since NATS started."""


async def backlogs(connection: Connection) -> dict[str, Backlog]:
    """Return the backlog of each consumer of the queue, by its filter. Raises StoreUnavailable."""
    found: dict[str, Backlog] = {}
    for info in await _consumers(connection):
        (subject,) = info["config"]["filter_subjects"]
        delivered = info["delivered"]
        at = parse_nats_time(delivered["last_active"]) if delivered.get("last_active") else None
        found[subject] = Backlog(info["num_pending"], delivered["stream_seq"], info.get("num_ack_pending", 0), at)
    return found


async def take_back(connection: Connection) -> int:
    """Redeliver all messages that are in flight, at once; return how many.

    Each consumer with messages in flight is deleted, and starts with the whole queue when a worker recreates it. A
    message whose task is running is then handled like any duplicate. Raises StoreUnavailable; repeating is safe.
    """
    count = 0
    for info in await _consumers(connection):
        if info.get("num_ack_pending"):
            await api(connection, f"CONSUMER.DELETE.{DISPATCH}.{info['name']}")
            count += int(info["num_ack_pending"])
    return count


async def delete_hiding(connection: Connection) -> list[str]:
    """Delete each consumer that hides a message, and return their names. A worker creates them again, and the new ones
    deliver the whole queue.

    A consumer hides a message at or before its ack floor: it takes it for an acked one, and never delivers it. DISPATCH
    is not synced, so after a kill -9 it may be older than its consumers. nats-server (2.15.1) sets such a consumer
    back, but not if the sources have refilled the queue by then (ADR 12). Raises StoreUnavailable; repeating is safe.
    """
    first = await _first_hidden(connection)
    if first:
        await asyncio.sleep(REMOVAL_SECONDS)  # or it was acked a moment ago, and is about to be removed
    still = await _first_hidden(connection) if first else {}
    hiding = sorted(name for name, sequence in first.items() if still.get(name) == sequence)
    for name in hiding:
        await api(connection, f"CONSUMER.DELETE.{DISPATCH}.{name}")
    return hiding


async def _first_hidden(connection: Connection) -> dict[str, int]:
    """Return the sequence of the first message that each consumer hides, by the consumer's name."""
    consumers = await _consumers(connection)  # read first: what is acked later is past these floors
    oldest = int((await api(connection, f"STREAM.INFO.{DISPATCH}"))["state"]["first_seq"])
    places = asyncio.Semaphore(LOOKED_AT_AT_ONCE)

    async def first_of(info: dict[str, Any]) -> tuple[str, int]:
        floor = info["ack_floor"]["stream_seq"]
        if floor < oldest:
            return info["name"], 0
        async with places:
            found = await first_position(connection, DISPATCH, info["config"]["filter_subjects"][0])
        return info["name"], found.sequence if found is not None and found.sequence <= floor else 0

    return {name: sequence for name, sequence in await asyncio.gather(*map(first_of, consumers)) if sequence}


async def _consumers(connection: Connection) -> list[dict[str, Any]]:
    """Return the CONSUMER.INFO of each consumer of the queue."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await api(connection, f"CONSUMER.LIST.{DISPATCH}", {"offset": len(found)})
        consumers: list[dict[str, Any]] = answer.get("consumers") or []
        found.extend(consumers)
        if not consumers or len(found) >= answer["total"]:
            return found


class FirstInQueue(NamedTuple):
    """The oldest undelivered message of a queue."""

    subject: str
    since: datetime
    """When it entered the queue. UTC, by NATS' clock."""


async def waiting_since(connection: Connection, filter_subject: str, backlog: Backlog) -> datetime | None:
    """Return when the oldest undelivered message entered the queue; None if there is none.

    UTC, by NATS' clock. Raises StoreUnavailable.
    """
    first = await first_in_queue(connection, filter_subject, backlog)
    return first.since if first else None


async def first_in_queue(connection: Connection, filter_subject: str, backlog: Backlog) -> FirstInQueue | None:
    """Return the oldest undelivered message; None if there is none. Raises StoreUnavailable."""
    if not backlog.waiting:
        return None
    request = msgspec.json.encode({"next_by_subj": filter_subject, "seq": backlog.delivered + 1})
    answer = await connection.request(f"$JS.API.DIRECT.GET.{DISPATCH}", request)
    headers = answer.headers or {}
    if status_of(answer) is not None or "Nats-Time-Stamp" not in headers:
        return None  # it has been delivered since
    return FirstInQueue(headers["Nats-Subject"], parse_nats_time(headers["Nats-Time-Stamp"]))


class InQueue(NamedTuple):
    """The place of one message in the queue."""

    ahead: int
    """Undelivered messages of the same consumer before it."""
    handed_out: bool
    """True if it was delivered: its task is about to start, or it was returned and will be redelivered."""


async def find_in_queue(connection: Connection, subject: str, filter_subject: str, backlog: Backlog) -> InQueue | None:
    """Return the place of the message on a subject among those on a consumer's filter; None if it is not there.

    It may be a moment old. Raises StoreUnavailable.
    """
    get = f"$JS.API.DIRECT.GET.{DISPATCH}"
    found = await connection.request(get, msgspec.json.encode({"last_by_subj": subject}))
    headers = found.headers or {}
    if status_of(found) is not None or "Nats-Sequence" not in headers:
        return None
    sequence = int(headers["Nats-Sequence"])
    if sequence <= backlog.delivered:
        return InQueue(0, handed_out=True)
    request = msgspec.json.encode({"next_by_subj": filter_subject, "seq": sequence, "batch": 1})
    answers = await connection.request_many(get, request)
    after = int((answers[0].headers or {}).get("Nats-Num-Pending", 0))
    return InQueue(max(0, backlog.waiting - after - 1), handed_out=False)
