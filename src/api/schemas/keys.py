"""API keys, as clients send and read them. Times are milliseconds since the epoch."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ...commands.key import ApiKey
from ...instants import milliseconds, optional_milliseconds
from ...wire.fields import Instant, ServerName
from .shared import Page
from .types import TypeName

KeyRole = Literal["user", "admin", "service", "auditor"]
KeyStatus = Literal["active", "expired", "revoked", "orphaned"]

KeyName = Annotated[str, Meta(min_length=1, max_length=100)]
KeyRate = Annotated[float, Meta(ge=0.001, le=100_000)]


class KeyBody(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A key to make. It gets no more rights than the caller has."""

    name: KeyName
    """What it is for. Printable characters, without spaces at its ends."""
    roles: Annotated[list[KeyRole], Meta(min_length=1, max_length=4)]
    owner: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """The user it acts for; the caller by default. Another one needs the role `admin`."""
    types: Annotated[list[TypeName], Meta(max_length=100)] = []
    """It reaches only tasks of these types; empty: of all."""
    servers: Annotated[list[ServerName], Meta(max_length=100)] | None = None
    """For the role `service`: the servers it acts for, as the claim of a JWT."""
    expires_at: Instant | None = None
    """ISO 8601 or milliseconds since the epoch; null: it does not expire."""
    rate: KeyRate | None = None
    """Requests per second; more are answered with 429. Null: any number."""
    payloads: bool | None = None
    """Whether it reads payloads of other users' tasks, as the claim of a JWT."""


class KeySummary(Struct, kw_only=True, rename="camel"):
    """An API key, without its text."""

    id: str
    name: str
    owner: str
    """The user it acts for."""
    status: KeyStatus
    """`orphaned`: the key that made it has ended."""
    roles: list[str]
    types: list[str]
    servers: list[str] | None
    payloads: bool | None
    rate: float | None
    created_at: int
    created_by: dict[str, str]
    """`kind`, `id`, and `key` if a key made it."""
    expires_at: int | None
    last_used_at: int | None
    """Up to a minute ago; null: it was not used, or this is not known any more."""
    revoked_at: int | None
    revoked_by: dict[str, str] | None
    reason: str
    """Why it was revoked."""


class NewKey(Struct, kw_only=True):
    """A new key."""

    key: str
    """Its text. It is shown this once, and stored nowhere."""
    details: KeySummary


class KeyPage(Page, kw_only=True, rename="camel"):
    """API keys, newest first."""

    keys: list[KeySummary]


class RevokedKey(Struct, kw_only=True, rename="camel"):
    """The answer to a revocation: no process accepts the key any more."""

    id: str
    revoked_at: int
    confirmed: bool
    """True: every API process has said that it applied it. False: one did not answer, and was waited for until it
    accepts no keys, because it has no news from NATS."""


def key_summary(state: ApiKey, status: KeyStatus, used_at: datetime | None) -> KeySummary:
    """Return a key as clients see it."""
    created = state.created
    return KeySummary(
        id=created.key_id,
        name=created.name,
        owner=created.owner,
        status=status,
        roles=list(created.roles),
        types=list(created.types),
        servers=None if created.servers is None else list(created.servers),
        payloads=created.payloads,
        rate=created.per_second,
        created_at=milliseconds(state.created_at),
        created_by=state.created_by.shown(),
        expires_at=optional_milliseconds(created.expires_at),
        last_used_at=optional_milliseconds(used_at),
        revoked_at=optional_milliseconds(state.revoked_at),
        revoked_by=None if state.revoked_by is None else state.revoked_by.shown(),
        reason=state.reason,
    )
