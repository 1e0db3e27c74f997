"""API keys: long-lived, narrow, revocable."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from ..core import as_list, given, path_of
from ..flow import Flow
from ..models import ApiKey, NewApiKey, convert
from .call import Async, Part, Sync, call, iterates


class KeyCalls(Part):
    """API keys. One is accepted wherever a JWT is; it has no more rights than whoever made it."""

    @call
    def create(
        self,
        name: str,
        *,
        roles: Iterable[str] = ("user",),
        types: Iterable[str] | None = None,
        servers: Iterable[str] | None = None,
        owner: str | None = None,
        expires_at: datetime.datetime | None = None,
        rate: float | None = None,
        payloads: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[NewApiKey]:
        """Make a key and return it with its text, which is shown only this once.

        Args:
            name: What it is for.
            roles: Some of the caller's.
            types: It reaches only tasks of these types.
            servers: For the role `service`: the servers that it acts for.
            owner: The user that it acts for, if that is not the caller; for admins.
            expires_at: None: it does not expire.
            rate: Requests per second.
            payloads: Whether it reads payloads of other users' tasks.
            idempotency_key: The same key again is refused, and the error names the API key that was made.
        """
        body = given(
            name=name,
            roles=as_list(roles),
            types=as_list(types),
            servers=as_list(servers),
            owner=owner,
            expiresAt=expires_at,
            rate=rate,
            payloads=payloads,
        )
        headers = given(**{"Idempotency-Key": idempotency_key})
        answer = yield from self._core.ask("POST", "/api/keys", body=body, headers=headers, repeatable=False)
        return convert(answer, NewApiKey)

    @call
    def get(self, key_id: str) -> Flow[ApiKey]:
        """Return a key without its text, with its last use."""
        return convert((yield from self._core.ask("GET", path_of("keys", key_id))), ApiKey)

    @iterates(ApiKey)
    def list(self, *, owner: str | None = None, limit: int | None = None) -> Flow[None]:
        """Iterate over your keys, newest first, also over those that have expired or were revoked."""
        yield from self._core.items("/api/keys", "keys", ApiKey, {"owner": owner}, limit=limit)

    @call
    def revoke(self, key_id: str, *, reason: str = "") -> Flow[None]:
        """Revoke a key: when this returns, it is accepted nowhere."""
        yield from self._core.ask("DELETE", path_of("keys", key_id), body={"reason": reason})


class Keys(KeyCalls, Sync):
    """API keys. One is accepted wherever a JWT is; it has no more rights than whoever made it."""


class AsyncKeys(KeyCalls, Async):
    """API keys. One is accepted wherever a JWT is; it has no more rights than whoever made it."""
