"""The secrets that webhooks sign with: sealed in the `secrets` bucket, beside the log and never in it.

Each has an id, which the registration or the rotation names. It is shown once, when it is made.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable

from ..clock import unique_id
from ..events.ids import WebhookRef
from ..streams.buckets import Bucket
from .sealing import DoesNotOpen, Sealer

PREFIX = "whsec_"
SECRET_BYTES = 32
"""Standard Webhooks asks for 24 to 64."""


class WebhookSecrets:
    def __init__(self, bucket: Bucket, sealer: Sealer) -> None:
        self._bucket = bucket
        self._sealer = sealer

    async def make(self, ref: WebhookRef) -> tuple[str, str]:
        """Make a secret and seal it; return its id and the secret, `whsec_` and base64.

        Raises SealingUnavailable where no key to seal with is configured.
        """
        secret = PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")
        secret_id = unique_id()
        await self._bucket.put(_name(ref, secret_id), self._sealer.seal(secret, _purpose(ref)))
        return secret_id, secret

    async def get(self, ref: WebhookRef, secret_id: str) -> str:
        """Return a secret. Raises DoesNotOpen, also if it is destroyed."""
        entry = await self._bucket.get(_name(ref, secret_id))
        if entry is None:
            raise DoesNotOpen(_purpose(ref))
        return self._sealer.open(entry.value, _purpose(ref))

    async def destroy(self, ref: WebhookRef, secret_ids: Iterable[str]) -> None:
        """Remove secrets, also from the disk; repeating does nothing."""
        for secret_id in filter(None, secret_ids):
            await self._bucket.erase(_name(ref, secret_id))

    async def kept(self) -> dict[WebhookRef, set[str]]:
        """Return the ids of all secrets there are, by webhook."""
        found: dict[WebhookRef, set[str]] = {}
        for entry in await self._bucket.scan("webhook.>"):
            _, owner, unique, secret_id = entry.key.split(".")
            found.setdefault(WebhookRef(owner, unique), set()).add(secret_id)
        return found


def _name(ref: WebhookRef, secret_id: str) -> str:
    return f"webhook.{ref.owner}.{ref.unique}.{secret_id}"


def _purpose(ref: WebhookRef) -> str:
    return f"webhook:{ref.id}"
