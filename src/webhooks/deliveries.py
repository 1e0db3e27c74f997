"""Deliveries of webhooks, sent and to be sent: one record for each, in the `deliveries` bucket.

    waiting.<owner>.<webhook>.<id>    to be sent, for the first time or again
    done.<owner>.<webhook>.<id>       delivered
    failed.<owner>.<webhook>.<id>     given up; earlier versions kept it under `done`
    position.<owner>.<webhook>        sequence in TASKS up to which every event to be sent has its delivery
    replaced.<owner>.<webhook>        `after` of the webhook if it was in a log that is gone: the position counts alone
    pause.<owner>.<webhook>           until when nothing is sent; a worker that takes over keeps to it

Authoritative: the log for what is to be sent, this bucket for what was. An id derives from the event, so creating a
delivery twice creates one. A delivery that ends is written under `done` or `failed`, then removed from `waiting`;
after a crash between the two, the key with the later revision counts.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from ..commands.webhook import Registered
from ..errors import Conflict, NotFound
from ..events.ids import WebhookRef
from ..streams.buckets import Bucket, BucketEntry, Write
from ..streams.client.connection import Connection
from ..streams.jetstream.api import api
from ..streams.jetstream.messages import Position, read_backwards, read_some, read_with_rest

log = structlog.get_logger(__name__)

LONGEST_WALK = 20_000
"""Records that one page may search."""
MOST_TRIES_KEPT = 20
"""Tries of one delivery that are kept: the first one and the latest."""
MOST_LOOKED_AT = 4_000
"""Waiting records of one webhook that are counted, those sent in the last minute included."""
CLOCKS_DIFFER = timedelta(minutes=5)
"""How far the clock of the process that wrote a record may be ahead of NATS'."""
SHORT_MARKER = "1s"
"""How long the marker of a removed key counts as a record. Nothing watches keys of ENDED."""
ENDED: tuple[str, ...] = ("done", "failed")
"""Keys of deliveries that have ended."""

DeliveryStatus = Literal["waiting", "delivered", "failed"]


class LastAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of the last try."""

    at: datetime
    status: int | None = None
    """HTTP status; None: no answer."""
    error: str = ""
    """Why the try failed; empty if it succeeded."""
    public_body: str = ""
    """The beginning of the answer's body, if it came from a public address."""
    elapsed_ms: int = 0


class WebhookDelivery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that a webhook has sent or has to send."""

    id: str
    type: str
    """The `type` in the body: `task.succeeded`, …"""
    task_id: str = ""
    """Empty: a test."""
    sequence: int = 0
    """Sequence in TASKS of the event that is sent; 0: a test."""
    created_at: datetime
    status: DeliveryStatus = "waiting"
    attempts: int = 0
    """Calls so far."""
    tries: int = 0
    """Calls since it was created or last repeated by hand, without those that paused the webhook."""
    next_at: datetime | None = None
    """When it is tried next; None: it has ended."""
    ended_at: datetime | None = None
    last: LastAnswer | None = None
    earlier: tuple[LastAnswer, ...] = ()
    """The tries before the last one, oldest first; of more than MOST_TRIES_KEPT the first and the latest."""
    asked_at: datetime | None = None
    """When it was last repeated by hand."""
    paused_since: datetime | None = None
    """The first of its calls since then that paused the webhook; None: none did."""
    url: str = ""
    """Receiver of this message alone, of a façade's webhook; empty: that of the webhook."""

    @property
    def sendable_since(self) -> datetime:
        """When it was created, or last repeated by hand."""
        return self.asked_at or self.created_at

    @property
    def kept_tries(self) -> tuple[LastAnswer, ...]:
        """The tries that are kept, oldest first, the last one included."""
        return self.earlier if self.last is None else (*self.earlier, self.last)

    @property
    def message_id(self) -> str:
        """The `webhook-id`: the same for each try."""
        return f"msg_{self.id}"

    def tried(self, answer: LastAnswer, next_at: datetime | None) -> WebhookDelivery:
        """Return the delivery after one more try; `next_at`: when the next one follows, None: none does."""
        ended: DeliveryStatus = "failed" if answer.error else "delivered"
        kept = self.kept_tries
        return replace(
            self,
            attempts=self.attempts + 1,
            tries=self.tries + 1,
            last=answer,
            earlier=kept if len(kept) < MOST_TRIES_KEPT else (kept[0], *kept[2:]),
            next_at=next_at,
            status="waiting" if next_at else ended,
            ended_at=None if next_at else answer.at,
        )

    def paused(self, answer: LastAnswer, next_at: datetime | None) -> WebhookDelivery:
        """Return the delivery after a call that paused the webhook: it counts as no try. None: it has failed."""
        since = self.paused_since or answer.at
        return replace(self.tried(answer, next_at), tries=self.tries, paused_since=since)

    def given_up(self, at: datetime, error: str) -> WebhookDelivery:
        """Return the delivery as failed without a call."""
        return replace(self.tried(LastAnswer(at=at, error=error), None), attempts=self.attempts, tries=self.tries)

    def asked_again(self, at: datetime) -> WebhookDelivery:
        """Return the delivery as due now, with all its tries before it."""
        return replace(self, status="waiting", tries=0, next_at=at, ended_at=None, asked_at=at, paused_since=None)


class WebhookPause(Struct, frozen=True, kw_only=True):
    """A pause of a webhook that its receiver asked for: nothing is sent."""

    until: datetime
    since: datetime
    """When the first of the pauses in a row began: no message was accepted since."""
    count: int
    """How many pauses in a row, this one included."""
    url: str
    """The receiver that asked. Another URL is not paused."""
    enablings: int = 0
    """The webhook's `enablings` then. Enabling the webhook changes it, and so ends the pause."""

    def applies_to(self, webhook: Registered) -> bool:
        """Return True if the webhook still has the receiver that asked, and was not enabled since."""
        return (self.url, self.enablings) == (webhook.settings.url, webhook.enablings)

    def until_now(self, webhook: Registered, now: datetime) -> datetime | None:
        """Return when the pause of a webhook ends; None if it is not paused now."""
        return self.until if webhook.active and self.applies_to(webhook) and self.until > now else None


class ListedDeliveries(NamedTuple):
    deliveries: list[WebhookDelivery]
    cursor: int | None
    """Revision before which the next page begins; None after the last page."""


class DeliveryCounts(NamedTuple):
    """How many deliveries of a webhook are kept."""

    waiting: int
    delivered: int
    failed: int
    waiting_since: datetime | None
    """When the oldest that waits was created, or last repeated by hand; None: none waits."""
    capped: bool
    """True if there are too many records to tell those that wait from those sent in the last minute."""


class StoredDelivery(NamedTuple):
    """A waiting delivery, with the revision of its record."""

    delivery: WebhookDelivery
    revision: int


_encode = msgspec.json.Encoder().encode
_decode_delivery = msgspec.json.Decoder(WebhookDelivery).decode
_decode_pause = msgspec.json.Decoder(WebhookPause).decode


class DeliveryStore:
    def __init__(self, bucket: Bucket, reading: Connection, retention_seconds: float) -> None:
        self.bucket = bucket
        self._reading = reading
        self._kept = {"Nats-TTL": f"{max(1, round(retention_seconds))}s"}

    async def make(self, ref: WebhookRef, delivery: WebhookDelivery, *, maybe_made: bool) -> None:
        """Create a delivery. Does nothing if it exists; `maybe_made`: it may, so also look among those done."""
        if maybe_made and await self._ended(ref, delivery.id) is not None:
            return
        try:
            await self.bucket.put(_key("waiting", ref, delivery.id), _encode(delivery), expected=0, headers=self._kept)
        except Conflict:
            return

    async def waiting(self, ref: WebhookRef, delivery_id: str) -> StoredDelivery | None:
        """Return a waiting delivery; None if it does not wait."""
        key = _key("waiting", ref, delivery_id)
        entry = await self.bucket.get(key)
        if entry is None:
            return None
        ended = await self._ended(ref, delivery_id)
        if ended is not None and ended.revision > entry.revision:
            await self._remove(key, entry.revision)
            return None
        delivery = _read_delivery(entry.value, key)
        return StoredDelivery(delivery, entry.revision) if delivery is not None else None

    async def record(self, ref: WebhookRef, held: StoredDelivery, after: WebhookDelivery) -> None:
        """Record a try. A delivery that was repeated by hand meanwhile goes on waiting."""
        key = _key("waiting", ref, after.id)
        if after.status != "waiting":
            kind = "failed" if after.status == "failed" else "done"
            await self.bucket.put(_key(kind, ref, after.id), _encode(after), headers=self._kept)
            await self._remove(key, held.revision)
            return
        try:
            await self.bucket.put(key, _encode(after), expected=held.revision, headers=self._kept)
        except Conflict:
            return

    async def ask_again(self, ref: WebhookRef, delivery_id: str, now: datetime) -> WebhookDelivery:
        """Send a delivery now, or once the webhook's pause ends, whatever its status. Raises NotFound."""
        key = _key("waiting", ref, delivery_id)
        while True:
            known, entry = await self._find(ref, delivery_id), await self.bucket.get_with_revision(key)
            again = known.asked_again(now)
            try:
                await self.bucket.put(key, _encode(again), expected=entry.revision if entry else 0, headers=self._kept)
            except Conflict:
                continue
            for kind in ENDED:
                if await self.bucket.get(_key(kind, ref, delivery_id)) is not None:
                    await self.bucket.put_many([Write(_key(kind, ref, delivery_id), None, marker_ttl=SHORT_MARKER)])
            return again

    async def get(self, ref: WebhookRef, delivery_id: str) -> WebhookDelivery:
        """Return a delivery. Raises NotFound."""
        return await self._find(ref, delivery_id)

    async def page(
        self,
        ref: WebhookRef,
        status: DeliveryStatus | None,
        limit: int,
        before: int | None = None,
        *,
        since: datetime | None = None,
    ) -> ListedDeliveries:
        """Return up to `limit` deliveries changed before the revision `before`, last changed first.

        `since`: only those created at or after this instant.
        """
        state = (await api(self._reading, f"STREAM.INFO.{self.bucket.stream}"))["state"]
        oldest, upper = int(state["first_seq"]), int(state["last_seq"]) + 1
        upper = min(upper, before or upper)
        subject = f"$KV.{self.bucket.name}.*.{ref.owner}.{ref.unique}.*"
        if since is not None:
            start = since - CLOCKS_DIFFER
            first = await read_some(self._reading, self.bucket.stream, subject, 1, 1, start_time=start)
            oldest = max(oldest, first[0].sequence if first else upper)
        found: list[WebhookDelivery] = []
        seen: set[str] = set()
        walked = 0
        steps = read_backwards(self._reading, self.bucket.stream, subject, oldest, upper, limit)
        async with contextlib.aclosing(steps):
            async for positions, lower in steps:
                for position in positions:
                    delivery = _read_delivery(position.data, position.subject) if position.data else None
                    if delivery is None or delivery.id in seen:
                        continue
                    seen.add(delivery.id)
                    if (status and delivery.status != status) or (since and delivery.created_at < since):
                        continue
                    found.append(delivery)
                    if len(found) == limit:
                        return ListedDeliveries(found, position.sequence if position.sequence > oldest else None)
                upper = lower
                walked += len(positions)
                if walked >= LONGEST_WALK:
                    break
        return ListedDeliveries(found, upper if upper > oldest else None)

    async def counts(self, ref: WebhookRef) -> DeliveryCounts:
        """Return how many deliveries of a webhook are kept, by status."""
        ended = [await self._count(kind, ref) for kind in ENDED]
        subject = f"$KV.{self.bucket.name}.{_key('waiting', ref, '*')}"
        looked: list[Position] = []
        start, capped = 1, False
        while batch := await read_some(self._reading, self.bucket.stream, subject, start):
            looked += batch
            start = batch[-1].sequence + 1
            if len(looked) >= MOST_LOOKED_AT:
                capped = True
                break
        waiting = [found for one in looked if one.data and (found := _read_delivery(one.data, one.subject)) is not None]
        since = min((delivery.sendable_since for delivery in waiting), default=None)
        return DeliveryCounts(len(waiting), ended[0], ended[1], since, capped)

    async def _count(self, kind: str, ref: WebhookRef) -> int:
        """Return the number of keys of a kind; those removed in the last SHORT_MARKER may be counted."""
        subject = f"$KV.{self.bucket.name}.{_key(kind, ref, '*')}"
        first, rest = await read_with_rest(self._reading, self.bucket.stream, subject, 1)
        return 0 if first is None else 1 + rest

    async def position(self, ref: WebhookRef) -> int:
        """Return the sequence up to which every event to be sent has its delivery; 0 if none is recorded."""
        entry = await self.bucket.get(_position_key(ref))
        return int(entry.value) if entry else 0

    async def start(self, ref: WebhookRef, after: int, end: int) -> int:
        """Return the sequence after which a webhook's events are to become deliveries.

        It is the position, or the webhook's `after` if that is later. One beyond the `end` of the log is of a log that
        an older one has replaced, or that lost its last events: what comes next in the log is sent, from now on too.
        """
        position = await self.position(ref)
        replaced = await self.bucket.get(_replaced_key(ref))
        if replaced is None or int(replaced.value) != after:
            position = max(position, after)
        if position <= end:
            return position
        if after > end:
            await self.bucket.put(_replaced_key(ref), b"%d" % after)
        await self.move(ref, end)
        return end

    async def move(self, ref: WebhookRef, position: int) -> None:
        await self.bucket.put(_position_key(ref), b"%d" % position)

    async def pause(self, ref: WebhookRef) -> WebhookPause | None:
        """Return the last pause of a webhook, which may be over or no longer apply."""
        entry = await self.bucket.get(_pause_key(ref))
        return _read_pause(entry) if entry else None

    async def pauses(self, owner: str | None = None) -> dict[WebhookRef, WebhookPause]:
        """Return the last pauses of an owner token's webhooks (None: of all), as `pause` does."""
        entries = await self.bucket.scan(f"pause.{owner or '*'}.*")
        found = {_ref_of(entry.key): _read_pause(entry) for entry in entries}
        return {ref: pause for ref, pause in found.items() if pause is not None}

    async def set_pause(self, ref: WebhookRef, pause: WebhookPause | None) -> None:
        """Store a pause; None: the receiver has accepted a message since."""
        if pause is None:
            await self.bucket.delete(_pause_key(ref))
        else:
            await self.bucket.put(_pause_key(ref), msgspec.json.encode(pause), headers=self._kept)

    async def forget(self, ref: WebhookRef) -> None:
        """Remove the waiting deliveries, the position and the pause of a deleted webhook; those done expire."""
        await self.bucket.delete(_pause_key(ref))
        for entry in await self.bucket.scan(f"waiting.{ref.owner}.{ref.unique}.*"):
            await self.bucket.delete(entry.key)
        await self.bucket.delete(_position_key(ref))
        await self.bucket.delete(_replaced_key(ref))

    async def _find(self, ref: WebhookRef, delivery_id: str) -> WebhookDelivery:
        entries = [await self.bucket.get(_key(kind, ref, delivery_id)) for kind in ("waiting", *ENDED)]
        present: list[BucketEntry] = [entry for entry in entries if entry is not None]
        for entry in sorted(present, key=lambda entry: entry.revision, reverse=True):
            if (delivery := _read_delivery(entry.value, entry.key)) is not None:
                return delivery
        raise NotFound("delivery", delivery_id)

    async def _ended(self, ref: WebhookRef, delivery_id: str) -> BucketEntry | None:
        """Return the record of a delivery that has ended, the later one of two; None if there is none."""
        entries = [await self.bucket.get(_key(kind, ref, delivery_id)) for kind in ENDED]
        return max((one for one in entries if one is not None), key=lambda one: one.revision, default=None)

    async def _remove(self, key: str, revision: int) -> None:
        """Remove a waiting delivery, unless it was repeated meanwhile."""
        try:
            await self.bucket.delete(key, expected=revision)
        except Conflict:
            return


WAITING_FILTER = "$KV.deliveries.waiting.>"


class DeliveryChange(NamedTuple):
    """A delivery that waits, or no longer does."""

    ref: WebhookRef
    delivery_id: str
    next_at: datetime | None
    """When it is to be tried; None: it no longer waits."""
    since: datetime | None = None
    """When it was created, or last repeated by hand; None: it no longer waits."""


def delivery_change(position: Position) -> DeliveryChange:
    """Return what a message on WAITING_FILTER says."""
    _, _, _, owner, unique, delivery_id = position.subject.split(".")
    delivery = _read_delivery(position.data, position.subject) if position.data else None
    ref = WebhookRef(owner, unique)
    if delivery is None:
        return DeliveryChange(ref, delivery_id, None)
    return DeliveryChange(ref, delivery_id, delivery.next_at or delivery.created_at, delivery.sendable_since)


def _read_delivery(value: bytes, key: str) -> WebhookDelivery | None:
    """Return a stored delivery; None if it is damaged: one such record must not stop all webhooks."""
    try:
        return _decode_delivery(value)
    except msgspec.MsgspecError as error:
        log.error("delivery.unreadable", key=key, reason=str(error))
        return None


def _read_pause(entry: BucketEntry) -> WebhookPause | None:
    """Return a stored pause; None if it is damaged."""
    try:
        return _decode_pause(entry.value)
    except msgspec.MsgspecError as error:
        log.error("pause.unreadable", key=entry.key, reason=str(error))
        return None


def _key(kind: str, ref: WebhookRef, delivery_id: str) -> str:
    return f"{kind}.{ref.owner}.{ref.unique}.{delivery_id}"


def _replaced_key(ref: WebhookRef) -> str:
    return f"replaced.{ref.owner}.{ref.unique}"


def _position_key(ref: WebhookRef) -> str:
    return f"position.{ref.owner}.{ref.unique}"


def _pause_key(ref: WebhookRef) -> str:
    return f"pause.{ref.owner}.{ref.unique}"


def _ref_of(key: str) -> WebhookRef:
    """Return the webhook of a key."""
    _, owner, unique = key.split(".")
    return WebhookRef(owner, unique)
