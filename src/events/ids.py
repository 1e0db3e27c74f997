"""Ids and the subject tokens they become. The one place where text of users enters a subject.

A *token* is one element of a NATS subject and of a KV key. Text that is not safe as one is escaped
byte by byte (`=2E` for a dot), and replaced by a digest where that gets too long; two different
texts never give the same token.

A *task id* is `<unique>~<owner token>`: it leads to the task's subject and KV key by itself.

A *batch id* has the same form, and its unique part ends with `00`. The last two of its 26 digits (base 32) count the
tasks of the batch: a batch leads to its tasks, and a task to its batch, by arithmetic. So the first task of a batch has
the batch's own id.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import NamedTuple

from ..errors import NotFound

OWNER_TOKEN_LENGTH = 36
"""Longest owner token: a UUID fits, and a whole task id stays within 64 characters."""
BATCH_DIGITS = 2
"""Digits of a task's unique part that say which of its batch it is; 1,024 is more than a batch may have."""
NAME_TOKEN_LENGTH = 64
"""Longest token of a server id, type or pool."""

_SAFE_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE_BYTE = re.compile(rb"[^A-Za-z0-9_-]")
_TASK_ID = re.compile(r"([0-9A-Za-z]{26})~([A-Za-z0-9_=-]{1,36})")
_DELIVERY_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_BATCH_ID = re.compile(r"([0-9A-HJKMNP-TV-Z]{24}00)~([A-Za-z0-9_=-]{1,36})")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class _Ref(NamedTuple):
    """Where something of an owner is in its log: the owner's token, and its own unique part."""

    owner: str
    unique: str

    @property
    def id(self) -> str:
        return f"{self.unique}~{self.owner}"


class TaskRef(_Ref):
    """Where a task is in the log."""

    __slots__ = ()


class BatchRef(_Ref):
    """A batch of tasks; its unique part is what those of its tasks begin with."""

    __slots__ = ()


class WebhookRef(_Ref):
    """Where a webhook is in its log; its id has the form of a task's."""

    __slots__ = ()


class ScheduleRef(_Ref):
    """Where a recurring schedule is in its log; its id has the form of a task's."""

    __slots__ = ()


def token(text: str, longest: int = NAME_TOKEN_LENGTH) -> str:
    """Return `text` as one subject token of at most `longest` characters.

    Raises ValueError for empty text.
    """
    if not text:
        raise ValueError("empty text has no token")
    if len(text) <= longest and _SAFE_TOKEN.fullmatch(text):
        return text
    escaped = _UNSAFE_BYTE.sub(lambda byte: b"=%02X" % byte[0][0], text.encode()).decode()
    if len(escaped) <= longest:
        return escaped
    # "=h" is no escape, so a digest is never mistaken for escaped text.
    return "=h" + hashlib.sha256(text.encode()).hexdigest()[:32]


def owner_token(subject: str) -> str:
    """Return the token of a user, from the `sub` claim."""
    return token(subject, OWNER_TOKEN_LENGTH)


def new_ref(owner: str, now: datetime, chance: int) -> TaskRef:
    """Return a new task of an owner token, from 80 bits of chance; later ones sort after earlier ones (a ULID)."""
    return TaskRef(owner, _base32(int(now.timestamp() * 1000) << 80 | chance))


def ref_for_key(owner: str, idempotency_key: str) -> TaskRef:
    """Return the task that an owner's Idempotency-Key stands for: always the same one."""
    digest = hashlib.sha256(f"{owner}\n{idempotency_key}".encode()).digest()
    return TaskRef(owner, _base32(int.from_bytes(digest[:16], "big")))


def is_task_id(text: str) -> bool:
    """Tell whether text has the form of a task id of ours."""
    return _TASK_ID.fullmatch(text) is not None


def parse_task_id(task_id: str) -> TaskRef:
    """Return where a task id leads. Raises NotFound for text that is no task id of ours."""
    return TaskRef(*_parts(_TASK_ID, "task", task_id))


def new_batch(owner: str, now: datetime, chance: int) -> BatchRef:
    """Return a new batch of an owner token, from 80 bits of chance; later ones sort after earlier ones."""
    return batch_of(new_ref(owner, now, chance))


def batch_for_key(owner: str, idempotency_key: str) -> BatchRef:
    """Return the batch that an owner's Idempotency-Key stands for: always the same one.

    No task's key leads to one of its tasks: an owner token has no line break, nor has a key.
    """
    return batch_of(ref_for_key(f"batch\n{owner}", idempotency_key))._replace(owner=owner)


def batch_of(ref: TaskRef) -> BatchRef:
    """Return the batch that a task is of, if it is of any: its id does not tell."""
    return BatchRef(ref.owner, ref.unique[:-BATCH_DIGITS] + "0" * BATCH_DIGITS)


def nth(batch: BatchRef, place: int) -> TaskRef:
    """Return a batch's task by its place, from 0."""
    return TaskRef(batch.owner, batch.unique[:-BATCH_DIGITS] + _CROCKFORD[place >> 5] + _CROCKFORD[place & 31])


def place_of(ref: TaskRef) -> int:
    """Return which task of its batch one is, from 0: what `nth` was given."""
    return _CROCKFORD.index(ref.unique[-2]) << 5 | _CROCKFORD.index(ref.unique[-1])


def parse_batch_id(batch_id: str) -> BatchRef:
    """Return where a batch id leads. Raises NotFound for text that is no batch id of ours."""
    return BatchRef(*_parts(_BATCH_ID, "batch", batch_id))


def new_schedule_ref(owner: str, now: datetime, chance: int) -> ScheduleRef:
    """Return a new schedule of an owner token, from 80 bits of chance; later ones sort after earlier ones."""
    return ScheduleRef(*new_ref(owner, now, chance))


def schedule_for_key(owner: str, idempotency_key: str) -> ScheduleRef:
    """Return the schedule that an owner's Idempotency-Key stands for: always the same one."""
    return ScheduleRef(*ref_for_key(owner, idempotency_key))


def parse_schedule_id(schedule_id: str) -> ScheduleRef:
    """Return where a schedule's id leads. Raises NotFound for text that is none of ours."""
    return ScheduleRef(*_parts(_TASK_ID, "schedule", schedule_id))


def run_ref(ref: ScheduleRef, occurrence: datetime) -> TaskRef:
    """Return the task of a schedule's run: always the same one. No task's key leads to it: it has no line break."""
    return ref_for_key(ref.owner, f"schedule\n{ref.id}\n{int(occurrence.timestamp())}")


def triggered_ref(ref: ScheduleRef, idempotency_key: str) -> TaskRef:
    """Return the task of a run that somebody asked for with a key: always the same one."""
    return ref_for_key(ref.owner, f"trigger\n{ref.id}\n{idempotency_key}")


def new_webhook_ref(owner: str, now: datetime, chance: int) -> WebhookRef:
    """Return a new webhook of an owner token, from 80 bits of chance; later ones sort after earlier ones."""
    return WebhookRef(*new_ref(owner, now, chance))


def parse_webhook_id(webhook_id: str) -> WebhookRef:
    """Return where a webhook's id leads. Raises NotFound for text that is none of ours."""
    return WebhookRef(*_parts(_TASK_ID, "webhook", webhook_id))


def delivery_id(ref: WebhookRef, sequence: int, at: datetime) -> str:
    """Return the id of a webhook's delivery of one event: always the same, and later events' sort after it."""
    digest = hashlib.sha256(f"{ref.id}\n{sequence}".encode()).digest()
    return _base32(int(at.timestamp() * 1000) << 80 | int.from_bytes(digest[:10], "big"))


def is_delivery_id(text: str) -> bool:
    """Tell whether text has the form of a delivery's id."""
    return _DELIVERY_ID.fullmatch(text) is not None


def _parts(form: re.Pattern[str], kind: str, text: str) -> tuple[str, str]:
    """Return owner token and unique part of an id. Raises NotFound for text that has not its form."""
    match = form.fullmatch(text)
    if match is None:
        raise NotFound(kind, text)
    return match[2], match[1]


def _base32(number: int) -> str:
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
