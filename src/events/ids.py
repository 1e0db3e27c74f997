"""Ids, and the subject tokens made of them. The one place where user text enters a subject.

A *token* is one element of a NATS subject and of a KV key. Text that is not safe as one is escaped
byte by byte (`=2E` for a dot), and replaced by a digest where that gets too long; two different
texts never give the same token.

A *task id* is `<unique>~<owner token>`: the task's subject and KV key follow from it.

A *batch id* has the same form, and its unique part ends with `00`. The last two of its 26 digits (base 32) count the
tasks of the batch: a batch leads to its tasks, and a task to its batch, by arithmetic. So the first task of a batch has
the batch's own id.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from ..errors import NotFound
from ..instants import milliseconds, whole_seconds

OWNER_TOKEN_LENGTH = 36
"""Longest owner token: a UUID fits, and a whole task id stays within 64 characters."""
BATCH_DIGITS = 2
"""Digits of a task's unique part that number it within its batch; 1,024 is more than a batch may have."""
NAME_TOKEN_LENGTH = 64
"""Longest token of a server id, type or pool."""

TOKENS_KEPT = 4_096
"""Texts whose tokens are kept: a submission needs five, of the same few owners, types and pools."""
LONGEST_KEPT = 256
"""Characters of a text whose token is kept: callers choose them."""

_SAFE_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE_BYTE = re.compile(rb"[^A-Za-z0-9_-]")
_TASK_ID = re.compile(r"([0-9A-Za-z]{26})~([A-Za-z0-9_=-]{1,36})")
_DELIVERY_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_BATCH_ID = re.compile(r"([0-9A-HJKMNP-TV-Z]{24}00)~([A-Za-z0-9_=-]{1,36})")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]


class _Ref(NamedTuple):
    """Key of a history that belongs to an owner: the owner's token and a unique part."""

    owner: str
    unique: str

    @property
    def id(self) -> str:
        return f"{self.unique}~{self.owner}"


class TaskRef(_Ref):
    """Key of a task."""

    __slots__ = ()


class BatchRef(_Ref):
    """Key of a batch. The unique parts of its tasks begin like its own."""

    __slots__ = ()


class WebhookRef(_Ref):
    """Key of a webhook. Its id has the form of a task id."""

    __slots__ = ()


class ScheduleRef(_Ref):
    """Key of a recurring schedule. Its id has the form of a task id."""

    __slots__ = ()


class OperationRef(_Ref):
    """Key of an operation on many tasks. Its id has the form of a task id."""

    __slots__ = ()


class BatchJobRef(_Ref):
    """Key of a batch job. Its id has the form of a task id."""

    __slots__ = ()


class FileRef(_Ref):
    """Key of a file. Its id has the form of a task id."""

    __slots__ = ()


class KeyRef(_Ref):
    """Key of an API key. Its id has the form of a task id."""

    __slots__ = ()


def token(text: str, longest: int = NAME_TOKEN_LENGTH) -> str:
    """Return `text` as one subject token of at most `longest` characters.

    Raises ValueError for empty text.
    """
    return _kept_token(text, longest) if len(text) <= LONGEST_KEPT else _token(text, longest)


def _token(text: str, longest: int) -> str:
    if not text:
        raise ValueError("empty text has no token")
    if len(text) <= longest and _SAFE_TOKEN.fullmatch(text):
        return text
    escaped = _UNSAFE_BYTE.sub(lambda byte: b"=%02X" % byte[0][0], text.encode()).decode()
    if len(escaped) <= longest:
        return escaped
    # "=h" is no escape, so a digest is never mistaken for escaped text.
    return "=h" + hashlib.sha256(text.encode()).hexdigest()[:32]


_kept_token = lru_cache(TOKENS_KEPT)(_token)


def owner_token(subject: str) -> str:
    """Return the token of a user, from the `sub` claim."""
    return token(subject, OWNER_TOKEN_LENGTH)


def new_ref(owner: str, now: datetime, chance: int) -> TaskRef:
    """Return a new task key of an owner token: a ULID from `now` and 80 random bits."""
    return TaskRef(owner, _base32(milliseconds(now) << 80 | chance))


def ref_for_key(owner: str, idempotency_key: str) -> TaskRef:
    """Return the task key for an owner's Idempotency-Key: always the same."""
    digest = hashlib.sha256(f"{owner}\n{idempotency_key}".encode()).digest()
    return TaskRef(owner, _base32(int.from_bytes(digest[:16], "big")))


def project_task_ref(owner: str, task_type: str, project: str, number: int) -> TaskRef:
    """Return the task key for the nth generation in a project, from 0: always the same.

    A project name has no line break, nor has an Idempotency-Key.
    """
    return ref_for_key(owner, f"generation\n{task_type}\n{project}\n{number}")


def is_task_id(text: str) -> bool:
    """Return True if text has the form of a task id."""
    return _TASK_ID.fullmatch(text) is not None


def parse_task_id(task_id: str) -> TaskRef:
    """Return the key of a task id. Raises NotFound for any other text."""
    return TaskRef(*_parts(_TASK_ID, "task", task_id))


def new_batch(owner: str, now: datetime, chance: int) -> BatchRef:
    """Return a new batch key of an owner token, from 80 random bits. Later keys sort after earlier ones."""
    return batch_of(new_ref(owner, now, chance))


def batch_for_key(owner: str, idempotency_key: str) -> BatchRef:
    """Return the batch that an owner's Idempotency-Key stands for: always the same one.

    No task's key leads to one of its tasks: an owner token has no line break, nor has a key.
    """
    return batch_of(ref_for_key(f"batch\n{owner}", idempotency_key))._replace(owner=owner)


def batch_of(ref: TaskRef) -> BatchRef:
    """Return the batch of a task. The id does not show whether the task is in a batch."""
    return BatchRef(ref.owner, ref.unique[:-BATCH_DIGITS] + "0" * BATCH_DIGITS)


def nth(batch: BatchRef, index: int) -> TaskRef:
    """Return a batch's task by its index, from 0."""
    return TaskRef(batch.owner, batch.unique[:-BATCH_DIGITS] + _CROCKFORD[index >> 5] + _CROCKFORD[index & 31])


def batch_index(ref: TaskRef) -> int:
    """Return the index of a task in its batch, from 0; the inverse of `nth`."""
    return _CROCKFORD.index(ref.unique[-2]) << 5 | _CROCKFORD.index(ref.unique[-1])


def parse_batch_id(batch_id: str) -> BatchRef:
    """Return the key of a batch id. Raises NotFound for any other text."""
    return BatchRef(*_parts(_BATCH_ID, "batch", batch_id))


def new_schedule_ref(owner: str, now: datetime, chance: int) -> ScheduleRef:
    """Return a new schedule key of an owner token, from 80 random bits. Later keys sort after earlier ones."""
    return ScheduleRef(*new_ref(owner, now, chance))


def schedule_for_key(owner: str, idempotency_key: str) -> ScheduleRef:
    """Return the schedule key for an owner's Idempotency-Key: always the same."""
    return ScheduleRef(*ref_for_key(owner, idempotency_key))


def parse_schedule_id(schedule_id: str) -> ScheduleRef:
    """Return the key of a schedule id. Raises NotFound for any other text."""
    return ScheduleRef(*_parts(_TASK_ID, "schedule", schedule_id))


def new_operation_ref(owner: str, now: datetime, chance: int) -> OperationRef:
    """Return a new operation key of an owner token, from 80 random bits. Later keys sort after earlier ones."""
    return OperationRef(*new_ref(owner, now, chance))


def operation_for_key(owner: str, idempotency_key: str) -> OperationRef:
    """Return the operation key for an owner's Idempotency-Key: always the same. No such key has a line break."""
    return OperationRef(*ref_for_key(owner, f"operation\n{idempotency_key}"))


def parse_operation_id(operation_id: str) -> OperationRef:
    """Return the key of an operation's id. Raises NotFound for any other text."""
    return OperationRef(*_parts(_TASK_ID, "operation", operation_id))


def facade_webhook_ref(owner: str, facade: str) -> WebhookRef:
    """Return the key of the one webhook of an owner token for a façade: always the same."""
    return WebhookRef(*ref_for_key(owner, f"webhook\n{facade}"))


def new_file_ref(owner: str, now: datetime, chance: int) -> FileRef:
    """Return a new file key of an owner token, from 80 random bits. Later keys sort after earlier ones."""
    return FileRef(*new_ref(owner, now, chance))


def file_for_key(owner: str, idempotency_key: str) -> FileRef:
    """Return the file key for an owner's Idempotency-Key: always the same. No such key has a line break."""
    return FileRef(*ref_for_key(owner, f"file\n{idempotency_key}"))


def parse_file_id(file_id: str) -> FileRef:
    """Return the key of a file's id. Raises NotFound for any other text."""
    return FileRef(*_parts(_TASK_ID, "file", file_id))


def new_key_ref(owner: str, now: datetime, chance: int) -> KeyRef:
    """Return the key of a new API key of an owner token, from 80 random bits. Later keys sort after earlier ones."""
    return KeyRef(*new_ref(owner, now, chance))


def key_ref_for_key(owner: str, idempotency_key: str) -> KeyRef:
    """Return the key of an API key for an owner's Idempotency-Key: always the same. No such key has a line break."""
    return KeyRef(*ref_for_key(owner, f"api key\n{idempotency_key}"))


def parse_key_id(key_id: str) -> KeyRef:
    """Return the key of an API key's id. Raises NotFound for any other text."""
    return KeyRef(*_parts(_TASK_ID, "API key", key_id))


def operation_cause(operation_id: str) -> str:
    """Return the cause of events that an operation's command makes."""
    return f"operation:{operation_id}"


def new_batch_job_ref(owner: str, now: datetime, chance: int) -> BatchJobRef:
    """Return a new key of a batch job of an owner token, from 80 random bits. Later keys sort after earlier ones."""
    return BatchJobRef(*new_ref(owner, now, chance))


def batch_job_for_key(owner: str, idempotency_key: str) -> BatchJobRef:
    """Return the key of a batch job for an owner's Idempotency-Key: always the same. No such key has a line break."""
    return BatchJobRef(*ref_for_key(owner, f"batch job\n{idempotency_key}"))


def batch_of_job(ref: BatchJobRef, number: int) -> BatchRef:
    """Return the key of a job's batch of tasks by its number, from 1: always the same."""
    return batch_for_key(ref.owner, f"batch job\n{ref.id}\n{number}")


def parse_batch_job_id(job_id: str) -> BatchJobRef:
    """Return the key of a batch job's id. Raises NotFound for any other text."""
    return BatchJobRef(*_parts(_TASK_ID, "batch", job_id))


def batch_job_cause(job_id: str) -> str:
    """Return the cause of events that a batch job makes."""
    return f"batch_job:{job_id}"


def run_ref(ref: ScheduleRef, occurrence: datetime) -> TaskRef:
    """Return the task key for a run of a schedule: always the same. No Idempotency-Key has a line break."""
    return ref_for_key(ref.owner, f"schedule\n{ref.id}\n{whole_seconds(occurrence)}")


def triggered_ref(ref: ScheduleRef, idempotency_key: str) -> TaskRef:
    """Return the task key for a triggered run with an Idempotency-Key: always the same."""
    return ref_for_key(ref.owner, f"trigger\n{ref.id}\n{idempotency_key}")


def new_webhook_ref(owner: str, now: datetime, chance: int) -> WebhookRef:
    """Return a new webhook key of an owner token, from 80 random bits. Later keys sort after earlier ones."""
    return WebhookRef(*new_ref(owner, now, chance))


def parse_webhook_id(webhook_id: str) -> WebhookRef:
    """Return the key of a webhook id. Raises NotFound for any other text."""
    return WebhookRef(*_parts(_TASK_ID, "webhook", webhook_id))


def delivery_id(ref: WebhookRef, sequence: int, at: datetime) -> str:
    """Return the id of a webhook's delivery of one event: always the same. Ids of later events sort after it."""
    digest = hashlib.sha256(f"{ref.id}\n{sequence}".encode()).digest()
    return _base32(milliseconds(at) << 80 | int.from_bytes(digest[:10], "big"))


def is_delivery_id(text: str) -> bool:
    """Return True if text has the form of a delivery id."""
    return _DELIVERY_ID.fullmatch(text) is not None


def _parts(form: re.Pattern[str], kind: str, text: str) -> tuple[str, str]:
    """Return owner token and unique part of an id. Raises NotFound for text of another form."""
    match = form.fullmatch(text)
    if match is None:
        raise NotFound(kind, text)
    return match[2], match[1]


def _base32(number: int) -> str:
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])
