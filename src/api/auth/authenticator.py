"""Authentication of bearer tokens (JWT, RFC 7519) with a secret, a public key or a JWKS document.

    Unauthenticated    the token is not valid; the reason is safe to show (401)
    KeysUnavailable    the keys cannot be fetched, so the token cannot be checked; retry later (503; from `keys`)

The kind of key and its algorithms are fixed when the service starts. A token chooses neither (RFC 8725, 3.1).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import jwt
import msgspec
from msgspec import Meta, Struct

from ...settings import PayloadAccess, Settings
from .api_keys import ApiKeys
from .identity import API_KEY_PREFIX, LATEST, Identity, Unauthenticated, is_plain
from .keys import Clock, Key, KeysUnavailable, VerificationKeys, check_secret, keys_from_settings

__all__ = ["Authenticator", "Identity", "KeysUnavailable", "Unauthenticated", "make_token"]

MAX_TOKEN = 8 * 1024
"""Characters. HTTP servers accept headers of about this size at most."""
CACHE_ENTRIES = 4096
CACHE_SECONDS = 60.0
"""Seconds a verified token stays in the cache: a withdrawn key is accepted this much longer."""


class SignatureMismatch(Unauthenticated):
    """The token was signed with another key."""


class Claims(Struct, frozen=True):
    """The claims that are read; a token may carry others. Times are seconds since the epoch."""

    sub: Annotated[str, Meta(min_length=1, max_length=256)]
    exp: float
    iat: float | None = None
    """Tokens of older clients have none."""
    nbf: float | None = None
    roles: list[str] = []
    servers: list[str] | None = None
    payloads: bool | None = None


class Authenticator:
    """Verifies bearer tokens and returns their identities."""

    def __init__(
        self,
        keys: VerificationKeys,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 0,
        now: Clock = time.time,
        cache_entries: int = CACHE_ENTRIES,
        payload_access: PayloadAccess = "roles",
    ) -> None:
        """Take the keys. `leeway`: seconds. `now`: seconds since the epoch. `cache_entries`: 0 disables the cache."""
        self._must_grant_payloads = payload_access == "granted"
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._now = now
        self._cache_entries = cache_entries
        self._cache: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        """Identity of each verified token, and the instant until which it is valid."""
        self.api_keys: ApiKeys | None = None
        """Those that are accepted beside JWTs; None: none are."""

    @classmethod
    def from_settings(
        cls, settings: Settings, *, now: Clock = time.time, monotonic: Clock = time.monotonic
    ) -> Authenticator:
        """Return an authenticator for these settings. Raises InvalidSettings, with what to set, if there is no key."""
        return cls(
            keys_from_settings(settings, monotonic),
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway=settings.jwt_leeway,
            now=now,
            payload_access=settings.payload_access,
        )

    async def identify(self, token: str) -> Identity:
        """Return the identity in a JWT or API key. Raises Unauthenticated with a reason, and KeysUnavailable.

        A verified token is cached for a minute, never past its `exp` plus leeway.
        """
        if token[:4] == API_KEY_PREFIX:
            if self.api_keys is None:
                raise Unauthenticated("API keys are not accepted here")
            return self.api_keys.identify(token)
        now = self._now()
        if (known := self._cache.get(token)) is not None:
            identity, until = known
            if now < until:
                self._cache.move_to_end(token)
                return identity
            del self._cache[token]
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN} characters")
        if not token.isascii():  # PyJWT encodes the token, and fails on lone surrogates
            raise Unauthenticated("the token is not a JWT")
        claims = self._verify_with_any(token, await self._key_of(token))
        reads_payloads = claims.payloads is True if self._must_grant_payloads else claims.payloads is not False
        identity = _identity(claims, self._leeway, payloads=reads_payloads)
        now = self._now()  # again: fetching keys may have taken seconds
        self._check_times(claims, now)
        self._remember(token, identity, min(identity.expires_at, now + CACHE_SECONDS))
        return identity

    async def close(self) -> None:
        """Close the connection to the JWKS URL, if there is one. Safe to repeat."""
        await self._keys.close()

    async def _key_of(self, token: str) -> Key:
        """Return the key to verify the token with. Raises Unauthenticated and KeysUnavailable."""
        with _reasons():
            header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in self._keys.algorithms:  # before anything is fetched
            raise Unauthenticated("the algorithm of the token is not accepted")
        key = await self._keys.find(algorithm, header.get("kid"))
        if key is None:
            raise Unauthenticated("the token names no key that is known here")
        return key

    def _verify_with_any(self, token: str, key: Key) -> Claims:
        """Return the claims of a token that was signed with this key or a former one. Raises Unauthenticated."""
        for former in self._keys.old:
            try:
                return self._verify(token, key)
            except SignatureMismatch:
                key = former
        return self._verify(token, key)

    def _verify(self, token: str, key: Key) -> Claims:
        with _reasons():
            claims = jwt.decode(
                token,
                key,
                algorithms=list(self._keys.algorithms),
                issuer=self._issuer,
                audience=self._audience,
                options={
                    "require": ["sub", "exp"],
                    "enforce_minimum_key_length": True,
                    "verify_iss": self._issuer is not None,
                    "verify_aud": self._audience is not None,
                    # Times are checked in _check_times: PyJWT reads a clock of its own, and accepts "12" as a number.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            return msgspec.convert(claims, Claims)

    def _check_times(self, claims: Claims, now: float) -> None:
        if not all(math.isfinite(instant or 0.0) for instant in (claims.iat, claims.exp, claims.nbf)):
            raise Unauthenticated("the times in the token are not numbers")
        if claims.exp + self._leeway <= now:
            raise Unauthenticated("the token has expired")
        if claims.iat is not None and claims.iat > now + self._leeway:
            raise Unauthenticated("the token was issued in the future")
        if claims.nbf is not None and claims.nbf > now + self._leeway:
            raise Unauthenticated("the token is not valid yet")

    def _remember(self, token: str, identity: Identity, until: float) -> None:
        self._cache[token] = (identity, until)
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)


def make_token(
    secret: str,
    subject: str,
    roles: Sequence[str],
    lifetime_seconds: int,
    now: float,
    *,
    issuer: str | None = None,
    audience: str | None = None,
    payloads: bool | None = None,
) -> str:
    """Return an HS256 token that an Authenticator with this secret accepts from `now` on (seconds since the epoch).

    Raises InvalidSettings if the secret is too short.
    """
    check_secret(secret.encode(), ("HS256",))
    issued = int(now)
    claims: dict[str, Any] = {
        "sub": subject,
        "roles": list(roles),
        "iat": issued,
        "exp": issued + lifetime_seconds,
        **({"iss": issuer} if issuer else {}),
        **({"aud": audience} if audience else {}),
        **({"payloads": payloads} if payloads is not None else {}),
    }
    return jwt.encode(claims, secret, algorithm="HS256")


# Claims


@contextmanager
def _reasons() -> Iterator[None]:
    """Raise Unauthenticated for every error of PyJWT and msgspec about a token."""
    try:
        yield
    except jwt.InvalidSignatureError:
        raise SignatureMismatch("the signature does not match") from None
    except jwt.InvalidAlgorithmError:
        raise Unauthenticated("the algorithm of the token is not accepted") from None
    except jwt.MissingRequiredClaimError as error:
        raise Unauthenticated(f"the claim {error.claim} is missing") from None
    except jwt.InvalidIssuerError:
        raise Unauthenticated("the token is of another issuer") from None
    except jwt.InvalidAudienceError:
        raise Unauthenticated("the token is for another audience") from None
    except jwt.DecodeError:
        raise Unauthenticated("the token is not a JWT") from None
    except jwt.InvalidKeyError:
        raise Unauthenticated("the key of the token is too short to be trusted") from None
    except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError, OverflowError):
        # The last three: PyJWT uses some claims before it has checked their types.
        raise Unauthenticated(
            "the claims have the wrong types; `sub` is text, `roles` and `servers` are lists of text, `exp` is a "
            "number, `payloads` is true or false"
        ) from None


def _identity(claims: Claims, leeway: float, *, payloads: bool) -> Identity:
    if not all(map(is_plain, (claims.sub, *claims.roles, *(claims.servers or ())))):
        raise Unauthenticated("the claims of the token contain control characters")
    return Identity(
        claims.sub,
        frozenset(claims.roles),
        min(claims.exp + leeway, LATEST),
        None if claims.servers is None else frozenset(claims.servers),
        payloads,
    )
