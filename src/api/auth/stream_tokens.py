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

    def make(self, identity: Identity) -> tuple[str, float]:
        """Return a token for whoever this is, and when it ends, in seconds since the epoch.

        Raises SealingUnavailable where no key to seal with is configured.
        """
        expires = self._now() + LIFETIME_SECONDS
        content = _Content(identity.subject, sorted(identity.roles), expires)
        return self._sealer.seal(msgspec.json.encode(content).decode(), PURPOSE).decode(), expires

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
