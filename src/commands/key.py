"""Deciders of an API key.

          KeyCreated             KeyRevoked
Unmade ──────────────► ApiKey ──────────────► ApiKey, revoked
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..errors import KeyMade, NotFound
from ..events.envelope import Actor, Recorded
from ..events.key import KeyCreated, KeyEvent, KeyRevoked


class Unmade(Struct, frozen=True, tag="unmade"):
    """Never made."""


class ApiKey(Struct, frozen=True, kw_only=True, tag="key"):
    """Made; it works until it expires or is revoked."""

    created: KeyCreated
    created_at: datetime
    created_by: Actor
    revoked_at: datetime | None = None
    revoked_by: Actor | None = None
    reason: str = ""
    """Why it was revoked."""

    def is_live(self, now: datetime) -> bool:
        """Return True if it is neither revoked nor expired; the key that made it may be."""
        expires_at = self.created.expires_at
        return self.revoked_at is None and (expires_at is None or now < expires_at)


ApiKeyState: TypeAlias = Unmade | ApiKey

UNMADE = Unmade()


class CreateKey(Struct, frozen=True, kw_only=True):
    created: KeyCreated


class RevokeKey(Struct, frozen=True, kw_only=True):
    key_id: str
    reason: str = ""


KeyCommand: TypeAlias = CreateKey | RevokeKey


def decide(
    command: KeyCommand,
    state: ApiKeyState,
    now: datetime,  # noqa: ARG001 - as every decider
) -> Sequence[KeyEvent]:
    """Return the events of a command; none if it is done already.

    Raises KeyMade for a key that another request made, NotFound for one that none did.
    """
    match command:
        case CreateKey():
            if isinstance(state, Unmade):
                return [command.created]
            if state.created.digest == command.created.digest:
                return []  # our own, stored although its answer was lost
            raise KeyMade(state.created.key_id)
        case RevokeKey():
            if isinstance(state, Unmade):
                raise NotFound("API key", command.key_id)
            return [] if state.revoked_at is not None else [KeyRevoked(reason=command.reason)]
        case _:
            assert_never(command)


def evolve(state: ApiKeyState, recorded: Recorded[KeyEvent]) -> ApiKeyState:
    """Return the state after one more event."""
    match recorded.event:
        case KeyCreated():
            return ApiKey(created=recorded.event, created_at=recorded.at, created_by=recorded.by)
        case KeyRevoked():
            if isinstance(state, Unmade) or state.revoked_at is not None:
                return state
            return replace(state, revoked_at=recorded.at, revoked_by=recorded.by, reason=recorded.event.reason)
        case _:
            assert_never(recorded.event)
