"""The identity that a token proves, and the error for a token that proves none."""

from __future__ import annotations

import math
import unicodedata
from datetime import datetime

from msgspec import Struct

from ...instants import epoch_seconds

LATEST = 253_402_300_799.0
"""Seconds since the epoch: the end of the year 9999. A token that expires later counts as one that expires then."""
API_KEY_PREFIX = "tsk_"
"""API keys begin so; no other token does."""


class Unauthenticated(Exception):
    """The token is not valid. The text says why and repeats nothing of the token."""


class Identity(Struct, frozen=True):
    """The caller, from a verified token."""

    subject: str
    """The user, who owns what they submit. 1 to 256 characters without control characters."""
    roles: frozenset[str]
    expires_at: float = math.inf
    """Seconds since the epoch: when the token is accepted no more. A stream that it opened ends then."""
    servers: frozenset[str] | None = None
    """Ids of the servers that a `service` token acts for, from its claim `servers`; None: it has none."""
    payloads: bool = True
    """False: payloads and results of other users' tasks are withheld, whatever the roles are."""
    key_id: str = ""
    """Id of the API key that was used; empty: a JWT was."""
    types: frozenset[str] | None = None
    """The key reaches only tasks of these types; None: of all."""

    def has(self, *roles: str) -> bool:
        """Return True if the caller has at least one of these roles."""
        return not self.roles.isdisjoint(roles)

    def seconds_left(self, now: datetime) -> float:
        """Return how much longer the token is accepted; 0 or less if it is not any more."""
        return self.expires_at - epoch_seconds(now)


def is_plain(text: str) -> bool:
    """Return False for control characters, line separators and lone surrogates: they forge logs or break encoders."""
    if text.isascii():
        return text.isprintable()
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)
