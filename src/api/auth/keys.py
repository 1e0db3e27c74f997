"""Keys to verify tokens with: a secret, a public key or a JWKS document.

    KeysUnavailable    the keys cannot be fetched; retry later (503)

There is one kind of key, with only the algorithms that fit it. Both are checked when the service starts: a weak key
or an algorithm of another kind raises InvalidSettings.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import aiohttp
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm

from ...settings import InvalidSettings, Settings, variable
from ...wire.body_limit import AnswerTooLarge, read_capped
from ...wire.connections import ALONE, open_session

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
Key: TypeAlias = bytes | PublicKey | jwt.PyJWK
Clock: TypeAlias = Callable[[], float]

JWKS_TIMEOUT = 5.0
"""Seconds one fetch of the keys may take."""
JWKS_MAX = 256 * 1024
"""Largest JWKS document, in bytes."""
JWKS_PAUSE = 10.0
"""Shortest time between fetches, in seconds, so tokens with invented key ids cannot flood the issuer."""
JWKS_AGE = 300.0
"""Seconds after which the keys are fetched again: a key that the issuer withdrew is dropped this soon."""

# Shortest HMAC secret in bytes: the size of the hash (RFC 7518, 3.2).
HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
MIN_RSA_BITS = 2048
ASYMMETRIC = (*RSA, *CURVES.values(), "EdDSA")
DEFAULT_ASYMMETRIC = ("RS256", "ES256", "EdDSA")

RECIPE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'

_log = structlog.get_logger(__name__)


class KeysUnavailable(Exception):
    """The keys cannot be fetched now, so the token cannot be checked."""


class VerificationKeys(Protocol):
    """A source of keys to verify tokens with."""

    algorithms: tuple[str, ...]
    """The only ones a token may be signed with."""
    old: Sequence[Key]
    """Former keys, whose tokens are still accepted."""

    async def find(self, algorithm: str, key_id: str | None, /) -> Key | None:
        """Return the key for tokens of this algorithm (one of `algorithms`) that name this key id, or no id.

        None if there is no such key. Raises KeysUnavailable if the keys cannot be fetched.
        """
        ...

    async def close(self) -> None: ...


class FixedKey:
    """One secret or public key from the settings."""

    def __init__(self, key: bytes | PublicKey, algorithms: tuple[str, ...], old: Sequence[bytes] = ()) -> None:
        self._key = key
        self.algorithms = algorithms
        self.old: Sequence[Key] = old

    async def find(self, _algorithm: str, _key_id: str | None, /) -> Key:
        return self._key

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class RemoteKeys:
    """The public keys of a JWKS document (RFC 7517), fetched when needed and cached.

    * An unknown key id causes a fetch, at most every JWKS_PAUSE; concurrent requests share one fetch.
    * Keys older than JWKS_AGE are fetched again in the background; the request uses the old ones.
    * While fetches fail, the cached keys stay in use. Only a token of an unknown key raises KeysUnavailable.
    """

    def __init__(self, url: str, algorithms: tuple[str, ...], monotonic: Clock) -> None:
        self.algorithms = algorithms
        self.old: Sequence[Key] = ()
        self._url = url
        self._monotonic = monotonic
        self._keys: tuple[jwt.PyJWK, ...] = ()
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._failing = False
        self._fetch: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def find(self, algorithm: str, key_id: str | None, /) -> Key | None:
        key = self._pick(algorithm, key_id)
        if key is None:
            await self._refresh()
            key = self._pick(algorithm, key_id)
        elif self._monotonic() - self._fetched_at > JWKS_AGE:
            self._start_fetch()
        if key is None and self._failing:  # the token may be signed with a new key that could not be fetched
            raise KeysUnavailable("the keys to verify tokens cannot be fetched; retry later")
        return key

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait([self._fetch])
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pick(self, algorithm: str, key_id: str | None) -> jwt.PyJWK | None:
        """Return the key with this id; without an id, the only key of this algorithm."""
        fitting = [key for key in self._keys if key.algorithm_name == algorithm and key_id in (None, key.key_id)]
        if key_id is None and len(fitting) > 1:
            return None
        return next(iter(fitting), None)

    async def _refresh(self) -> None:
        """Wait for a fetch; return at once if the last one is too recent."""
        if (fetch := self._start_fetch()) is not None:
            # Shielded: a caller that disconnects must not cancel the fetch that others wait for.
            await asyncio.shield(fetch)

    def _start_fetch(self) -> asyncio.Task[None] | None:
        """Return the running fetch, started now if there is none; None if the last one is too recent."""
        if self._fetch is None or self._fetch.done():
            if self._monotonic() - self._tried_at < JWKS_PAUSE:
                return None
            self._fetch = asyncio.create_task(self._replace_keys())
        return self._fetch

    async def _replace_keys(self) -> None:
        """Fetch and replace the keys; a failure leaves them unchanged. Raises only when cancelled."""
        try:
            self._keys = self._usable(await self._download())
            self._fetched_at = self._monotonic()
            self._failing = False
        except (aiohttp.ClientError, OSError, AnswerTooLarge, ValueError, RecursionError, jwt.PyJWTError) as error:
            self._failing = True
            _log.warning("jwks.failed", reason=type(error).__name__, keys=len(self._keys))
        finally:
            self._tried_at = self._monotonic()

    async def _download(self) -> bytes:
        if self._session is None:
            self._session = open_session(timeout=aiohttp.ClientTimeout(total=JWKS_TIMEOUT))
        async with self._session.get(self._url, headers=ALONE, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            return await read_capped(response, JWKS_MAX)

    def _usable(self, document: bytes) -> tuple[jwt.PyJWK, ...]:
        """Return the keys of a document for an accepted algorithm. Raises ValueError or PyJWTError if there is none."""
        parsed = json.loads(document)
        if not isinstance(parsed, dict):
            raise jwt.PyJWKSetError("not a JWKS document")
        keys = jwt.PyJWKSet.from_dict(parsed).keys
        usable = tuple(key for key in keys if key.algorithm_name in self.algorithms and key.public_key_use != "enc")
        if not usable:
            raise ValueError("no key of an accepted algorithm")
        return usable


# Settings


def keys_from_settings(settings: Settings, monotonic: Clock) -> VerificationKeys:
    """Return the keys of these settings. Raises InvalidSettings, with what to set, if there is none.

    `monotonic`: seconds since any instant.
    """
    fields = ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
    given = [variable(field) for field in fields if getattr(settings, field)]
    if len(given) > 1:
        # With a secret and a public key, a token signed with the public key as its secret could get in.
        raise InvalidSettings(f"set one of {' and '.join(given)}, not both: there is one kind of key")
    if settings.jwt_old_secrets and not settings.jwt_secret:
        raise InvalidSettings(f"{variable('jwt_old_secrets')} needs {variable('jwt_secret')}: the present secret")
    if settings.jwt_secret:
        return _secret_key(settings.jwt_secret, settings.jwt_old_secrets, settings.jwt_algorithms)
    if settings.jwt_public_key:
        return _public_key(settings.jwt_public_key, settings.jwt_algorithms)
    if settings.jwt_jwks_url:
        return _remote_keys(settings.jwt_jwks_url, settings.jwt_algorithms, monotonic)
    raise InvalidSettings(
        f"no key to verify tokens: set {variable('jwt_secret')} (make one with {RECIPE}), "
        f"or {variable('jwt_public_key')}, or {variable('jwt_jwks_url')}"
    )


def _secret_key(secret: str, old: Sequence[str], asked: tuple[str, ...]) -> FixedKey:
    algorithms = asked or ("HS256",)
    _insist_on(algorithms, tuple(HMAC), "a secret")
    key = secret.encode()
    check_secret(key, algorithms)
    former = [each.encode() for each in old]
    for each in former:
        check_secret(each, algorithms, "jwt_old_secrets")
    return FixedKey(key, algorithms, former)


def check_secret(secret: bytes, algorithms: Sequence[str], setting: str = "jwt_secret") -> None:
    """Raise InvalidSettings if the secret is too short for these HMAC algorithms, or is another kind of key."""
    needed = max(HMAC[algorithm] for algorithm in algorithms)
    if len(secret) < needed:
        raise InvalidSettings(
            f"{variable(setting)} has {len(secret)} bytes, and needs at least {needed}: make one with {RECIPE}"
        )
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise InvalidSettings(
            f"{variable(setting)} is a public or private key, not a secret; a public key goes into "
            f"{variable('jwt_public_key')}"
        ) from None


def _public_key(text: str, asked: tuple[str, ...]) -> FixedKey:
    key, fitting = _load_public_key(text)
    algorithms = asked or tuple(each for each in DEFAULT_ASYMMETRIC if each in fitting) or fitting[:1]
    _insist_on(algorithms, fitting, "this public key")
    return FixedKey(key, algorithms)


def _load_public_key(text: str) -> tuple[PublicKey, tuple[str, ...]]:
    """Return the key and the algorithms that can be used with it."""
    try:
        key = load_pem_public_key(_pem(text))
    except ValueError:
        raise _bad_public_key("is not a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise _bad_public_key(f"is an RSA key of {key.key_size} bits, and needs at least {MIN_RSA_BITS}")
        return key, RSA
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key, (CURVES[key.curve.name],)
    if isinstance(key, Ed25519PublicKey):
        return key, ("EdDSA",)
    raise _bad_public_key("is of another kind than RSA, EC on P-256, P-384 or P-521, and Ed25519")


def _pem(text: str) -> bytes:
    if "-----BEGIN" in text:
        return text.replace("\\n", "\n").encode()  # env files cannot hold line breaks, and write \n
    try:
        return Path(text).read_bytes()
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise _bad_public_key(f"is neither PEM text nor the path of a readable file ({reason})") from None


def _bad_public_key(reason: str) -> InvalidSettings:
    """Return an error that never quotes the key, which may be a private key set by mistake."""
    return InvalidSettings(f"{variable('jwt_public_key')} {reason}")


def _remote_keys(url: str, asked: tuple[str, ...], monotonic: Clock) -> RemoteKeys:
    if not url.startswith(("https://", "http://")):
        raise InvalidSettings(f"{variable('jwt_jwks_url')} must begin with https:// (or http:// in a trusted network)")
    algorithms = asked or DEFAULT_ASYMMETRIC
    _insist_on(algorithms, ASYMMETRIC, "public keys")
    return RemoteKeys(url, algorithms, monotonic)


def _insist_on(algorithms: Sequence[str], fitting: Sequence[str], key: str) -> None:
    for algorithm in algorithms:
        if algorithm not in fitting:
            raise InvalidSettings(
                f"{variable('jwt_algorithms')}: {algorithm} cannot be used with {key}; {', '.join(fitting)} can"
            )
