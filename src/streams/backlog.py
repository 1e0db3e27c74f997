"""What waits in the queue of ready tasks: how much on each consumer, and since when; and what was handed out."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from .client.connection import Connection, status_of
from .jetstream.api import api
from .topology.definitions import DISPATCH


class Backlog(NamedTuple):
    """What waits on one consumer, apart from what was handed out and given back."""

    waiting: int
    delivered: int
    """Sequence in the stream up to which everything has been handed out."""
    in_hand: int
    """Handed out and not done with: tasks of calls that are under way, and what was given back."""


async def backlogs(connection: Connection) -> dict[str, Backlog]:
    """Return what waits on each consumer of the queue, by the subjects it is of. Raises StoreUnavailable."""
    found: dict[str, Backlog] = {}
    for info in await _consumers(connection):
        (subjects,) = info["config"]["filter_subjects"]
        found[subjects] = Backlog(info["num_pending"], info["delivered"]["stream_seq"], info.get("num_ack_pending", 0))
    return found


async def take_back(connection: Connection) -> int:
    """Have what was handed out and not done with handed out again at once, and return how much that is.

    Each consumer that has something in hand is deleted; whoever makes it again has it begin with all that is in the
    queue. Where somebody does work on some of it, that is found out as with any message that comes twice.
    Raises StoreUnavailable; repeating is safe.
    """
    count = 0
    for info in await _consumers(connection):
        if info.get("num_ack_pending"):
            await api(connection, f"CONSUMER.DELETE.{DISPATCH}.{info['name']}")
            count += int(info["num_ack_pending"])
    return count


async def _consumers(connection: Connection) -> list[dict[str, Any]]:
    """Return what JetStream says of each consumer of the queue."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await api(connection, f"CONSUMER.LIST.{DISPATCH}", {"offset": len(found)})
        consumers: list[dict[str, Any]] = answer.get("consumers") or []
        found.extend(consumers)
        if not consumers or len(found) >= answer["total"]:
            return found


async def waiting_since(connection: Connection, filter_subject: str, backlog: Backlog) -> datetime | None:
    """Return when the oldest message that was not handed out came into the queue; None if there is none.

    UTC, by NATS' clock. Raises StoreUnavailable.
    """
    if not backlog.waiting:
        return None
    request = msgspec.json.encode({"next_by_subj": filter_subject, "seq": backlog.delivered + 1})
    answer = await connection.request(f"$JS.API.DIRECT.GET.{DISPATCH}", request)
    headers = answer.headers or {}
    if status_of(answer) is not None or "Nats-Time-Stamp" not in headers:
        return None  # it was taken meanwhile
    return datetime.fromisoformat(_microseconds(headers["Nats-Time-Stamp"]))


class InQueue(NamedTuple):
    """Where one message is in the queue."""

    ahead: int
    """Messages of the same consumer that were not handed out and come before it."""
    handed_out: bool
    """It was handed out: it is about to be worked on, or it was given back and comes again."""


async def find_in_queue(connection: Connection, subject: str, filter_subject: str, backlog: Backlog) -> InQueue | None:
    """Return where the message on a subject is among those on a consumer's filter; None if it is not there.

    As of a moment ago. Raises StoreUnavailable.
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


def _microseconds(stamp: str) -> str:
    """Return an RFC 3339 time in UTC, with nanoseconds or fewer digits, as Python reads it."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction[:6]:0<6}+00:00"
