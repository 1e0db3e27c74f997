"""The keys that come with tasks, for the model they are to use: sealed in the `secrets` bucket, never in the log.

A key lives as long as its task: it is put here before the submission is appended, which names it, is handed to the
server of each attempt and to nobody else, and is destroyed when the task has ended.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

import msgspec

from ..clock import unique_id
from ..events.ids import TaskRef
from ..streams.buckets import Bucket
from .sealing import DoesNotOpen, Sealer

REDACTED = b"[key removed]"
SHORTEST_SECRET = 10
"""Characters."""


class TaskKeys:
    def __init__(self, bucket: Bucket, sealer: Sealer) -> None:
        self._bucket = bucket
        self._sealer = sealer

    async def keep(self, ref: TaskRef, key: str) -> str:
        """Seal a key for a task that is about to be submitted; return the id that its submission names.

        Raises SealingUnavailable where no key to seal with is configured.
        """
        key_id = unique_id()
        await self._bucket.put(_name(ref, key_id), self._sealer.seal(key, _purpose(ref)))
        return key_id

    async def get(self, ref: TaskRef, key_id: str) -> str | None:
        """Return the key, None for a task without one. Raises DoesNotOpen, also if it is destroyed."""
        if not key_id:
            return None
        entry = await self._bucket.get(_name(ref, key_id))
        if entry is None:
            raise DoesNotOpen(_purpose(ref))
        return self._sealer.open(entry.value, _purpose(ref))

    async def destroy(self, ref: TaskRef, key_id: str) -> None:
        """Remove a key; repeating does nothing."""
        if key_id:
            await self._bucket.erase(_name(ref, key_id))

    async def kept(self) -> dict[TaskRef, set[str]]:
        """Return the ids of all keys there are, by task."""
        found: dict[TaskRef, set[str]] = {}
        for entry in await self._bucket.scan("task.>"):
            _, owner, unique, key_id = entry.key.split(".")
            found.setdefault(TaskRef(owner, unique), set()).add(key_id)
        return found


def without_key(text: bytes, key: str | None) -> bytes:
    """Return what a server said, with the key taken out that it was told: it would enter the log.

    A word too short to be a secret (as servers without keys are told) stays: it would break the JSON around it.
    """
    if not key or len(key) < SHORTEST_SECRET:
        return text
    for form in _forms(key):
        text = text.replace(form, REDACTED)
    return text


def _forms(key: str) -> set[bytes]:
    """Return the key as it was sent, as JSON has it (some escape the slash, too), in an address, and in Base64."""
    in_json = msgspec.json.encode(key)[1:-1]
    in_address = quote(key, safe="").encode()
    in_base64 = base64.b64encode(key.encode()).rstrip(b"=")
    in_base64url = base64.urlsafe_b64encode(key.encode()).rstrip(b"=")
    return {key.encode(), in_json, in_json.replace(b"/", b"\\/"), in_address, in_base64, in_base64url}


def _name(ref: TaskRef, key_id: str) -> str:
    return f"task.{ref.owner}.{ref.unique}.{key_id}"


def _purpose(ref: TaskRef) -> str:
    return f"task:{ref.id}"
