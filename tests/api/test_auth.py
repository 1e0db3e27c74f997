"""Tokens are accepted only with a signature of the configured key, a subject and an expiry."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from taskstream.api.auth.authenticator import (
    CACHE_SECONDS,
    LATEST,
    MAX_TOKEN,
    Authenticator,
    Identity,
    KeysUnavailable,
    Unauthenticated,
    make_token,
)
from taskstream.api.auth.keys import JWKS_AGE, JWKS_PAUSE, FixedKey, RemoteKeys
from taskstream.settings import InvalidSettings, Settings
from testkit.http_server import HttpServer
from testkit.raw_server import RawServer, answer
from testkit.waiting import wait_until

SECRET = "a secret of thirty-two bytes or more"
NOW = 1_800_000_000.0
LEEWAY = 10.0

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE_KEYS: dict[str, Any] = {"RS256": RSA_KEY, "PS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}
OTHER_KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


class Clock:
    """A clock that stands still until a test advances it."""

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += seconds


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return good claims, with changes; a change to None leaves the claim out."""
    good = {"sub": "ada", "roles": ["user"], "iat": NOW, "exp": NOW + 600}
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def hand_made(header: Mapping[str, Any], payload: bytes, secret: bytes | None = SECRET.encode()) -> str:
    """Return a token PyJWT would refuse to make; signed with HMAC-SHA256, or not at all."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = f"{part(json.dumps(header).encode())}.{part(payload)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256)) if secret is not None else ''}"


def build(now: Clock | None = None, monotonic: Clock | None = None, **settings: Any) -> Authenticator:
    """Return an authenticator with these settings; with the secret if no key is given."""
    if not {"jwt_public_key", "jwt_jwks_url"} & settings.keys():
        settings.setdefault("jwt_secret", SECRET)
    asked = Settings(jwt_leeway=settings.pop("jwt_leeway", LEEWAY), **settings)
    return Authenticator.from_settings(asked, now=now or Clock(), monotonic=monotonic or Clock())


async def refuses(authenticator: Authenticator, text: str, reason: str) -> None:
    with pytest.raises(Unauthenticated, match=reason) as raised:
        await authenticator.identify(text)
    # RFC 6750, 3: what an error_description may consist of.
    assert all(" " <= character <= "~" and character not in '"\\' for character in str(raised.value))
    assert len(str(raised.value)) < 150


# Identities


async def test_a_good_token_names_the_subject_and_its_roles() -> None:
    identity = await build().identify(token(roles=["user", "admin"]))
    assert identity == Identity("ada", frozenset({"user", "admin"}), NOW + 600 + LEEWAY)


def test_one_of_several_roles_is_enough() -> None:
    identity = Identity("ada", frozenset({"user", "service"}))
    assert identity.has("admin", "service")
    assert not identity.has("admin", "auditor")
    assert not identity.has()


async def test_no_roles_means_none() -> None:
    assert (await build().identify(token(roles=None))).roles == frozenset()


NO_ROLES: list[Any] = ["admin", {"admin": True}, ["admin", 1], [None], 7, [["admin"]], ["a\nb"], None]
NO_SUBJECTS = ["", "x" * 257, "a\nb", "a\x00", "\x7f", "é\x85", "é\u2028", "a\ud800", 7, ["ada"], True]
NO_TIMES: list[Any] = ["1800000600", True, [], {}, 1e999, -1e999, float("nan")]


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("roles", NO_ROLES),
        ("servers", NO_ROLES[:-1]),
        ("sub", NO_SUBJECTS),
        ("exp", NO_TIMES),
        ("iat", NO_TIMES),
        ("nbf", NO_TIMES),
    ],
)
async def test_a_claim_of_another_shape_is_refused(claim: str, values: list[Any]) -> None:
    for value in values:
        payload = json.dumps({**claims(), claim: value}).encode()
        await refuses(build(), hand_made({"alg": "HS256"}, payload), "claim|times")


@pytest.mark.parametrize("subject", ["ada", "Zoë 👩‍👩‍👧 سلام", "x" * 256, "a b", "*", ">"])
async def test_a_subject_is_any_text(subject: str) -> None:
    assert (await build().identify(token(sub=subject))).subject == subject


# Signatures


async def test_another_secret_is_refused() -> None:
    await refuses(build(), token(SECRET + "!"), "signature")


async def test_changed_claims_are_refused() -> None:
    head, _, signature = token().split(".")
    _, body, _ = token(sub="eve").split(".")
    await refuses(build(), f"{head}.{body}.{signature}", "signature")


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, "HS512", "RS256", "XX", 7, ["HS256"]])
async def test_the_token_does_not_choose_the_algorithm(alg: Any) -> None:
    payload = json.dumps(claims()).encode()
    for secret in (None, b"", SECRET.encode()):
        await refuses(build(), hand_made({"alg": alg, "typ": "JWT"}, payload, secret), "algorithm|claims")
    await refuses(build(), hand_made({"typ": "JWT"}, payload), "algorithm")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("ending", ["", "\n"])
async def test_a_public_key_is_never_used_as_a_secret(algorithm: str, ending: str) -> None:
    public = pem(RSA_KEY).strip() + ending
    forged = hand_made({"alg": algorithm}, json.dumps(claims()).encode(), public.encode())
    await refuses(build(jwt_public_key=public), forged, "algorithm")


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a.b.c", "x" * 100, "Bearer x.y.z", "é.é.é", "\ud800", "e30.e30.", "e30..", "W10.e30.AA",
        "\x00", "{}", hand_made({"alg": "HS256"}, b"[" * 5000),
    ],
)  # fmt: skip
async def test_what_is_no_jwt_is_refused(text: str) -> None:
    await refuses(build(), text, "JWT|algorithm")


@given(text=st.text() | st.builds("{}.{}.{}".format, *[st.text("AQaez_-01.=", max_size=40)] * 3))
async def test_any_text_is_refused_and_nothing_else(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await build().identify(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text()
    | st.sampled_from([NOW, 10**400, -1, "1", "ada"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.sampled_from(["kid", "crit", "b64", "typ", "x"])
NAMES = st.sampled_from(["sub", "roles", "servers", "iat", "exp", "nbf", "iss", "aud", "jti", "x"])


@given(changes=st.dictionaries(NAMES, JSON), header=st.dictionaries(HEADERS, JSON))
async def test_any_claims_are_an_identity_or_refused(changes: dict[str, Any], header: dict[str, Any]) -> None:
    payload = json.dumps({**claims(), **changes}).encode()
    authenticator = build(jwt_issuer="us", jwt_audience="here") if "iss" in changes or "aud" in changes else build()
    with suppress(Unauthenticated):
        assert isinstance(await authenticator.identify(hand_made({"alg": "HS256", **header}, payload)), Identity)


async def test_a_token_is_read_up_to_its_longest_length() -> None:
    fitting = token(pad="x" * 100)
    longer = token(pad="x" * (100 + (MAX_TOKEN - len(fitting)) * 3 // 4 - 3))
    assert MAX_TOKEN - 10 < len(longer) <= MAX_TOKEN
    await build().identify(longer)
    await refuses(build(), token(pad="x" * MAX_TOKEN), "longer than 8192")


# Claims


async def test_a_token_without_an_instant_of_issue_is_accepted() -> None:
    assert (await build().identify(token(iat=None))).subject == "ada"


@pytest.mark.parametrize("expires", [10**12, 1e18, 2**63, 1.7e308])
async def test_an_expiry_far_away_is_the_end_of_the_year_9999(expires: float) -> None:
    assert (await build().identify(token(exp=expires))).expires_at == LATEST


@pytest.mark.parametrize("claim", ["sub", "exp"])
async def test_a_missing_claim_is_named(claim: str) -> None:
    without: dict[str, Any] = {claim: None}
    await refuses(build(), token(**without), f"the claim {claim} is missing")


async def test_a_token_is_valid_until_its_expiry_plus_the_leeway() -> None:
    clock = Clock(NOW + 600 + LEEWAY - 0.1)
    await build(clock).identify(token())
    clock.advance(0.1)
    await refuses(build(clock), token(), "expired")


async def test_a_token_from_the_future_is_refused_beyond_the_leeway() -> None:
    await build().identify(token(iat=NOW + LEEWAY))
    await refuses(build(), token(iat=NOW + LEEWAY + 1), "future")
    await build().identify(token(nbf=NOW + LEEWAY))
    await refuses(build(), token(nbf=NOW + LEEWAY + 1), "not valid yet")


async def test_issuer_and_audience_count_when_configured() -> None:
    authenticator = build(jwt_issuer="https://id.example", jwt_audience="taskstream")
    good: dict[str, Any] = {"iss": "https://id.example", "aud": ["other", "taskstream"]}
    await authenticator.identify(token(**good))
    await refuses(authenticator, token(**{**good, "iss": "https://evil.example"}), "another issuer")
    await refuses(authenticator, token(**{**good, "aud": "other"}), "another audience")
    await refuses(authenticator, token(**{**good, "iss": None}), "iss|issuer")
    await refuses(authenticator, token(**{**good, "aud": None}), "aud")
    await build().identify(token(iss="anyone", aud="anything"))


# Remembering


async def test_a_remembered_token_expires_on_time() -> None:
    clock = Clock()
    authenticator = build(clock)
    text = token(exp=NOW + 20)
    clock.advance(20 + LEEWAY - 0.1)
    assert (await authenticator.identify(text)).subject == "ada"
    assert (await authenticator.identify(text)).subject == "ada"
    clock.advance(0.1)
    await refuses(authenticator, text, "expired")


async def test_a_token_is_verified_once_a_minute_and_not_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = count_calls(monkeypatch, "decode")
    clock = Clock()
    authenticator = build(clock)
    text = token()
    for _ in range(5):
        await authenticator.identify(text)
    assert len(verified) == 1
    clock.advance(CACHE_SECONDS)
    await authenticator.identify(text)
    assert len(verified) == 2


async def test_only_the_latest_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = count_calls(monkeypatch, "decode")
    authenticator = Authenticator(FixedKey(SECRET.encode(), ("HS256",)), now=Clock(), cache_entries=2)
    first, second, third = (token(sub=name) for name in ("a", "b", "c"))
    for text in (first, second, first, third):  # the second is the one used longest ago
        await authenticator.identify(text)
    assert len(verified) == 3
    assert [(await authenticator.identify(text)).subject for text in (first, third)] == ["a", "c"]
    assert len(verified) == 3
    await authenticator.identify(second)
    assert len(verified) == 4


async def test_a_refused_token_is_not_remembered() -> None:
    authenticator = build()
    for _ in range(2):
        await refuses(authenticator, token(SECRET + "!"), "signature")


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[None]:
    calls: list[None] = []
    original = getattr(jwt, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return original(*args, **kwargs)

    monkeypatch.setattr(jwt, name, counting)
    return calls


# Tokens of our own


async def test_a_token_made_by_us_is_accepted_and_needs_a_long_secret() -> None:
    clock = Clock()
    made = make_token(SECRET, "ada", ["admin"], 60, NOW)
    assert await build(clock).identify(made) == Identity("ada", frozenset({"admin"}), NOW + 60 + LEEWAY)
    clock.advance(60 + LEEWAY)
    await refuses(build(clock), made, "expired")
    made = make_token(SECRET, "ada", [], 60, NOW, issuer="us", audience="here")
    await build(jwt_issuer="us", jwt_audience="here").identify(made)
    with pytest.raises(InvalidSettings, match="at least 32"):
        make_token("x" * 31, "ada", [], 60, NOW)


# Settings


JWKS_URL = "https://id.example/jwks"
RSA_PEM, EC_PEM = pem(RSA_KEY), pem(EC_KEY)
EC_PRIVATE_PEM = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
SMALL_PEM = pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))
ODD_PEM = pem(ec.generate_private_key(ec.SECP256K1()))
NO_KEY = r"JWT_SECRET .*secrets\.token_urlsafe\(32\).*TASKSTREAM_JWT_PUBLIC_KEY.*TASKSTREAM_JWT_JWKS_URL"
WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({}, NO_KEY),
    ({"jwt_secret": SECRET, "jwt_public_key": RSA_PEM}, "JWT_SECRET and TASKSTREAM_JWT_PUBLIC_KEY"),
    ({"jwt_secret": SECRET, "jwt_jwks_url": JWKS_URL}, "one of"),
    ({"jwt_public_key": RSA_PEM, "jwt_jwks_url": JWKS_URL}, "one of"),
    ({"jwt_secret": "x" * 31}, "31 bytes.*at least 32.*token_urlsafe"),
    ({"jwt_secret": "x" * 63, "jwt_algorithms": ("HS256", "HS512")}, "at least 64"),
    ({"jwt_secret": RSA_PEM}, "not a secret"),
    ({"jwt_public_key": EC_PRIVATE_PEM}, "not a public key in PEM form"),
    ({"jwt_public_key": EC_PEM.replace("M", "!")}, "not a public key in PEM form"),
    ({"jwt_public_key": SMALL_PEM}, "1024 bits"),
    ({"jwt_public_key": ODD_PEM}, "another kind"),
    ({"jwt_public_key": "/nonexistent/key.pem"}, "path"),
    ({"jwt_jwks_url": "file:///etc/passwd"}, "https://"),
    *[
        ({"jwt_secret": SECRET, "jwt_algorithms": ("HS256", name)}, f"TASKSTREAM_JWT_ALGORITHMS: {name} ")
        for name in ("none", "RS256", "EdDSA", "hs256", "HS1")
    ],
    *[
        ({"jwt_public_key": RSA_PEM, "jwt_algorithms": ("RS256", name)}, f"{name} cannot")
        for name in ("none", "HS256", "HS512", "ES256", "EdDSA")
    ],
    *[
        ({"jwt_jwks_url": JWKS_URL, "jwt_algorithms": ("RS256", name)}, f"{name} cannot")
        for name in ("none", "HS256", "XX")
    ],
]


def test_settings_that_can_check_no_token_are_refused_and_not_repeated() -> None:
    for settings, match in WRONG_SETTINGS:
        with pytest.raises(InvalidSettings, match=match) as raised:
            Authenticator.from_settings(Settings(**settings))
        for value in settings.values():
            assert not isinstance(value, str) or value not in str(raised.value)  # it may be a secret
    build(jwt_secret="é" * 16)  # the length counts in bytes


def test_the_secret_is_in_no_repr() -> None:
    authenticator = build()
    assert SECRET not in repr(authenticator) + repr(vars(authenticator))


# Public keys


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_public_key_checks_what_its_private_key_signed(algorithm: str, tmp_path: Path) -> None:
    key = PRIVATE_KEYS[algorithm]
    path = tmp_path / "key.pem"
    path.write_text(pem(key))
    good = token(key, algorithm)
    for given_as in (pem(key), pem(key).replace("\n", "\\n"), str(path)):
        assert (await build(jwt_public_key=given_as).identify(good)).subject == "ada"
    await refuses(build(jwt_public_key=pem(OTHER_KEYS[algorithm])), good, "signature")


async def test_a_public_key_checks_other_algorithms_when_asked_to() -> None:
    good = token(RSA_KEY, "PS256")
    await build(jwt_public_key=pem(RSA_KEY), jwt_algorithms=("PS256",)).identify(good)
    await refuses(build(jwt_public_key=pem(RSA_KEY)), good, "algorithm")
    big = ec.generate_private_key(ec.SECP384R1())
    await build(jwt_public_key=pem(big)).identify(token(big, "ES384"))


# JWKS: a real server on 127.0.0.1


class Issuer(HttpServer):
    """A server that hands out public keys, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[dict[str, Any]] = []
        self.fetches = 0
        self.answer: Callable[[], Awaitable[web.StreamResponse]] = self._keys

    @property
    def url(self) -> str:
        return f"{self.base_url}/jwks"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.fetches += 1
        return await self.answer()

    async def _keys(self) -> web.StreamResponse:
        return web.json_response({"keys": self.keys})

    async def broken(self) -> web.StreamResponse:
        return web.Response(status=500)

    def publish(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def remote(issuer: Issuer, clock: Clock) -> AsyncIterator[Authenticator]:
    """Return an authenticator with the issuer's keys; `clock` is all its time."""
    made = build(clock, clock, jwt_jwks_url=issuer.url)
    yield made
    await made.close()


def jwk(algorithm: str, kid: str | None, key: Any = None, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(
        (key or PRIVATE_KEYS[algorithm]).public_key(), as_dict=True
    )
    return {**made, **({"kid": kid} if kid else {}), **more}


def signed(algorithm: str, kid: str | None, key: Any = None, **changes: Any) -> str:
    return token(key or PRIVATE_KEYS[algorithm], algorithm, {"kid": kid} if kid else None, **changes)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_keys_are_fetched_once_and_chosen_by_id(issuer: Issuer, remote: Authenticator, algorithm: str) -> None:
    issuer.publish(*[jwk(each, f"key-{each}") for each in ("RS256", "ES256", "EdDSA")])
    for subject in ("ada", "grace"):
        assert (await remote.identify(signed(algorithm, f"key-{algorithm}", sub=subject))).subject == subject
    assert issuer.fetches == 1


async def test_a_key_is_used_with_its_own_algorithm_only(issuer: Issuer, remote: Authenticator) -> None:
    issuer.publish(jwk("RS256", "a"), jwk("ES256", "b"))
    await refuses(remote, signed("ES256", "a"), "no key that is known")
    await refuses(remote, signed("PS256", "a"), "algorithm")


@pytest.mark.parametrize("alg", ["none", "HS256"])
async def test_secret_and_no_signature_are_never_accepted_from_a_jwks_document(
    issuer: Issuer, remote: Authenticator, alg: str
) -> None:
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    issuer.publish(jwk("RS256", "a"), {"kty": "oct", "k": secret, "kid": "s", "alg": "HS256"})
    forged = hand_made(
        {"alg": alg, "kid": "s"}, json.dumps(claims()).encode(), SECRET.encode() if alg == "HS256" else None
    )
    await refuses(remote, forged, "algorithm")
    assert issuer.fetches == 0


@pytest.mark.parametrize("header", [{"alg": "ES256", "kid": 7}, {"alg": ["ES256"], "kid": "a"}, {"kid": "a"}])
async def test_a_header_of_another_shape_is_refused_and_nothing_fetched(
    issuer: Issuer, remote: Authenticator, header: dict[str, Any]
) -> None:
    await refuses(remote, hand_made(header, json.dumps(claims()).encode()), "claims|algorithm")
    assert issuer.fetches == 0


async def test_a_token_without_key_id_means_the_only_key_that_fits(
    issuer: Issuer, remote: Authenticator, clock: Clock
) -> None:
    issuer.publish(jwk("RS256", None), jwk("ES256", "b"), jwk("EdDSA", "c", use="enc"))
    await remote.identify(signed("RS256", None))
    await remote.identify(signed("ES256", None))
    await refuses(remote, signed("EdDSA", None), "no key")  # for encryption
    issuer.publish(jwk("ES256", "b"), jwk("ES256", "c", OTHER_KEYS["ES256"]))
    clock.advance(JWKS_PAUSE)
    await refuses(remote, signed("EdDSA", None), "no key")  # which made it fetch
    await refuses(remote, signed("ES256", None, sub="grace"), "no key")


async def test_a_new_key_is_found_when_a_token_names_it(issuer: Issuer, remote: Authenticator, clock: Clock) -> None:
    issuer.publish(jwk("ES256", "old"))
    await remote.identify(signed("ES256", "old"))
    new = OTHER_KEYS["ES256"]
    issuer.publish(jwk("ES256", "old"), jwk("ES256", "new", new))
    clock.advance(JWKS_PAUSE)
    await remote.identify(signed("ES256", "new", new))
    await remote.identify(signed("ES256", "old", sub="grace"))
    assert issuer.fetches == 2


async def test_invented_key_ids_do_not_flood_the_issuer(issuer: Issuer, remote: Authenticator, clock: Clock) -> None:
    issuer.publish(jwk("ES256", "a"))
    for number in range(20):
        await refuses(remote, signed("ES256", f"invented-{number}"), "no key that is known")
    assert issuer.fetches == 1
    clock.advance(JWKS_PAUSE)
    for number in range(20):
        await refuses(remote, signed("ES256", f"invented-{number}"), "no key that is known")
    assert issuer.fetches == 2


async def test_concurrent_requests_share_one_fetch(issuer: Issuer, remote: Authenticator) -> None:
    issuer.publish(jwk("ES256", "a"))
    gate = asyncio.Event()

    async def held() -> web.StreamResponse:
        await gate.wait()
        return web.json_response({"keys": issuer.keys})

    issuer.answer = held
    waiting = [asyncio.create_task(remote.identify(signed("ES256", "a", sub=f"user-{each}"))) for each in range(10)]
    await wait_until(lambda: issuer.fetches == 1, "the fetch")
    waiting[0].cancel()  # a client that hangs up does not cancel the others
    gate.set()
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert [each.subject for each in done[1:] if isinstance(each, Identity)] == [
        f"user-{each}" for each in range(1, 10)
    ]
    assert issuer.fetches == 1


async def test_known_keys_serve_on_while_the_address_fails(issuer: Issuer, remote: Authenticator, clock: Clock) -> None:
    issuer.publish(jwk("ES256", "a"))
    await remote.identify(signed("ES256", "a"))
    issuer.answer = issuer.broken
    for hour in range(1, 4):
        clock.advance(3600)
        lasting = signed("ES256", "a", sub=f"user-{hour}", exp=NOW + 86400)
        assert (await remote.identify(lasting)).subject == f"user-{hour}"
        await fetched(remote)
        assert issuer.fetches == 1 + hour
    # A token that the known keys cannot check is not called bad.
    with pytest.raises(KeysUnavailable):
        await remote.identify(signed("ES256", "new", exp=NOW + 86400))


async def test_without_any_keys_no_token_is_called_bad(issuer: Issuer, remote: Authenticator, clock: Clock) -> None:
    issuer.answer = issuer.broken
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await remote.identify(signed("ES256", "a"))
    assert issuer.fetches == 1
    issuer.publish(jwk("ES256", "a"))
    issuer.answer = issuer._keys
    clock.advance(JWKS_PAUSE)
    await remote.identify(signed("ES256", "a"))


async def test_a_withdrawn_key_is_forgotten(issuer: Issuer, remote: Authenticator, clock: Clock) -> None:
    issuer.publish(jwk("ES256", "stolen"), jwk("RS256", "a"))
    stolen = signed("ES256", "stolen", exp=NOW + 86400)
    await remote.identify(stolen)
    issuer.publish(jwk("RS256", "a"))
    clock.advance(JWKS_AGE + 1)
    await remote.identify(stolen)  # served from what is known, and fetched behind it
    await fetched(remote)
    assert issuer.fetches == 2
    await remote.identify(stolen)  # remembered
    clock.advance(CACHE_SECONDS)
    await refuses(remote, stolen, "no key that is known")


async def large() -> web.StreamResponse:
    return web.Response(body=json.dumps({"keys": [jwk("ES256", "a")], "pad": "x" * 300_000}).encode())


def body(text: str) -> Callable[[], Awaitable[web.StreamResponse]]:
    async def answer() -> web.StreamResponse:
        return web.Response(text=text)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        large, body(""), body("<html>"), body("[]"), body("{}"), body('{"keys": {}}'), body('{"keys": [1]}'),
        body('{"keys": [{"kty": "EC"}]}'), body('{"keys": 7}'), body("[" * 10_000),
        body('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}'),
    ],
)  # fmt: skip
async def test_an_unusable_document_gives_no_keys(
    issuer: Issuer, remote: Authenticator, answer: Callable[[], Awaitable[web.StreamResponse]]
) -> None:
    issuer.answer = answer
    with pytest.raises(KeysUnavailable):
        await remote.identify(signed("ES256", "a"))


async def test_a_redirect_is_not_followed(issuer: Issuer, remote: Authenticator) -> None:
    issuer.publish(jwk("ES256", "a"))

    async def redirect() -> web.StreamResponse:
        issuer.answer = issuer._keys
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    issuer.answer = redirect
    with pytest.raises(KeysUnavailable):
        await remote.identify(signed("ES256", "a"))
    assert issuer.fetches == 1


async def test_a_published_key_that_is_too_small_is_refused(issuer: Issuer, remote: Authenticator) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    issuer.publish(jwk("RS256", "a", small))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        weak = signed("RS256", "a", small)
    await refuses(remote, weak, "too short")


async def test_without_an_issuer_there_are_no_keys(clock: Clock) -> None:
    remote = build(clock, clock, jwt_jwks_url="http://127.0.0.1:1/jwks")
    with pytest.raises(KeysUnavailable):
        await remote.identify(signed("ES256", "a"))
    await remote.close()
    await remote.close()


async def test_an_issuer_that_does_not_answer_is_given_up(
    issuer: Issuer, remote: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskstream.api.auth.keys.JWKS_TIMEOUT", 0.05)

    async def silent() -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    issuer.answer = silent
    with pytest.raises(KeysUnavailable):
        await asyncio.wait_for(remote.identify(signed("ES256", "a")), 60)


async def test_a_document_nobody_asked_for_gives_no_keys(clock: Clock) -> None:
    ours, theirs = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    documents = [answer(json.dumps({"keys": [jwk("ES256", "a", key)]}).encode()) for key in (ours, theirs)]
    async with RawServer(lambda _: documents[0]) as server:
        remote = build(clock, clock, jwt_jwks_url=server.url)
        for subject in ("ada", "grace", "joan"):
            await refuses(remote, signed("ES256", "unknown"), "no key that is known")  # which fetches
            await remote.identify(signed("ES256", "a", ours, sub=subject))
            await refuses(remote, signed("ES256", "a", theirs), "signature")
            server.connections[-1].send(documents[1])
            clock.advance(JWKS_PAUSE)
        await remote.close()
    assert len(server.requests) == 3


async def fetched(remote: Authenticator) -> None:
    """Return when the fetch that goes on behind the requests has ended."""
    keys = remote._keys
    assert isinstance(keys, RemoteKeys)
    assert keys._fetch is not None
    await keys._fetch


# Rotation of the secret


OLD_SECRET = "the secret of last year, also of 32 bytes"


async def test_a_token_of_a_former_secret_is_accepted_until_that_is_removed() -> None:
    text = make_token(OLD_SECRET, "ada", ["user"], 600, NOW)
    both = build(jwt_old_secrets=("another former secret, of 32 bytes", OLD_SECRET))

    assert (await both.identify(text)).subject == "ada"
    assert (await both.identify(token())).subject == "ada"
    await refuses(build(), text, "signature does not match")
    await refuses(
        both, make_token("a secret that was never one of ours", "ada", [], 600, NOW), "signature does not match"
    )


async def test_a_former_secret_opens_no_expired_token() -> None:
    text = make_token(OLD_SECRET, "ada", ["user"], 600, NOW - 3600)

    await refuses(build(jwt_old_secrets=(OLD_SECRET,)), text, "expired")


def test_former_secrets_are_as_long_and_need_a_present_one() -> None:
    with pytest.raises(InvalidSettings, match=r"JWT_OLD_SECRETS has 5 bytes.*at least 32"):
        build(jwt_old_secrets=("short",))
    with pytest.raises(InvalidSettings, match=r"JWT_OLD_SECRETS needs TASKSTREAM_JWT_SECRET"):
        Authenticator.from_settings(Settings(jwt_old_secrets=(OLD_SECRET,)))
