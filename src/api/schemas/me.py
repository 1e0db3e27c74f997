"""The caller of the API, as its token says."""

from __future__ import annotations

from msgspec import Struct


class Permissions(Struct, kw_only=True, rename="camel"):
    """What the caller may do."""

    submit: bool
    """Submit tasks, batches, schedules and webhooks."""
    read_all: bool
    """Read what other users own."""
    administer: bool
    """Change servers, types, pools and limits, and what other users own."""
    read_payloads: bool
    """Read payloads and results of other users' tasks. Those of one's own are always readable."""


class Me(Struct, kw_only=True, rename="camel"):
    """The caller. Times are ISO 8601, UTC."""

    subject: str
    """The `sub` of the token: the owner of what the caller submits."""
    roles: list[str]
    """Those that this service knows, by name."""
    expires_at: str
    """When the token is accepted no more; its streams end then. In the year 9999: a key that does not expire."""
    server_time: str
    """The clock of the process that answers."""
    version: str
    """Of the service."""
    key: str | None
    """Id of the API key that was used; null: a JWT was."""
    types: list[str] | None
    """The key reaches only tasks of these types; null: all."""
    may: Permissions
