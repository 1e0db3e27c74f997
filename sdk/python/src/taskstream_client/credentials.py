"""Tokens and keys: given once, or by a function that is asked again before its token expires."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from .errors import BadSettings
from .flow import Call, Flow

EARLY_SECONDS = 30.0
"""A token is replaced so long before it expires: requests and clocks take their time."""

Token = str | Callable[[], str | Awaitable[str]]
"""A token or an API key, or a function that returns one; for the AsyncClient it may be asynchronous."""


class Credentials:
    """The token of a client."""

    def __init__(self, token: Token | None, now: Callable[[], float]) -> None:
        self._provider = token if callable(token) else None
        self._token = None if callable(token) else token
        self._expires_at: float | None = None
        self._now = now

    @property
    def renewable(self) -> bool:
        """Whether a refused token can be replaced."""
        return self._provider is not None

    def header(self) -> Flow[dict[str, str]]:
        """Return the header that identifies the user; none without a token."""
        if self._provider is not None and (self._token is None or self._is_old()):
            token = yield Call(self._provider)
            if not isinstance(token, str) or not token.strip():
                raise BadSettings("the function given as `token` must return a token: a text that is not empty")
            self._token, self._expires_at = token.strip(), expiry_of(token.strip())
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def refuse(self, header: str | None) -> None:
        """Forget a token that the service refused, unless another request has replaced it since."""
        if self._provider is not None and header == f"Bearer {self._token}":
            self._token = None

    def _is_old(self) -> bool:
        return self._expires_at is not None and self._now() > self._expires_at - EARLY_SECONDS


def expiry_of(token: str) -> float | None:
    """Return when a JWT expires, in seconds since the epoch; None if it does not say, or is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    with contextlib.suppress(ValueError, msgspec.DecodeError):
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        found = claims.get("exp") if isinstance(claims, dict) else None
        return float(found) if isinstance(found, (int, float)) else None
    return None
