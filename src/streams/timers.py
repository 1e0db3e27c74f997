"""Timers: messages with a date in the future, which JetStream stores and fires.

A timer is a hint; the log decides. The append that follows a fired timer is guarded by the present history, so a stale
or repeated timer changes nothing. Setting a timer again replaces it. A timer that is no longer needed is cancelled, so
that the streams of timers hold no more than what is to come.
"""

from __future__ import annotations

import contextlib
from datetime import datetime

import msgspec
from msgspec import Struct

from ..errors import StoreUnavailable
from ..events.ids import ScheduleRef, TaskRef, token
from ..events.subjects import TimerKind, due_subject, server_token, timer_subject
from .client.connection import Connection
from .jetstream.api import stored_sequence
from .topology.definitions import RETRIES, TIMERS

FIRED_TTL = "2m"
"""How long a fired retry stays in RETRIES: DISPATCH copies it and does not remove it. Longer than a source stalls
(docs/adr/0010); of a retry that was not copied by then, the reconciler queues the task again."""
_STREAMS: dict[TimerKind, str] = {"retry": RETRIES}
"""The streams of the kinds of timers, where it is not TIMERS."""


class AttemptDue(Struct, frozen=True, kw_only=True):
    """The body of an attempt's timer."""

    attempt: int
    at: datetime | None = None
    """The instant it was set to; None: a version before leases set it."""


class Timers:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def queue_task(self, ref: TaskRef, pool: str, priority: str, at: datetime) -> None:
        """Put a task into its queue at an instant. JetStream does it; no process of ours is needed then."""
        target = due_subject("retry", token(pool), priority, *ref)
        await self._set(timer_subject("retry", *ref), target, at, b"{}", {"Nats-Schedule-TTL": FIRED_TTL})

    async def watch_deadline(self, ref: TaskRef, attempt: int, at: datetime) -> None:
        """Set the timer of an accepted attempt: of its deadline, or of its puller's lease if that ends before."""
        body = msgspec.json.encode(AttemptDue(attempt=attempt, at=at))
        await self._set(timer_subject("deadline", *ref), due_subject("deadline", *ref), at, body)

    async def watch_busy_wait(self, ref: TaskRef, at: datetime) -> None:
        """Set the timer at which a task fails if every server is still busy."""
        await self._set(timer_subject("busy", *ref), due_subject("busy", *ref), at, b"{}")

    async def check_server(self, server_id: str, at: datetime, body: bytes = b"{}") -> None:
        """Set the timer of a server's next health check."""
        name = server_token(server_id)
        await self._set(timer_subject("check", name), due_subject("check", name), at, body)

    async def run_schedule(self, ref: ScheduleRef, at: datetime) -> None:
        """Set the timer of a schedule's next run."""
        body = msgspec.json.encode({"at": at})
        await self._set(timer_subject("schedule", *ref), due_subject("schedule", *ref), at, body)

    async def cancel(self, kind: TimerKind, ref: TaskRef) -> None:
        """Remove a timer of a task, if it is set. One message to NATS, which sends no answer.

        Without a connection nothing happens: the timer fires and changes nothing.
        """
        purge = msgspec.json.encode({"filter": timer_subject(kind, *ref)})
        with contextlib.suppress(StoreUnavailable):
            await self._connection.publish(f"$JS.API.STREAM.PURGE.{_STREAMS.get(kind, TIMERS)}", purge)

    async def _set(
        self, subject: str, target: str, at: datetime, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        schedule = {"Nats-Schedule": f"@at {at:%Y-%m-%dT%H:%M:%S.%fZ}", "Nats-Schedule-Target": target}
        answer = await self._connection.request(subject, body, schedule | (headers or {}))
        stored_sequence(answer, f"the timer {subject}")
