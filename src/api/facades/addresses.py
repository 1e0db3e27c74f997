"""The base of URLs in answers: clients of other services' APIs follow absolute URLs only.

It is the address that the request was sent to. A reverse proxy (`TASKSTREAM_PROXIES`) says it in `X-Forwarded-Proto`,
`X-Forwarded-Host` and `X-Forwarded-Prefix`. Of a request to the host of `TASKSTREAM_PUBLIC_URL`, it is that URL.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ...settings import Settings
from ...wire.addresses import within
from ..auth.access import ApiRequest
from ..connections import proxy_networks
from ..middleware import headers_of

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){1,8}", re.ASCII)
_SCHEMES = ("http", "https")


class RequestAddresses:
    """Finds out under which address a request reached the service."""

    def __init__(self, settings: Settings) -> None:
        self._public = (settings.public_url or "").rstrip("/")
        self._public_host = urlsplit(self._public).netloc.lower()
        self._fallback = settings.callback_base
        self._proxies = proxy_networks(settings)

    def base(self, request: ApiRequest) -> str:
        """Return the base of URLs in the answer to a request, without a trailing slash."""
        scope: Any = request.scope
        sent = headers_of(scope)
        forwarded = sent if self._is_proxy(scope.get("client")) else {}

        def said(name: bytes) -> str:
            return forwarded.get(name, b"").partition(b",")[0].strip().decode("latin-1")

        host = said(b"x-forwarded-host") or sent.get(b"host", b"").decode("latin-1")
        scheme, prefix = said(b"x-forwarded-proto").lower(), said(b"x-forwarded-prefix").rstrip("/")
        if not _HOST.fullmatch(host):
            return self._fallback
        if not scheme and not prefix and host.lower() == self._public_host:
            return self._public
        if scheme not in _SCHEMES:
            scheme = scope.get("scheme", "http")
        return f"{scheme}://{host}{prefix if _PREFIX.fullmatch(prefix) else ''}"

    def _is_proxy(self, client: tuple[str, int] | None) -> bool:
        if client is None:
            return False
        address = ip_address(client[0].partition("%")[0])
        return within(getattr(address, "ipv4_mapped", None) or address, self._proxies)
