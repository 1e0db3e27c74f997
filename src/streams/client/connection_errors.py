"""Connection errors: their meaning, and the setting to check."""

from __future__ import annotations

import math
import re
import ssl
import time

import nats.errors
import structlog

from ...clock import utc_now
from ...errors import StoreUnavailable
from ...settings import InvalidSettings, variable
from .access import Access
from .client import NoTls

log = structlog.get_logger(__name__)

LOG_AGAIN_SECONDS = 30.0
"""A client without a server tries twice a second, and fails in the same way each time."""
UNAUTHORIZED = re.compile(r"authorization violation|authentication (expired|revoked|timeout)", re.IGNORECASE)
NOT_PERMITTED = re.compile(r"permissions violation for (\w+) to \"([^\"]+)\"", re.IGNORECASE)
NAME_DIFFERS = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
CERTIFICATE_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED."""
OF_OURS = re.compile(r"ALERT_(CERTIFICATE|BAD_CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|UNSUPPORTED_CERTIFICATE)")
"""The TLS alerts by which a server refuses a client's certificate, or the lack of one."""


class AccessRefused(StoreUnavailable):
    """NATS rejects us, or its certificate is not trusted: a retry helps only after the setting is corrected."""


class ConnectionErrors:
    """The errors of one connection. Each is logged, the same one at most every LOG_AGAIN_SECONDS."""

    def __init__(self, role: str, access: Access) -> None:
        self.refusal: str | None = None
        """Why the last attempt was refused; None if it was not."""
        self.last: str | None = None
        self.inbox_forbidden = False
        """True if NATS does not let us receive answers."""
        self._role = role
        self._access = access
        self._logged: dict[str, float] = {}

    def record(self, error: Exception) -> str | None:
        """Log an error. Return the subject if the error forbids us to publish to one."""
        self.last = str(error) or type(error).__name__
        self.refusal = refusal(error, self._access)
        forbidden = not_permitted(error)
        if forbidden:
            what, subject = forbidden
            if subject.startswith(f"{self._access.inbox_prefix.lower()}."):
                self.inbox_forbidden = True
            self._log(f"not permitted: {what} {subject}", "nats.not-permitted", what=what, subject=subject)
            return subject if what == "publish" else None
        if self.refusal:
            self._log(self.refusal, "nats.refused", reason=self.refusal)
        else:
            self._log(self.last, "nats.error", error=self.last)
        return None

    def _log(self, text: str, event: str, **fields: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(text, -math.inf) < LOG_AGAIN_SECONDS:
            return
        self._logged = {known: at for known, at in self._logged.items() if now - at < LOG_AGAIN_SECONDS} | {text: now}
        (log.warning if event == "nats.error" else log.error)(event, role=self._role, **fields)


def refusal(error: Exception, access: Access) -> str | None:
    """Return why NATS rejects us and what to do; None for an error that may be temporary."""
    match error:
        case ssl.SSLCertVerificationError():
            return _of_their_certificate(error)
        case ssl.SSLError() if OF_OURS.search(error.reason or ""):
            return _of_our_certificate(access)
        case NoTls():
            return f"NATS offers no TLS, and {_tls_asked_for(access)} asks for it"
        case nats.errors.Error() if UNAUTHORIZED.search(str(error)):
            return _of_our_credentials(str(error), access)
        case _:
            return None


def not_permitted(error: Exception) -> tuple[str, str] | None:
    """Return what NATS forbids us: (`publish` or `subscription`, subject in lower case); None for another error."""
    found = NOT_PERMITTED.search(str(error))
    return (found[1].lower(), found[2].lower()) if found else None


def _of_their_certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in NAME_DIFFERS:
        return (
            f"NATS' certificate is for another host: {error.verify_message} "
            f"Use a host name of the certificate in {variable('nats_url')}"
        )
    if error.verify_code == CERTIFICATE_EXPIRED:
        return "NATS' certificate has expired: renew it on the server"
    return (
        f"NATS' certificate is not trusted ({error.verify_message}): "
        f"set {variable('nats_ca')} to the file of the CA that signed it"
    )


def _of_our_certificate(access: Access) -> str:
    if access.cert is None:
        return f"NATS asks for a client certificate: set {variable('nats_cert')} and {variable('nats_key')}"
    return f"NATS does not accept the client certificate {access.cert!r}: correct {variable('nats_cert')}"


def _tls_asked_for(access: Access) -> str:
    return (
        variable("nats_ca")
        if access.ca
        else variable("nats_cert")
        if access.cert
        else f"tls:// in {variable('nats_url')}"
    )


def _of_our_credentials(said: str, access: Access) -> str:
    said = re.sub(r"^nats: ", "", said).strip("'")
    if access.creds:
        name = f"{variable('nats_creds')}={access.creds!r}"
        try:
            expires_at = access.credentials().expires_at
        except InvalidSettings as error:
            return str(error)
        if expires_at and expires_at <= utc_now():
            return f"the credentials in {name} expired at {expires_at.isoformat()}: put new ones into that file"
        return f"NATS refuses the credentials in {name} ({said})"
    if access.user:
        names = f"{variable('nats_user')} and {variable('nats_password')}"
        return f"NATS refuses user {access.user!r} with that password ({said}): correct {names}"
    if access.token:
        return f"NATS refuses the token ({said}): correct {variable('nats_token')}"
    if access.cert:
        return f"NATS has no user for the certificate {access.cert!r} ({said}): correct {variable('nats_cert')}"
    names = ", ".join(map(variable, ("nats_creds", "nats_user", "nats_token")))
    return f"NATS requires authentication ({said}): set {names} or {variable('nats_cert')}"
