"""Short-lived tokens for the address of a stream: a browser's EventSource and WebSocket cannot send headers."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ...vault.sealing import DoesNotOpen, Sealer
from .authenticator import Identity, Unauthenticated
from .keys import Clock

LIFETIME_SECONDS = 300
PURPOSE = "stream token"
LONGEST = 8 * 1024


class StreamToken(Struct, kw_only=True, rename="camel"):
    """A token for the address of a stream: `?token=…`."""

    token: str
    expires_at: int
    """Milliseconds since the epoch. A stream that is open then stays open."""


class _Content(Struct, array_like=True, frozen=True):
    subject: str
    roles: list[str]
    expires: float


class StreamTokens:
    """Makes them and believes them. What one says is sealed: it shows nothing, and nobody else can make one."""

    def __init__(self, sealer: Sealer, now: Clock) -> None:
        """`now` gives seconds since the epoch."""
        self._sealer = sealer
        self._now = now

    def make(self, identity: Identity) -> StreamToken:
        """Return a token for a caller. Raises SealingUnavailable if no key to seal with is configured."""
        expires = self._now() + LIFETIME_SECONDS
        content = _Content(identity.subject, sorted(identity.roles), expires)
        sealed = self._sealer.seal(msgspec.json.encode(content).decode(), PURPOSE).decode()
        return StreamToken(token=sealed, expires_at=int(expires * 1000))

    def identify(self, token: str) -> Identity:
        """Return who a token was made for. Raises Unauthenticated, and SealingUnavailable."""
        try:
            if len(token) > LONGEST or not token.isascii():
                raise DoesNotOpen(PURPOSE)
            content = msgspec.json.decode(self._sealer.open(token.encode(), PURPOSE), type=_Content)
        except DoesNotOpen:
            raise Unauthenticated("this is no token for streams; POST /api/stream-tokens gives one") from None
        if content.expires <= self._now():
            raise Unauthenticated("the token for streams has expired; POST /api/stream-tokens gives another")
        return Identity(content.subject, frozenset(content.roles))
