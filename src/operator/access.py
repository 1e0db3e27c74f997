"""Where the service is, and as whom a command speaks to it."""

from __future__ import annotations

import argparse
import getpass
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from msgspec import Struct

from ..api.auth.authenticator import MAX_TOKEN, make_token
from ..api.auth.identity import is_plain
from ..settings import InvalidSettings, Settings, load, operator_settings
from .failures import WrongUsage

SIGNED_SECONDS = 900
"""Lifetime of a token that a command signs. Streams ask for a new one when it ends."""
RENEW_BEFORE_SECONDS = 60
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what an API listens on, and where to find it


class ServiceAccess(Struct, frozen=True):
    """An address and a source of tokens."""

    url: str
    """Without a trailing slash."""
    url_from: str
    """`--url`, a variable, or `the default`."""
    bearer: Callable[[], str | None]
    """Return a token that is valid now, None if there is none."""
    token_from: str
    """In words, for messages."""
    is_signed: bool = False
    """True if the command signs its tokens itself."""

    def claims(self) -> dict[str, Any]:
        """Return the claims of the token, without a check of its signature; empty if it is not readable."""
        try:
            found: dict[str, Any] = jwt.decode(self.bearer() or "", options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError):
            return {}
        return found

    @property
    def is_admin(self) -> bool:
        """True if the token has the role `admin`, as far as can be read without its key."""
        roles = self.claims().get("roles")
        return isinstance(roles, list) and "admin" in roles


def find_access(options: argparse.Namespace) -> ServiceAccess:
    """Return the access that options, variables and settings name. Raises WrongUsage and InvalidSettings."""
    given = operator_settings()
    settings = _settings_or_none(given.token is not None or bool(options.token or given.token_file))
    if options.url:
        url, url_from = options.url, "--url"
    elif given.url:
        url, url_from = given.url, "TASKSTREAM_URL"
    else:
        host = settings.host if settings else Settings().host
        port = settings.port if settings else Settings().port
        host = ANY_HOST.get(host, host)
        url, url_from = f"http://{f'[{host}]' if ':' in host else host}:{port}", "the default"
    bearer, token_from, is_signed = _token(options, given.token, given.token_file, settings)
    return ServiceAccess(_checked(url, url_from), url_from, bearer, token_from, is_signed)


def _settings_or_none(has_token: bool) -> Settings | None:
    """Return the service's settings; None if they are wrong and not needed."""
    try:
        return load()
    except InvalidSettings:
        if has_token:
            return None
        raise


def _checked(url: str, source: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise WrongUsage(f"{source}: {url!r} is not the URL of a service, such as http://127.0.0.1:8080")
    if parts.username is not None:
        raise WrongUsage(f"{source}: a user in the URL has no meaning; the service takes a token (--token)")
    return url.rstrip("/").removesuffix("/api")


def _token(
    options: argparse.Namespace, variable: str | None, file: str | None, settings: Settings | None
) -> tuple[Callable[[], str | None], str, bool]:
    chosen = options.sub is not None or bool(options.role)
    if options.token or variable or file:
        if chosen:
            raise WrongUsage("--as and --role are for tokens signed with TASKSTREAM_JWT_SECRET, but a token is given")
        if options.token:
            return (lambda: _plain(options.token, "--token")), "the token of --token", False
        if variable:
            return (lambda: _plain(variable, "TASKSTREAM_TOKEN")), "the token of TASKSTREAM_TOKEN", False
        return (lambda: _read(str(file))), f"the token in {file} (TASKSTREAM_TOKEN_FILE)", False
    if settings is None or settings.jwt_secret is None:
        if chosen:
            raise WrongUsage("--as and --role need TASKSTREAM_JWT_SECRET, which signs the token")
        return (lambda: None), "no token", False
    subject, roles = options.sub or _login(), options.role or ["admin"]
    words = f"{', '.join(roles)} {subject!r}, signed with TASKSTREAM_JWT_SECRET"
    return _Signer(settings, subject, roles), words, True


class _Signer:
    """Signs tokens with the service's secret; each is used until shortly before its end."""

    def __init__(self, settings: Settings, subject: str, roles: list[str]) -> None:
        self._settings = settings
        self._subject = subject
        self._roles = roles
        self._signed = ""
        self._until = 0.0

    def __call__(self) -> str:
        now = time.time()
        if now > self._until - RENEW_BEFORE_SECONDS:
            settings = self._settings
            assert settings.jwt_secret is not None
            self._signed = make_token(
                settings.jwt_secret,
                self._subject,
                self._roles,
                SIGNED_SECONDS,
                now,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
            )
            self._until = now + SIGNED_SECONDS
        return self._signed


def _login() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in containers
        return "operator"
    return name if is_plain(name) and 0 < len(name) <= 256 else "operator"


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_TOKEN + 2)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidSettings(f"TASKSTREAM_TOKEN_FILE={path!r}: {reason}") from None
    return _plain(content.decode(errors="replace").strip(), f"TASKSTREAM_TOKEN_FILE={path!r}")


def _plain(token: str, source: str) -> str:
    """Return a token that a header can carry. Raises InvalidSettings."""
    token = token.strip()
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSettings(f"{source}: is not a token; `taskstream token` makes one")
    return token


class ProblemDocument(Struct):
    """What is read of an error answer (RFC 9457)."""

    detail: str = ""
    error: str = ""
    path: str | None = None
    title: str = ""


def read_problem(body: bytes) -> ProblemDocument | None:
    """Return the problem document in a body; None if it is something else."""
    try:
        found = msgspec.json.decode(body, type=ProblemDocument)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.detail or found.error else None
