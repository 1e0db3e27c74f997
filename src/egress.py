"""Which addresses backends may have, and the HTTP session that keeps to it.

A backend is an address that somebody else types in and that we then call from inside: unchecked, it
reaches our own machines (SSRF). So an address is judged twice: when a server is registered, for the
sake of a helpful answer (`check_url`), and at every connect, because only there is it certain which
machine is called (`session`). The second is the one that protects.

    BadAddress               an address no backend may have; the message says what to do
    |- InvalidAddress        it is not the address of an HTTP server, or badly written
    `- ForbiddenAddress      it is well written, and policy refuses it
    AddressRefused (OSError) policy refused at connect; see `refused_by_policy`
    RedirectRefused          a backend answered with a redirect, and the caller left following on
    AnswerTooLarge           an answer has more bytes than the caller accepts
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from types import SimpleNamespace
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from yarl import URL

from .settings import InvalidSettings, Settings, variable

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Resolve: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[list[ResolveResult]]]
"""(host name, port, family) -> its addresses; raises OSError when there are none."""

MAX_URL = 2048
"""Characters. Longer ones are refused by many servers, and are no backend's address."""
RESOLVE_TIMEOUT = 3.0
"""Seconds a registration waits for the DNS; a name without an answer by then counts as unresolved."""
DNS_TTL = 5
"""Seconds an answer of the DNS is used again: a backend that moves is found this soon."""
IDLE_SECONDS = 4.0
"""Seconds an idle connection is kept. Servers commonly close theirs after 5 s (uvicorn, Node); if ours
lived longer, we would write requests into connections just being closed, and a POST is not sent twice."""


class BadAddress(Exception):
    """No backend may have this address; the message can be shown to who gave it."""


class InvalidAddress(BadAddress):
    """The text is not the address of an HTTP server."""


class ForbiddenAddress(BadAddress):
    """The address is one that policy refuses."""


class AddressRefused(OSError):
    """Policy refused to connect: nothing was sent.

    An OSError, so that aiohttp treats it like any connect that failed. Its text is always the same:
    it shows no address, and of several equal failures aiohttp raises the first as it is.
    """

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "address refused by policy")


class RedirectRefused(aiohttp.ClientError):
    """The backend answered with a redirect; it was not followed. Its answer is closed."""


class AnswerTooLarge(Exception):
    """An answer is longer than the limit; its connection is closed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the answer is larger than {limit} bytes")
        self.limit = limit
        """Bytes that would have been accepted."""


class Reach(Enum):
    """Where an address leads; the value completes "it leads to …"."""

    PUBLIC = "a public address"
    PRIVATE = "a private, loopback or link-local address"
    METADATA = "the address of a cloud's metadata service"
    NOWHERE = "an unspecified, multicast or reserved address"


def _networks(*blocks: str) -> tuple[Network, ...]:
    return tuple(ip_network(block) for block in blocks)


# Our own tables, from the IANA special-purpose registries (RFC 6890): `ipaddress.is_global` changes with
# the Python version, and that of 3.11.7 calls 224.0.0.1, 192.0.0.8, 192.88.99.1 and fec0::1 global.
METADATA = _networks(
    "169.254.169.254/32",  # AWS, Azure, Google, OpenStack and others
    "169.254.170.2/32",  # AWS ECS credentials
    "169.254.170.23/32",  # AWS EKS credentials
    "100.100.100.200/32",  # Alibaba
    "192.0.0.192/32",  # Oracle, older
    "fd00:ec2::254/128",  # AWS
    "fd00:ec2::23/128",  # AWS EKS
    "fd20:ce::254/128",  # Google
)
PRIVATE = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",  # RFC 6598, carrier NAT; inside clouds and VPNs
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",  # RFC 2544, laboratories
    "::1/128",
    "64:ff9b:1::/48",  # RFC 8215, NAT64 of one's own: it may lead anywhere inside
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",  # RFC 3879, the site-local addresses of before
)
NOWHERE = _networks(
    "0.0.0.0/8",  # Linux connects 0.0.0.0 to itself
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "2001::/23",
    "2001:db8::/32",
    "3fff::/20",
)
NAT64 = IPv6Network("64:ff9b::/96")
GLOBAL_UNICAST = IPv6Network("2000::/3")


def carried(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses an IPv6 address stands for: where a packet to it really goes."""
    if isinstance(address, IPv4Address):
        return ()
    if address.ipv4_mapped:
        return (address.ipv4_mapped,)
    if address.sixtofour:
        return (address.sixtofour,)
    if address.teredo:
        return address.teredo
    if address in NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


def reach(address: Address) -> Reach:
    """Say where an address leads. An address that carries others is as bad as the worst of them."""
    if inner := carried(address):
        found = {reach(each) for each in inner}
        return next(kind for kind in (Reach.NOWHERE, Reach.METADATA, Reach.PRIVATE, Reach.PUBLIC) if kind in found)
    if _within(address, METADATA):
        return Reach.METADATA
    if _within(address, PRIVATE):
        return Reach.PRIVATE
    if _within(address, NOWHERE):
        return Reach.NOWHERE
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return Reach.NOWHERE
    return Reach.PUBLIC


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


class _Vouched(str):
    """An address that a host name of `backend_allow` resolved to.

    The socket factory sees addresses, never names. Marking the address itself, and not keeping a list of
    allowed addresses, leaves nothing to expire, and the same address under another name or written out
    is still refused.
    """

    __slots__ = ()


async def resolve_by_system(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    """Look a name up as every program on this machine does; raises OSError when it has no address."""
    return await aiohttp.ThreadedResolver().resolve(host, port, family)


class EgressPolicy:
    """Judges addresses. Immutable; all of it comes from the settings."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        names: Iterable[str] = (),
        networks: Iterable[Network] = (),
        resolve: Resolve = resolve_by_system,
    ) -> None:
        self._allow_private = allow_private
        self._names = frozenset(_bare(name) for name in names)
        self._networks = tuple(networks)
        self._resolve = resolve

    @classmethod
    def from_settings(cls, settings: Settings, *, resolve: Resolve = resolve_by_system) -> EgressPolicy:
        """Build the policy of these settings; raises InvalidSettings on an entry that cannot match anything."""
        networks, names = [], []
        for entry in settings.backend_allow:
            if network := _network(entry):
                networks.append(network)
            else:
                names.append(_name(entry))
        return cls(allow_private=settings.allow_private_backends, names=names, networks=networks, resolve=resolve)

    def check_ip(self, ip: str) -> None:
        """Return if a backend may be at this address; raise ForbiddenAddress if not.

        Takes IPv4 and IPv6, the latter with or without a zone. What is no address raises InvalidAddress.
        """
        self._check(ip, vouched=False, shown=ip)

    async def check_url(self, url: str) -> None:
        """Return if a server may be registered with this address.

        Raises InvalidAddress or ForbiddenAddress. A name that does not resolve (yet) is accepted: it is
        judged again at every connect. The URL is read as the session reads it, so both mean one host.
        """
        host, port = _parse(url)
        literal = _literal(host)
        if literal is not None:
            self._check(str(literal), vouched=False, shown=host)
            _insist_on_spelling(host, literal)
            return
        vouched = self._vouches_for(host)
        for found in await self._addresses(host, port):
            self._check(found["host"], vouched=vouched, shown=host)

    def session(
        self,
        *,
        limit: int = 0,
        limit_per_host: int = 0,
        dns_ttl: int = DNS_TTL,
        idle_seconds: float = IDLE_SECONDS,
    ) -> aiohttp.ClientSession:
        """Open the one pooled session backends are called with; call it in a running loop, close it at the end.

        `limit`, `limit_per_host`: connections at once; 0 is no limit. It has no timeout of its own: give one
        with each call. It uses no proxy, no `.netrc` and no cookies, and follows no redirect: with
        `allow_redirects=False` the 3xx is the answer, without it RedirectRefused is raised. Read answers
        with `read_capped`, which also bounds compressed ones.

        A connect that policy refuses is an aiohttp.ClientConnectorError for which `refused_by_policy` is true.
        """
        connector = aiohttp.TCPConnector(
            limit=limit,
            limit_per_host=limit_per_host,
            ttl_dns_cache=dns_ttl,
            keepalive_timeout=idle_seconds,
            # Both are needed: aiohttp asks no resolver about an address written out, and only the resolver
            # knows the name an address came from.
            resolver=_JudgingResolver(self),
            socket_factory=self._open_socket,
        )
        redirects = aiohttp.TraceConfig()
        redirects.on_request_redirect.append(_refuse_redirect)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            trust_env=False,
            trace_configs=[redirects],
            # Compression is not asked for. A server that compresses all the same is understood: aiohttp
            # decompresses in steps of some 64 KiB as the reader takes them, so a bomb bursts at read_capped's limit.
            headers={"Accept-Encoding": "identity"},
            auto_decompress=True,
        )

    def _vouches_for(self, name: str) -> bool:
        return _bare(name) in self._names

    def _check(self, ip: str, *, vouched: bool, shown: str) -> None:
        """Judge one address; `shown` is what its giver wrote, and all of it that a message repeats."""
        try:
            address = ip_address(ip.partition("%")[0])
        except ValueError:
            raise InvalidAddress(f"{shown[:64]!r} is not an IP address") from None
        kind = reach(address)
        if kind is Reach.PUBLIC:
            return
        if kind is Reach.NOWHERE:
            raise ForbiddenAddress(f"{shown} cannot be used: it leads to {kind.value}, which no backend can have")
        if vouched or self._listed(address):
            return
        if kind is Reach.METADATA:
            # Not opened by allow_private_backends: it hands out the credentials of the machine we run on.
            raise ForbiddenAddress(
                f"{shown} is refused: it leads to {kind.value}; if a backend really is there, "
                f"list it in {variable('backend_allow')}"
            )
        if not self._allow_private:
            raise ForbiddenAddress(
                f"{shown} is refused: it leads to {kind.value}; list it in {variable('backend_allow')}, "
                f"or set {variable('allow_private_backends')}=true, if backends may be there"
            )

    def _listed(self, address: Address) -> bool:
        inner = carried(address)
        return _within(address, self._networks) or (
            bool(inner) and all(_within(each, self._networks) for each in inner)
        )

    async def _addresses(self, host: str, port: int) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                return await self._resolve(host, port, socket.AF_UNSPEC)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return []

    async def resolve_to_connect(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        """Resolve a name about to be connected, or raise AddressRefused.

        One forbidden address among several refuses them all, as at registration.
        """
        vouched = self._vouches_for(host)
        found = await self._resolve(host, port, family)
        try:
            for each in found:
                self._check(each["host"], vouched=vouched, shown=host)
        except BadAddress:
            raise AddressRefused from None
        if vouched:
            for each in found:
                each["host"] = _Vouched(each["host"])
        return found

    def _open_socket(self, info: AddrInfoType) -> socket.socket:
        """Make the socket for an address about to be connected, or raise AddressRefused."""
        family, kind, protocol, _, target = info
        host = str(target[0])
        try:
            self._check(host, vouched=isinstance(target[0], _Vouched), shown=host)
        except BadAddress:
            raise AddressRefused from None
        opened = socket.socket(family, kind, protocol)
        _detect_silence(opened)
        return opened


class _JudgingResolver(AbstractResolver):
    """The resolver of the session: `EgressPolicy` in the shape aiohttp wants."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return await self._policy.resolve_to_connect(host, port, family)

    async def close(self) -> None:
        """Do nothing: nothing is held."""


def refused_by_policy(error: BaseException | None) -> bool:
    """Tell whether a failed call failed because policy refused its address."""
    while error is not None:
        if isinstance(error, AddressRefused):
            return True
        error = getattr(error, "os_error", None) or error.__cause__
    return False


async def read_capped(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the whole body, decompressed; raise AnswerTooLarge if it has more than `limit` bytes.

    Then the connection is closed, and no more than `limit` and some 100 KiB was ever held.
    """
    announced = response.content_length
    if announced is not None and announced > limit:
        response.close()
        raise AnswerTooLarge(limit)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            raise AnswerTooLarge(limit)
    return bytes(body)


async def _refuse_redirect(
    _session: aiohttp.ClientSession, _context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    params.response.close()
    raise RedirectRefused("the backend answered with a redirect; redirects are not followed")


def _detect_silence(opened: socket.socket) -> None:
    """Have the system probe an idle peer, so that a machine that vanished during a long call is noticed in a minute."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


# Reading a URL

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?]*)", re.IGNORECASE | re.ASCII)
_AUTHORITY = re.compile(r"(?:\[[^\[\]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.ASCII)


def _parse(url: str) -> tuple[str, int]:
    """Return (host, port) of an http or https URL as the client will read them, or raise InvalidAddress."""
    if len(url) > MAX_URL:
        raise InvalidAddress(f"the address is longer than {MAX_URL} characters")
    if not url.isprintable() or " " in url:
        raise InvalidAddress("the address contains a space or a control character; percent-encode it")
    if "#" in url:
        raise InvalidAddress("the address has a fragment (#…), which is never sent; leave it out")
    match = _URL.match(url)
    if match is None or match["scheme"].lower() not in ("http", "https"):
        raise InvalidAddress("the address must begin with http:// or https://")
    # yarl is more generous than RFC 3986 (it takes the port "+80" and drops an empty user), so we look first.
    authority = match["authority"]
    if "@" in authority:
        raise InvalidAddress("the address has a user name or password; leave it out")
    if not authority or authority.startswith(":"):
        raise InvalidAddress("the address has no host")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or (parts["port"] is not None and not 1 <= int(parts["port"]) <= 65535):
        raise InvalidAddress("the address has no valid host or port; write http://HOST:PORT/path, IPv6 in brackets")
    try:
        parsed = URL(url)
    except ValueError:  # UnicodeError too
        raise InvalidAddress("the address has a host that is no valid name") from None
    host, port = parsed.raw_host or "", parsed.port or 0
    bracketed = authority.startswith("[")
    if bracketed != (":" in host) or not (bracketed or _is_name(host)):
        raise InvalidAddress("the address has a host that is no valid name")
    return host, port


def _is_name(host: str) -> bool:
    return len(host.rstrip(".")) <= 253 and _NAME.fullmatch(host) is not None


def _literal(host: str) -> Address | None:
    """Return the IP address a host spells in any way the system would understand; None for a name."""
    if ":" in host:
        try:
            return IPv6Address(host.partition("%")[0])
        except ValueError:
            raise InvalidAddress("the address has a host that is no valid IPv6 address") from None
    if not _NUMERIC_END.fullmatch(host):
        return None
    # No top-level domain is a number, so it must be IPv4 (WHATWG URL, "ends in a number").
    try:
        return IPv4Address(socket.inet_aton(host.rstrip(".")))  # knows octal, hex, and fewer than four parts
    except OSError:
        raise InvalidAddress("the address has a host that ends in a number but is no IPv4 address") from None


def _insist_on_spelling(host: str, literal: Address) -> None:
    """Raise InvalidAddress for spellings that are harmless, but that the HTTP client will not connect to."""
    if "%" in host:
        raise InvalidAddress("the address has an IPv6 zone, which means something on one machine only; leave it out")
    if isinstance(literal, IPv4Address) and host != str(literal):
        raise InvalidAddress(f"write the host as {literal}")


def _bare(name: str) -> str:
    return name.rstrip(".").lower()


def _network(entry: str) -> Network | None:
    """Return the block an entry of `backend_allow` means, None if it may be a name."""
    try:
        return ip_network(entry)
    except ValueError:
        pass
    try:
        meant = ip_network(entry, strict=False)
    except ValueError:
        return None
    raise InvalidSettings(f"{variable('backend_allow')}: {entry} has bits set after its mask; write {meant}")


def _name(entry: str) -> str:
    try:
        host = URL.build(scheme="http", host=entry).raw_host or ""
    except ValueError:
        host = ""
    if not _is_name(host) or _NUMERIC_END.fullmatch(host):
        raise InvalidSettings(
            f"{variable('backend_allow')}: {entry!r} is neither a host name (such as gpu.internal, without scheme "
            "and port) nor a CIDR block (such as 10.0.0.0/8)"
        )
    return host
