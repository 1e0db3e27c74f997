"""How NATS knows us and we know NATS: certificates, passwords, credentials. Files are read again at each connection."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import SplitResult, unquote

from msgspec import Struct
from msgspec.structs import replace

from ...settings import InvalidSettings, Settings, variable
from .credentials import Credentials, read_credentials

MEANT_FOR_A_GIVEN_NATS = (
    *("nats_ca", "nats_cert", "nats_key", "nats_user", "nats_password", "nats_token", "nats_creds"),
    *("nats_placement_cluster", "nats_placement_tags"),
)


class Access(Struct, frozen=True, kw_only=True):
    """The settings of that; None where they are not given."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    inbox_prefix: str = "_INBOX"
    tls: bool = False
    """Whether a server that offers no TLS is refused."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the access the settings give. Raises InvalidSettings as `check`."""
        access = cls(
            ca=settings.nats_ca,
            cert=settings.nats_cert,
            key=settings.nats_key,
            user=settings.nats_user,
            password=settings.nats_password,
            token=settings.nats_token,
            creds=settings.nats_creds,
            inbox_prefix=settings.nats_inbox_prefix,
            tls=settings.nats_ca is not None or settings.nats_cert is not None,
        )
        access.check()
        return access

    def check(self) -> None:
        """Raise InvalidSettings for what does not go together or cannot be read."""
        if self.key and not self.cert:
            raise InvalidSettings(
                f"{variable('nats_key')} is the key of a certificate: set {variable('nats_cert')} too"
            )
        if self.password is not None and not self.user:
            raise InvalidSettings(f"{variable('nats_password')} is of a user: set {variable('nats_user')} too")
        if self.user and self.password is None:
            raise InvalidSettings(f"{variable('nats_user')} has a password: set {variable('nats_password')} too")
        if sum(map(bool, (self.user, self.token, self.creds))) > 1:
            names = ", ".join(map(variable, ("nats_user", "nats_token", "nats_creds")))
            raise InvalidSettings(f"NATS is told one of {names} (or user and password in the URL), not several")
        self.ssl_context()
        if self.creds:
            read_credentials(self.creds)

    def for_servers(self, servers: Sequence[SplitResult]) -> Self:
        """Return the access with what the servers' URLs say of user, password, token and TLS.

        Raises InvalidSettings where URLs, or URL and settings, disagree.
        """
        tls = self.tls or any(server.scheme == "tls" for server in servers)
        said = {(server.username, server.password) for server in servers if server.username}
        if not said:
            return replace(self, tls=tls)
        if len(said) > 1:
            raise InvalidSettings(f"{variable('nats_url')}: all servers must be told the same user and password")
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
        """Return what TLS connections are made with. Raises InvalidSettings naming the setting whose file is bad."""
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
        """Return what the credentials file holds now. Raises InvalidSettings."""
        assert self.creds is not None
        return read_credentials(self.creds)


ANYBODY = Access()
"""For a NATS that asks nothing."""


def check_none_given(settings: Settings) -> None:
    """Raise InvalidSettings where something is set that only a NATS given from outside could use."""
    given = [variable(field) for field in MEANT_FOR_A_GIVEN_NATS if getattr(settings, field)]
    if given:
        raise InvalidSettings(
            f"{', '.join(given)} is for a NATS that runs elsewhere: set {variable('nats_url')} too, or leave it out"
        )


def reason(error: Exception) -> str:
    """Return what is wrong with a file, in few words."""
    if isinstance(error, ssl.SSLError):
        return f"holds no usable certificate or key ({(error.reason or str(error)).lower().replace('_', ' ')})"
    return getattr(error, "strerror", None) or str(error)


def _refuse_to_ask(*_: Any) -> str:
    raise ValueError("the key is encrypted: give one that is not")
