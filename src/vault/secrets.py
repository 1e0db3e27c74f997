"""The store of all secrets: API keys of servers, model keys of tasks, signing secrets of webhooks.

Secrets are sealed in the `secrets` bucket, beside the log and never in it. Each has an id, which the event names that
registers it. A key lives as long as its registration or its task: the code that replaces, removes or ends that
destroys it.
"""

from __future__ import annotations

import base64
import secrets
from typing import TypeAlias, TypeVar

from msgspec import Struct, field

from ..clock import unique_id
from ..errors import Conflict
from ..events.ids import TaskRef, WebhookRef
from ..events.subjects import server_token
from ..streams.buckets import Bucket
from .sealing import DoesNotOpen, Sealer, SecretMissing

SIGNING_SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret
SIGNING_SECRET_BYTES = 32
"""Standard Webhooks asks for 24 to 64."""

Holder: TypeAlias = TaskRef | WebhookRef | str
"""The holder of a secret: a task, a webhook, or the id of a server."""
FINGERPRINT = "fingerprint"
"""Key of the bucket: the fingerprint of the newest seal key. It is no secret."""
R = TypeVar("R", bound=TaskRef | WebhookRef)


class Resealed(Struct):
    """The outcome of `SecretStore.reseal`."""

    resealed: int = 0
    current: int = 0
    """Sealed with the newest key before."""
    closed: list[str] = field(default_factory=list)
    """Bucket keys of secrets that no key opens."""


class SecretStore:
    """Secrets by holder and id."""

    def __init__(self, bucket: Bucket, sealer: Sealer) -> None:
        self._bucket = bucket
        self._sealer = sealer

    @property
    def available(self) -> bool:
        """False: there is no key to seal with, so `put` raises SealingUnavailable."""
        return self._sealer.available

    async def put(self, holder: Holder, secret: str, current_id: str = "") -> str:
        """Seal a secret and return its id: `current_id` if that one of the holder's secrets is the same.

        Call it before the event that names the id is appended. Raises SealingUnavailable without a key to seal with.
        """
        if current_id and await self._is_same(holder, secret, current_id):
            return current_id
        secret_id = unique_id()
        await self._bucket.put(f"{_path(holder)}.{secret_id}", self._sealer.seal(secret, _purpose(holder)))
        return secret_id

    async def get(self, holder: Holder, secret_id: str) -> str:
        """Return a secret. Raises SecretMissing if it is destroyed, else DoesNotOpen or SealingUnavailable."""
        entry = await self._bucket.get(f"{_path(holder)}.{secret_id}")
        if entry is None:
            raise SecretMissing(_purpose(holder))
        return self._sealer.open(entry.value, _purpose(holder))

    async def destroy(self, holder: Holder, *secret_ids: str) -> None:
        """Remove secrets, also from the disk. Empty ids are ignored; repeating is safe."""
        for secret_id in filter(None, secret_ids):
            await self._bucket.erase(f"{_path(holder)}.{secret_id}")

    async def ids(self, kind: type[R]) -> dict[R, set[str]]:
        """Return the ids of all secrets of tasks or of webhooks, by holder."""
        found: dict[R, set[str]] = {}
        for entry in await self._bucket.scan("task.>" if issubclass(kind, TaskRef) else "webhook.>"):
            _, owner, unique, secret_id = entry.key.split(".")
            found.setdefault(kind(owner, unique), set()).add(secret_id)
        return found

    async def missing_key(self) -> str:
        """Return the fingerprint of the key that others seal with, if this process lacks it; else an empty text."""
        entry = await self._bucket.get(FINGERPRINT)
        recorded = entry.value.decode() if entry else ""
        return "" if recorded in self._sealer.fingerprints else recorded

    async def record_key(self) -> None:
        """Record the fingerprint of the newest key, for `missing_key` of other processes."""
        if not self._sealer.available:
            return
        newest = self._sealer.fingerprints[0].encode()
        entry = await self._bucket.get(FINGERPRINT)
        if entry is None or entry.value != newest:
            await self._bucket.put(FINGERPRINT, newest)

    async def reseal(self) -> Resealed:
        """Seal every secret with the newest key, and record it. Safe to repeat, also while the service runs.

        Raises SealingUnavailable without a key to seal with.
        """
        done = Resealed()
        for entry in await self._bucket.scan():
            if entry.key == FINGERPRINT:
                continue
            try:
                value = self._sealer.reseal(entry.value)
            except DoesNotOpen:
                done.closed.append(entry.key)
                continue
            if value is None:
                done.current += 1
                continue
            try:
                await self._bucket.put(entry.key, value, expected=entry.revision)
                done.resealed += 1
            except Conflict:
                pass  # it was destroyed meanwhile: no secret is ever changed
        await self.record_key()
        return done

    async def _is_same(self, holder: Holder, secret: str, secret_id: str) -> bool:
        try:
            return await self.get(holder, secret_id) == secret
        except DoesNotOpen:
            return False


def new_signing_secret() -> str:
    """Return a random secret that a webhook signs with: `whsec_` and base64."""
    return SIGNING_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SIGNING_SECRET_BYTES)).decode("ascii")


def _path(holder: Holder) -> str:
    """Return the prefix of the bucket keys of a holder's secrets."""
    match holder:
        case TaskRef():
            return f"task.{holder.owner}.{holder.unique}"
        case WebhookRef():
            return f"webhook.{holder.owner}.{holder.unique}"
        case _:
            return f"server.{server_token(holder)}"


def _purpose(holder: Holder) -> str:
    """Return the purpose of a holder's secrets. If you change it, stored secrets do not open any more."""
    match holder:
        case TaskRef():
            return f"task:{holder.id}"
        case WebhookRef():
            return f"webhook:{holder.id}"
        case _:
            return f"server:{holder}"
