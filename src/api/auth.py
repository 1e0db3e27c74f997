"""Who is calling: bearer tokens (JWT, RFC 7519) checked against a secret, a public key or a JWKS document.

    Unauthenticated    this token proves nothing; the reason is safe to show (401)
    KeysUnavailable    it cannot be told, since the keys cannot be fetched; ask again later (503)

What is accepted is fixed when the service starts: one kind of key, and the algorithms that fit it. A token
chooses neither (RFC 8725, 3.1).
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm
from msgspec import Meta, Struct

from ..egress import AnswerTooLarge, read_capped
from ..settings import InvalidSettings, Settings, variable

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
Key: TypeAlias = bytes | PublicKey | jwt.PyJWK
Clock: TypeAlias = Callable[[], float]

MAX_TOKEN = 8 * 1024
"""Characters. Servers accept headers of about this size at most; a longer one only makes work."""
CACHE_ENTRIES = 4096
CACHE_SECONDS = 60.0
"""Seconds a verified token is believed without looking at its signature: a withdrawn key is obeyed this much longer."""

JWKS_TIMEOUT = 5.0
"""Seconds one fetch of the keys may take."""
JWKS_MAX = 256 * 1024
"""Bytes the JWKS document may have."""
JWKS_PAUSE = 10.0
"""Seconds between fetches at least: tokens with invented key ids must not make us flood the issuer."""
JWKS_AGE = 300.0
"""Seconds after which the keys are fetched again unasked: a key the issuer withdrew is forgotten this soon."""

# Bytes of an HMAC secret: as many as the hash gives out (RFC 7518, 3.2).
HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
MIN_RSA_BITS = 2048
ASYMMETRIC = (*RSA, *CURVES, "EdDSA")
DEFAULT_ASYMMETRIC = ("RS256", "ES256", "EdDSA")

RECIPE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'

_log = structlog.get_logger(__name__)


class Unauthenticated(Exception):
    """The token proves nothing. The text says why, repeats nothing of the token, and fits an `error_description`."""


class KeysUnavailable(Exception):
    """The keys that would tell cannot be fetched now; nothing is known about the token."""


class Identity(Struct, frozen=True):
    """Who is calling, as a verified token says."""

    subject: str
    """The user: owner of what is submitted. 1 to 256 characters, none of them a control character."""
    roles: frozenset[str]

    def has(self, *roles: str) -> bool:
        """Tell whether the caller has at least one of these roles."""
        return not self.roles.isdisjoint(roles)


class Claims(Struct, frozen=True):
    """The claims we read; a token may carry others. Times are seconds since the epoch."""

    sub: Annotated[str, Meta(min_length=1, max_length=256)]
    iat: float
    exp: float
    nbf: float | None = None
    roles: list[str] = []


class Keys(Protocol):
    """Where the key to check a token with comes from."""

    algorithms: tuple[str, ...]

    async def find(self, token: str, /) -> Key:
        """Return the key that should have signed this token.

        Raises Unauthenticated if there is none, KeysUnavailable if that cannot be told.
        """
        ...

    async def close(self) -> None: ...


class Authenticator:
    """Turns bearer tokens into identities."""

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 0,
        now: Clock = time.time,
        cache_entries: int = CACHE_ENTRIES,
    ) -> None:
        """Take the keys; `leeway` is in seconds, `now` gives seconds since the epoch, 0 `cache_entries` is no cache."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._now = now
        self._cache_entries = cache_entries
        self._cache: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        """Token -> who it is, and the instant until which that is believed. Verified tokens only."""

    @classmethod
    def from_settings(
        cls, settings: Settings, *, now: Clock = time.time, monotonic: Clock = time.monotonic
    ) -> Authenticator:
        """Build what these settings ask for; raises InvalidSettings, saying what to set, if they let no one in."""
        return cls(
            _keys(settings, monotonic),
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway=settings.jwt_leeway,
            now=now,
        )

    async def identify(self, token: str) -> Identity:
        """Return who this token belongs to.

        Raises Unauthenticated with a reason, or KeysUnavailable. Repeating is cheap: for a minute at most,
        and never past its `exp` plus leeway, a verified token is remembered.
        """
        now = self._now()
        if (known := self._cache.get(token)) is not None:
            identity, until = known
            if now < until:
                self._cache.move_to_end(token)
                return identity
            del self._cache[token]
        if len(token) > MAX_TOKEN:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN} characters")
        if not token.isascii():  # PyJWT would try to encode it, and fail otherwise on lone surrogates
            raise Unauthenticated("this is not a JWT")
        claims = self._verify(token, await self._keys.find(token))
        identity = _identity(claims)
        now = self._now()  # again: fetching keys may have taken seconds
        self._check_times(claims, now)
        self._remember(token, identity, min(claims.exp + self._leeway, now + CACHE_SECONDS))
        return identity

    async def close(self) -> None:
        """Let go of the connection to the JWKS address, if there is one. Repeating is safe."""
        await self._keys.close()

    def _verify(self, token: str, key: Key) -> Claims:
        with _reasons():
            claims = jwt.decode(
                token,
                key,
                algorithms=list(self._keys.algorithms),
                issuer=self._issuer,
                audience=self._audience,
                options={
                    "require": ["sub", "iat", "exp"],
                    "enforce_minimum_key_length": True,
                    "verify_iss": self._issuer is not None,
                    "verify_aud": self._audience is not None,
                    # Times are checked by us: PyJWT reads a clock of its own, and takes "12" for a number.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            return msgspec.convert(claims, Claims)

    def _check_times(self, claims: Claims, now: float) -> None:
        if not all(math.isfinite(instant) for instant in (claims.iat, claims.exp, claims.nbf or 0.0)):
            raise Unauthenticated("the times in the token are not numbers")
        if claims.exp + self._leeway <= now:
            raise Unauthenticated("the token has expired")
        if claims.iat > now + self._leeway:
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
) -> str:
    """Return an HS256 token that an Authenticator with this secret accepts from `now` on (seconds since the epoch).

    Raises InvalidSettings if the secret is too short.
    """
    _check_secret(secret.encode(), ("HS256",))
    issued = int(now)
    claims: dict[str, Any] = {
        "sub": subject,
        "roles": list(roles),
        "iat": issued,
        "exp": issued + lifetime_seconds,
        **({"iss": issuer} if issuer else {}),
        **({"aud": audience} if audience else {}),
    }
    return jwt.encode(claims, secret, algorithm="HS256")


class FixedKey:
    """One secret or public key, known from the start."""

    def __init__(self, key: bytes | PublicKey, algorithms: tuple[str, ...]) -> None:
        self._key = key
        self.algorithms = algorithms

    async def find(self, _token: str, /) -> Key:
        return self._key

    async def close(self) -> None:
        """Do nothing: nothing is held."""


class RemoteKeys:
    """The public keys of a JWKS document (RFC 7517), fetched when needed and kept.

    * An unknown key id fetches again, at most every JWKS_PAUSE; all who wait share one fetch.
    * Keys older than JWKS_AGE are fetched again behind the back of the request, which is served from them.
    * While the address fails, the keys from before serve on. Only a token they cannot judge gets KeysUnavailable.
    """

    def __init__(self, url: str, algorithms: tuple[str, ...], monotonic: Clock = time.monotonic) -> None:
        self.algorithms = algorithms
        self._url = url
        self._monotonic = monotonic
        self._keys: tuple[jwt.PyJWK, ...] = ()
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._failing = False
        self._fetch: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def find(self, token: str, /) -> Key:
        with _reasons():
            header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self.algorithms:
            raise Unauthenticated("the algorithm of the token is not accepted here")
        key = self._pick(kid, algorithm)
        if key is None:
            await self._refresh()
            key = self._pick(kid, algorithm)
        elif self._monotonic() - self._fetched_at > JWKS_AGE:
            self._start_fetch()
        if key is not None:
            return key
        if self._failing:  # the token may be of a new key that we could not get
            raise KeysUnavailable("the keys to check tokens with cannot be fetched")
        raise Unauthenticated("the token names no key we know")

    async def close(self) -> None:
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait([self._fetch])
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _pick(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key of this id; for a token that names none, the only one that could be meant."""
        fitting = [key for key in self._keys if key.algorithm_name == algorithm and kid in (None, key.key_id)]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    async def _refresh(self) -> None:
        """Return when a fetch has ended, or at once if the last one is too recent."""
        if (fetch := self._start_fetch()) is not None:
            # Shielded: that one caller hangs up must not end the fetch others wait for.
            await asyncio.shield(fetch)

    def _start_fetch(self) -> asyncio.Task[None] | None:
        """Return the fetch that is running, started now if need be; None if it is too early for another."""
        if self._fetch is None or self._fetch.done():
            if self._monotonic() - self._tried_at < JWKS_PAUSE:
                return None
            self._fetch = asyncio.create_task(self._replace_keys())
        return self._fetch

    async def _replace_keys(self) -> None:
        """Fetch and replace the keys; after any failure they are as before. Never raises but when cancelled."""
        try:
            self._keys = self._usable(await self._download())
            self._fetched_at = self._monotonic()
            self._failing = False
        except (aiohttp.ClientError, OSError, AnswerTooLarge, ValueError, RecursionError, jwt.PyJWTError) as error:
            self._failing = True
            _log.warning("jwks_fetch_failed", reason=type(error).__name__, keys=len(self._keys))
        finally:
            self._tried_at = self._monotonic()

    async def _download(self) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=JWKS_TIMEOUT)
            )
        async with self._session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            return await read_capped(response, JWKS_MAX)

    def _usable(self, document: bytes) -> tuple[jwt.PyJWK, ...]:
        """Return the keys of a document that can check an algorithm of ours; ValueError or PyJWTError if none can."""
        parsed = json.loads(document)
        if not isinstance(parsed, dict):
            raise jwt.PyJWKSetError("not a JWKS document")
        keys = jwt.PyJWKSet.from_dict(parsed).keys
        usable = tuple(key for key in keys if key.algorithm_name in self.algorithms and key.public_key_use != "enc")
        if not usable:
            raise ValueError("no key of an accepted algorithm")
        return usable


# Claims


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever PyJWT and msgspec find wrong with a token into Unauthenticated."""
    try:
        yield
    except jwt.InvalidSignatureError:
        raise Unauthenticated("the signature does not match") from None
    except jwt.InvalidAlgorithmError:
        raise Unauthenticated("the algorithm of the token is not accepted here") from None
    except jwt.MissingRequiredClaimError as error:
        raise Unauthenticated(f"the claim {error.claim} is missing") from None
    except jwt.InvalidIssuerError:
        raise Unauthenticated("the token is of another issuer") from None
    except jwt.InvalidAudienceError:
        raise Unauthenticated("the token is for another audience") from None
    except jwt.DecodeError:
        raise Unauthenticated("this is not a JWT") from None
    except jwt.InvalidKeyError:
        raise Unauthenticated("the key of the token is too short to be trusted") from None
    except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError, OverflowError):
        # The last three: PyJWT takes some claims for what they should be before it has looked.
        raise Unauthenticated("the claims of the token are not in the expected form") from None


def _identity(claims: Claims) -> Identity:
    if not all(map(_is_plain, (claims.sub, *claims.roles))):
        raise Unauthenticated("the claims of the token contain control characters")
    return Identity(claims.sub, frozenset(claims.roles))


def _is_plain(text: str) -> bool:
    """False for control characters, line separators and lone surrogates: they forge log lines and break encoders."""
    if text.isascii():
        return text.isprintable()
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


# Settings


def _keys(settings: Settings, monotonic: Clock) -> Keys:
    sources: Mapping[str, str | None] = {
        variable(field): getattr(settings, field) for field in ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
    }
    given = [name for name, value in sources.items() if value]
    if not given:
        raise InvalidSettings(
            f"nothing to check tokens with: set {variable('jwt_secret')} (make one with {RECIPE}), "
            f"or {variable('jwt_public_key')}, or {variable('jwt_jwks_url')}"
        )
    if len(given) > 1:
        # With a secret and a public key, a token signed with the public key as its secret could get in.
        raise InvalidSettings(f"set one of {' and '.join(given)}, not both: there is one kind of key")
    if settings.jwt_secret:
        return _secret_key(settings.jwt_secret, settings.jwt_algorithms)
    if settings.jwt_public_key:
        return _public_key(settings.jwt_public_key, settings.jwt_algorithms)
    return _remote_keys(settings.jwt_jwks_url or "", settings.jwt_algorithms, monotonic)


def _secret_key(secret: str, asked: tuple[str, ...]) -> FixedKey:
    algorithms = asked or ("HS256",)
    _insist_on(algorithms, tuple(HMAC), "a secret")
    key = secret.encode()
    _check_secret(key, algorithms)
    return FixedKey(key, algorithms)


def _check_secret(secret: bytes, algorithms: Sequence[str]) -> None:
    needed = max(HMAC[algorithm] for algorithm in algorithms)
    if len(secret) < needed:
        raise InvalidSettings(
            f"{variable('jwt_secret')} has {len(secret)} bytes, and needs at least {needed}: make one with {RECIPE}"
        )
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise InvalidSettings(
            f"{variable('jwt_secret')} is a public or private key, not a secret; a public key goes into "
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
        raise _bad_public_key("is no public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key, RSA
    if isinstance(key, RSAPublicKey):
        raise _bad_public_key(f"is an RSA key of {key.key_size} bits, and needs at least {MIN_RSA_BITS}")
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVES.values():
        return key, tuple(algorithm for algorithm, curve in CURVES.items() if curve == key.curve.name)
    if isinstance(key, Ed25519PublicKey):
        return key, ("EdDSA",)
    raise _bad_public_key("is of another kind than RSA, EC on P-256, P-384 or P-521, and Ed25519")


def _pem(text: str) -> bytes:
    if "-----BEGIN" in text:
        return text.replace("\\n", "\n").encode()  # files of variables cannot hold line ends, and write \n
    try:
        return Path(text).read_bytes()
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise _bad_public_key(f"is no PEM text, and cannot be read as a path either ({reason})") from None


def _bad_public_key(reason: str) -> InvalidSettings:
    """Say what is wrong with it; never what it is, since it might be the private key, put there by mistake."""
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
