"""Addresses of predictions' streams: JavaScript's client opens them without a header, so they carry a token.

A token opens the stream of one prediction for an hour, and no other route. It ends no later than the credential that it
was made with.
"""

from __future__ import annotations

import math

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ....facades.prediction import PREFIX
from ....vault.sealing import DoesNotOpen, Sealer, SealingError
from ...auth.api_keys import ApiKeys
from ...auth.authenticator import Identity, Unauthenticated
from ...auth.keys import Clock

LIFETIME_SECONDS = 3_600
PURPOSE = "prediction stream"
LONGEST = 4 * 1024
"""Characters of a token."""


class _StreamLink(Struct, array_like=True, frozen=True):
    task_id: str
    subject: str
    until: float
    """Seconds since the epoch: it opens streams until then."""
    ends: float | None
    """When its credential expires; None: never."""
    key_id: str = ""


class StreamLinks:
    """Makes the addresses of streams, and opens the tokens in them."""

    def __init__(self, sealer: Sealer, now: Clock, api_keys: ApiKeys | None = None) -> None:
        """`now`: seconds since the epoch. `api_keys`: for tokens that were made with one, which end with it."""
        self._api_keys = api_keys
        self._sealer = sealer
        self._now = now

    def url(self, base: str, task_id: str, user: Identity) -> str:
        """Return the address of a prediction's stream for a caller; without a key to seal with, it needs a header."""
        address = f"{base}{PREFIX}/predictions/{task_id}/stream"
        if not self._sealer.available:
            return address
        ends = None if math.isinf(user.expires_at) else user.expires_at
        until = min(self._now() + LIFETIME_SECONDS, user.expires_at)
        content = msgspec.json.encode(_StreamLink(task_id, user.subject, until, ends, user.key_id))
        return f"{address}?token={self._sealer.seal(content.decode(), PURPOSE).decode()}"

    def opened(self, token: str, task_id: str) -> Identity:
        """Return the caller that a token was made for. Raises Unauthenticated, and KeysUnavailable as for API keys."""
        try:
            if len(token) > LONGEST or not token.isascii():
                raise DoesNotOpen(PURPOSE)
            content = msgspec.json.decode(self._sealer.open(token.encode(), PURPOSE), type=_StreamLink)
        except SealingError:
            raise Unauthenticated("the `token` in the URL opens no stream: use `urls.stream` as it was given") from None
        if content.task_id != task_id:
            raise Unauthenticated("the `token` in the URL opens another prediction's stream")
        if content.until <= self._now():
            raise Unauthenticated("the stream's URL has expired: read the prediction again for a new one")
        ends = math.inf if content.ends is None else content.ends
        if not content.key_id:
            return Identity(content.subject, frozenset(), ends)
        if self._api_keys is None:
            raise Unauthenticated("API keys are not accepted here")
        with_key = self._api_keys.identity(content.key_id)
        return replace(with_key, roles=frozenset(), expires_at=min(with_key.expires_at, ends))
