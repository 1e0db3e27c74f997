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
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class TaskRef(NamedTuple):
    """Where a task is in the log: its owner's token and its own unique part."""

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


def _base32(number: int) -> str:
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
