"""Short-lived tokens for the URL of a stream: EventSource and WebSocket of browsers send no headers.

A stream token stands for the JWT that it was made with: it opens streams for five minutes, and none of them outlives
that JWT. One that was made with an API key ends with the key.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...instants import from_seconds, milliseconds
from ...vault.sealing import DoesNotOpen, Sealer, SealingError
from .api_keys import ApiKeys
from .authenticator import Identity, Unauthenticated
from .keys import Clock

LIFETIME_SECONDS = 300
PURPOSE = "stream token"
LONGEST = 8 * 1024


class StreamToken(Struct, kw_only=True, rename="camel"):
    """A token for the address of a stream: `?token=…`."""

    token: str
    expires_at: int
    """Milliseconds since the epoch: the token opens streams until then."""
    streams_end_at: int
    """Milliseconds since the epoch: when open streams end, because the token that asked for this one expires."""


class _Content(Struct, array_like=True, frozen=True):
    subject: str
    roles: list[str]
    expires: float
    streams_end: float | None = None
    """When the JWT expires. Tokens of earlier versions lack it."""
    payloads: bool = False
    """The JWT reads payloads of other users' tasks. Tokens of earlier versions lack it; they last five minutes."""
    key: str = ""
    """Id of the API key that it was made with; empty: with a JWT."""


class StreamTokens:
    """Makes and verifies stream tokens. A token is sealed: it cannot be read or made without the key."""

    def __init__(self, sealer: Sealer, now: Clock, api_keys: ApiKeys | None = None) -> None:
        """Take the key. `now`: seconds since the epoch. `api_keys`: for tokens that were made with one."""
        self._api_keys = api_keys
        self._sealer = sealer
        self._now = now

    def make(self, identity: Identity) -> StreamToken:
        """Return a token for a caller. Raises SealingUnavailable if no key to seal with is configured."""
        expires = min(self._now() + LIFETIME_SECONDS, identity.expires_at)
        content = _Content(
            identity.subject,
            sorted(identity.roles),
            expires,
            identity.expires_at,
            identity.payloads,
            identity.key_id,
        )
        sealed = self._sealer.seal(msgspec.json.encode(content).decode(), PURPOSE).decode()
        return StreamToken(
            token=sealed,
            expires_at=milliseconds(from_seconds(expires)),
            streams_end_at=milliseconds(from_seconds(identity.expires_at)),
        )

    def identify(self, token: str) -> Identity:
        """Return the caller a token was made for. Raises Unauthenticated, and KeysUnavailable as for API keys."""
        try:
            if len(token) > LONGEST or not token.isascii():
                raise DoesNotOpen(PURPOSE)
            content = msgspec.json.decode(self._sealer.open(token.encode(), PURPOSE), type=_Content)
        except SealingError:  # also without a key to seal with: no token was made here
            raise Unauthenticated("not a stream token; get one with POST /api/stream-tokens") from None
        if content.expires <= self._now():
            raise Unauthenticated("the stream token has expired; get a new one with POST /api/stream-tokens")
        roles, ends_at = frozenset(content.roles), content.streams_end or content.expires
        if content.key:
            if self._api_keys is None:
                raise Unauthenticated("API keys are not accepted here")
            with_key = self._api_keys.identity(content.key)
            return replace(with_key, expires_at=min(with_key.expires_at, ends_at))
        return Identity(content.subject, roles, ends_at, payloads=content.payloads)
