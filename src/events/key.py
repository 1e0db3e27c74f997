"""The events of an API key. The key itself is in none of them: only its SHA-256."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from .envelope import Event


class KeyCreated(Event, frozen=True, kw_only=True):
    """A key was made. It acts for its owner, with these rights at most, until it expires or is revoked."""

    key_id: str
    owner: str
    """The user it acts for, as the `sub` of a JWT."""
    name: str
    digest: str
    """SHA-256 of the whole text of the key, in hexadecimal digits."""
    roles: tuple[str, ...]
    types: tuple[str, ...] = ()
    """It reaches only tasks of these types; empty: of all."""
    servers: tuple[str, ...] | None = None
    """Ids of the servers that it acts for with the role `service`; None: as a token without the claim."""
    payloads: bool | None = None
    """As the claim of a JWT; None: as a token without the claim."""
    expires_at: datetime | None = None
    """UTC. None: it does not expire."""
    per_second: float | None = None
    """Requests per second, at all API processes together; None: any number."""
    parent: str = ""
    """Id of the key that made it, and without which it does not work; empty: none did."""


class KeyRevoked(Event, frozen=True, kw_only=True):
    """The key is accepted no more, nor are the keys that it made."""

    reason: str = ""


KeyEvent: TypeAlias = KeyCreated | KeyRevoked
