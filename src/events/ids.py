"""Ids and the subject tokens they become. The one place where text of users enters a subject.

A *token* is one element of a NATS subject and of a KV key. Text that is not safe as one is escaped
byte by byte (`=2E` for a dot), and replaced by a digest where that gets too long; two different
texts never give the same token.

A *task id* is `<unique>~<owner token>`: it leads to the task's subject and KV key by itself.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import NamedTuple

from ..errors import NotFound

OWNER_TOKEN_LENGTH = 36
"""Longest owner token: a UUID fits, and a whole task id stays within 64 characters."""
NAME_TOKEN_LENGTH = 64
"""Longest token of a server id, type or pool."""

_SAFE_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE_BYTE = re.compile(rb"[^A-Za-z0-9_-]")
_TASK_ID = re.compile(r"([0-9A-Za-z]{26})~([A-Za-z0-9_=-]{1,36})")
_DELIVERY_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class TaskRef(NamedTuple):
    """Where a task is in the log: its owner's token and its own unique part."""

    owner: str
    unique: str

    @property
    def id(self) -> str:
        return f"{self.unique}~{self.owner}"


class WebhookRef(NamedTuple):
    """Where a webhook is in its log; its id has the form of a task's."""

    owner: str
    unique: str

    @property
    def id(self) -> str:
        return f"{self.unique}~{self.owner}"


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
    match = _TASK_ID.fullmatch(task_id)
    if match is None:
        raise NotFound("task", task_id)
    return TaskRef(match[2], match[1])


def new_webhook_ref(owner: str, now: datetime, chance: int) -> WebhookRef:
    """Return a new webhook of an owner token, from 80 bits of chance; later ones sort after earlier ones."""
    return WebhookRef(*new_ref(owner, now, chance))


def parse_webhook_id(webhook_id: str) -> WebhookRef:
    """Return where a webhook's id leads. Raises NotFound for text that is none of ours."""
    match = _TASK_ID.fullmatch(webhook_id)
    if match is None:
        raise NotFound("webhook", webhook_id)
    return WebhookRef(match[2], match[1])


def delivery_id(ref: WebhookRef, sequence: int, at: datetime) -> str:
    """Return the id of a webhook's delivery of one event: always the same, and later events' sort after it."""
    digest = hashlib.sha256(f"{ref.id}\n{sequence}".encode()).digest()
    return _base32(int(at.timestamp() * 1000) << 80 | int.from_bytes(digest[:10], "big"))


def is_delivery_id(text: str) -> bool:
    """Tell whether text has the form of a delivery's id."""
    return _DELIVERY_ID.fullmatch(text) is not None


def _base32(number: int) -> str:
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
