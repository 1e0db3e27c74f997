"""Access to NATS: server URLs, TLS certificates, passwords and credentials files.

Files are read again at each connection, so a renewed certificate or credential needs no restart. Passwords in URLs are
for NATS and are never shown.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import nkeys  # type: ignore[import-untyped]
from msgspec import Struct
from msgspec.structs import replace

from ...instants import from_seconds
from ...settings import InvalidSettings, Settings, variable

DEFAULT_PORT = 4222
CLUSTER_REPLICAS = 3
"""Copies of every stream on an embedded cluster: one server may be away."""
MEANT_FOR_A_GIVEN_NATS = (
    *("nats_ca", "nats_cert", "nats_key", "nats_user", "nats_password", "nats_token", "nats_creds"),
    *("nats_placement_cluster", "nats_placement_tags"),
)
JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+([\w.=-]+)\s+-+END NATS USER JWT-+")
SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(S\w+)\s+-+END USER NKEY SEED-+")


class Credentials(NamedTuple):
    """The content of a `.creds` file: a user JWT, and the seed of the key that proves it."""

    jwt: str
    seed: str

    def __repr__(self) -> str:
        return "Credentials(…)"

    @property
    def expires_at(self) -> datetime | None:
        """When the JWT expires, UTC; None: never, or the JWT cannot be read."""
        try:
            body = self.jwt.split(".")[1]
            claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            return from_seconds(claims["exp"]) if claims.get("exp") else None
        except (IndexError, ValueError, TypeError, AttributeError, OverflowError, msgspec.MsgspecError):
            return None

    def sign(self, nonce: str) -> bytes:
        """Return the signature of a nonce in base64. Raises ValueError or nkeys.NkeysError for a damaged seed."""
        pair = nkeys.from_seed(bytearray(self.seed.encode()))
        signature: bytes = pair.sign(nonce.encode())
        pair.wipe()
        return base64.b64encode(signature)


def read_credentials(path: str) -> Credentials:
    """Return the content of a `.creds` file. Raises InvalidSettings."""
    name = variable("nats_creds")
    try:
        text = Path(path).read_text()
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{name}={path!r}: {getattr(error, 'strerror', None) or error}") from None
    jwt, seed = JWT.search(text), SEED.search(text)
    if jwt is None or seed is None:
        raise InvalidSettings(
            f"{name}={path!r}: not a credentials file: it must contain a NATS user JWT and its NKEY seed"
        )
    credentials = Credentials(jwt[1], seed[1])
    try:
        credentials.sign("")
    except (ValueError, nkeys.NkeysError):
        raise InvalidSettings(f"{name}={path!r}: its NKEY seed is damaged") from None
    return credentials


class Access(Struct, frozen=True, kw_only=True):
    """The access settings; None where unset."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    inbox_prefix: str = "_INBOX"
    tls: bool = False
    """True: a server that offers no TLS is refused."""

    def __repr__(self) -> str:
        return f"Access(user={self.user!r}, tls={self.tls}, …)"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the access that the settings describe. Raises InvalidSettings as `check` does."""
        access = cls(
            tls=settings.nats_ca is not None or settings.nats_cert is not None,
            **{field: getattr(settings, f"nats_{field}") for field in cls.__struct_fields__ if field != "tls"},
        )
        access.check()
        return access

    def check(self) -> None:
        """Raise InvalidSettings for settings that contradict each other and for files that cannot be read."""
        if self.key and not self.cert:
            raise InvalidSettings(f"{variable('nats_key')} needs a certificate: set {variable('nats_cert')} too")
        if self.password is not None and not self.user:
            raise InvalidSettings(f"{variable('nats_password')} needs a user: set {variable('nats_user')} too")
        if self.user and self.password is None:
            raise InvalidSettings(f"{variable('nats_user')} needs a password: set {variable('nats_password')} too")
        if sum(map(bool, (self.user, self.token, self.creds))) > 1:
            names = ", ".join(map(variable, ("nats_user", "nats_token", "nats_creds")))
            raise InvalidSettings(f"set only one of {names} (or user and password in the URL)")
        if self.ca or self.cert:  # without files nothing can be wrong, and the certificates of the system load slowly
            self.ssl_context()
        if self.creds:
            read_credentials(self.creds)

    def for_servers(self, servers: Sequence[SplitResult]) -> Self:
        """Return the access with user, password, token and TLS as the servers' URLs have them.

        Raises InvalidSettings if two URLs, or a URL and the settings, contradict each other.
        """
        tls = self.tls or any(server.scheme == "tls" for server in servers)
        said = {(server.username, server.password) for server in servers if server.username}
        if not said:
            return replace(self, tls=tls)
        if len(said) > 1:
            raise InvalidSettings(f"{variable('nats_url')}: all servers must have the same user and password")
        [(user, password)] = said
        given = (
            {"token": unquote(user or "")}
            if password is None
            else {"user": unquote(user or ""), "password": unquote(password)}
        )
        access = replace(self, tls=tls, **given)
        access.check()
        return access

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS context. Raises InvalidSettings with the name of the setting whose file is bad."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ValueError) as error:
            raise InvalidSettings(f"{variable('nats_ca')}={self.ca!r}: {reason(error)}") from None
        if self.cert:
            try:
                context.load_cert_chain(self.cert, self.key, password=_refuse_to_ask)
            except (OSError, ValueError) as error:
                names = variable("nats_cert") + (f" and {variable('nats_key')}" if self.key else "")
                files = f"{self.cert!r} and {self.key!r}" if self.key else f"{self.cert!r}"
                raise InvalidSettings(f"{names}, {files}: {reason(error)}") from None
        return context

    def credentials(self) -> Credentials:
        """Return the current content of the credentials file. Raises InvalidSettings."""
        assert self.creds is not None
        return read_credentials(self.creds)


ANYBODY = Access()
"""Access to a NATS without authentication."""


def check_none_given(settings: Settings) -> None:
    """Raise InvalidSettings if a setting is given that only an external NATS can use."""
    given = [variable(field) for field in MEANT_FOR_A_GIVEN_NATS if getattr(settings, field)]
    if given:
        raise InvalidSettings(
            f"{', '.join(given)} applies to an external NATS only: set {variable('nats_url')} too, or unset it"
        )


def for_up(settings: Settings) -> Settings:
    """Return the settings of `taskstream up`. Raises InvalidSettings for those of an embedded NATS beside another."""
    if settings.nats_url is None:
        return for_embedded(settings)
    if settings.cluster > 1:
        raise InvalidSettings("--cluster starts embedded NATS servers, but TASKSTREAM_NATS_URL is set: unset one")
    return settings


def for_embedded(settings: Settings) -> Settings:
    """Return the settings for an embedded NATS. Raises InvalidSettings for settings of an external one."""
    check_none_given(settings)
    if settings.cluster == 1:
        if settings.replicas > 1:
            raise InvalidSettings(f"{settings.replicas} replicas need {settings.replicas} NATS servers: set --cluster")
        return settings
    if settings.replicas > settings.cluster:
        raise InvalidSettings(
            f"{settings.replicas} replicas need {settings.replicas} NATS servers, but --cluster is {settings.cluster}"
        )
    return replace(settings, replicas=max(settings.replicas, CLUSTER_REPLICAS))


def without_external_nats(settings: Settings) -> Settings:
    """Return the settings with the defaults of all that only an external NATS can use."""
    defaults = Settings()
    given = ("nats_url", "nats_monitor_url", *MEANT_FOR_A_GIVEN_NATS)
    return replace(settings, **{name: getattr(defaults, name) for name in given})


def reason(error: Exception) -> str:
    """Return in a few words what is wrong with a file."""
    if isinstance(error, ssl.SSLError):
        return f"holds no usable certificate or key ({(error.reason or str(error)).lower().replace('_', ' ')})"
    return getattr(error, "strerror", None) or str(error)


def _refuse_to_ask(*_: Any) -> str:
    raise ValueError("the key is encrypted: use an unencrypted key file")


def servers_of(url: str) -> list[SplitResult]:
    """Return the servers of a comma-separated list. Raises InvalidSettings, whose text repeats no password."""
    servers = []
    for part in filter(None, map(str.strip, url.split(","))):
        whole = part if "://" in part else f"nats://{part}"
        try:
            server = urlsplit(whole)
            hostname, _ = server.hostname, server.port
        except ValueError as error:
            raise InvalidSettings(f"{variable('nats_url')}: a URL in it is malformed: {error}") from None
        if not hostname or server.scheme not in ("nats", "tls"):
            raise InvalidSettings(
                f"{variable('nats_url')}: must be nats://HOST:PORT or tls://HOST:PORT, separated by commas"
            )
        servers.append(server)
    if not servers:
        raise InvalidSettings(f"{variable('nats_url')}: names no server")
    return servers


def address(server: SplitResult) -> str:
    """Return the server's URL without user and password."""
    host = f"[{server.hostname}]" if ":" in (server.hostname or "") else server.hostname
    return f"{server.scheme}://{host}:{server.port or DEFAULT_PORT}"


def shown(url: str) -> str:
    """Return any URL without user and password."""
    return re.sub(r"//[^,\s]*@", "//", url)
