"""Egress rules: the addresses that may be called, and the HTTP session that enforces them.

Users type in the addresses that we then call from inside our network. Unchecked, they reach our own machines (SSRF). So
an address is checked twice: at registration, to give a helpful answer (`check_url`), and at every connect (`session`),
because only then the machine is certain. The second check protects.

Admins register backends, users webhooks. So each has a policy of its own: what opens private addresses to backends
opens none to webhooks. A user must not find out by a webhook what is inside. So a name is not looked up when a webhook
is registered, and an error of a call does not tell a name without an address from one that policy refuses.

    BadAddress               an address no backend may have; the message says what to do
    |- InvalidAddress        it is not the address of an HTTP server, or badly written
    `- ForbiddenAddress      it is well written, and policy refuses it
    AddressRefused (OSError) policy refused at connect; see `refused_by_policy`
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from ipaddress import ip_address, ip_network
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from msgspec import Struct

from ..settings import InvalidSettings, Settings, variable
from ..wire import addresses
from ..wire.addresses import Address, BadAddress, InvalidAddress, Network, Reach
from ..wire.connections import ExchangeConnector, open_session

Resolve: TypeAlias = Callable[[str, int, socket.AddressFamily], Awaitable[list[ResolveResult]]]
"""(host name, port, family) -> its addresses; raises OSError when there are none."""

RESOLVE_TIMEOUT = 3.0
"""Seconds a registration waits for the DNS; later, the name counts as unresolved."""
DNS_TTL = 5
"""Seconds a DNS answer is cached: a backend that moves is found this soon."""
IDLE_SECONDS = 4.0
"""Seconds an idle connection is kept. Servers commonly close theirs after 5 s (uvicorn, Node). If ours lived longer,
requests would go into connections that are being closed, and a POST is not sent twice."""


class Callees(Struct, frozen=True):
    """What a policy is for."""

    allow_setting: str
    """The setting that lists what may be called although it is private."""
    is_by_users: bool
    """True if any user may say what is called, and reads what comes of it."""


BACKENDS = Callees("backend_allow", is_by_users=False)
WEBHOOKS = Callees("webhook_allow", is_by_users=True)


class ForbiddenAddress(BadAddress):
    """Policy refuses the address."""


class AddressRefused(OSError):
    """Policy refused to connect: nothing was sent.

    An OSError, so aiohttp treats it like any failed connect. The text is always the same: it shows no address, and
    aiohttp raises the first of several equal failures unchanged.
    """

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "address refused by policy")


class _AllowedByName(str):
    """An address that a listed host name resolved to.

    The socket factory sees addresses, never names. A mark on the address needs no list that expires, and the same
    address under another name, or written out, is still refused.
    """

    __slots__ = ()


async def resolve_by_system(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    """Return the addresses that the system's resolver finds; raise OSError if there are none."""
    return await aiohttp.ThreadedResolver().resolve(host, port, family)


class EgressPolicy:
    """The rules for addresses. Immutable; made from the settings."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        names: Iterable[str] = (),
        networks: Iterable[Network] = (),
        resolve: Resolve = resolve_by_system,
        callees: Callees = BACKENDS,
    ) -> None:
        self._callees = callees
        self._allow_private = allow_private
        self._names = frozenset(_bare(name) for name in names)
        self._networks = tuple(networks)
        self._resolve = resolve

    @classmethod
    def from_settings(cls, settings: Settings, *, resolve: Resolve = resolve_by_system) -> EgressPolicy:
        """Return the policy of backends. Raises InvalidSettings for an entry that can match nothing."""
        names, networks = _listed(BACKENDS.allow_setting, settings.backend_allow)
        return cls(allow_private=settings.allow_private_backends, names=names, networks=networks, resolve=resolve)

    @classmethod
    def for_webhooks(cls, settings: Settings, *, resolve: Resolve = resolve_by_system) -> EgressPolicy:
        """Return the policy of webhooks. Raises InvalidSettings for an entry that can match nothing."""
        names, networks = _listed(WEBHOOKS.allow_setting, settings.webhook_allow)
        return cls(names=names, networks=networks, resolve=resolve, callees=WEBHOOKS)

    @property
    def opens_private(self) -> bool:
        """True if any address that is not public may be called."""
        return self._allow_private or bool(self._names or self._networks)

    def check_ip(self, ip: str) -> None:
        """Return if a backend may have this IP address; raise ForbiddenAddress if not.

        IPv4, or IPv6 with or without a zone. Raises InvalidAddress for anything else.
        """
        self._check(ip, shown=ip)

    async def check_url(self, url: str) -> None:
        """Return if a server or a webhook may be registered with this URL.

        Raises InvalidAddress or ForbiddenAddress. A name that does not resolve (yet) is accepted, for a webhook any
        name: every connect checks it again. The URL is parsed as the session parses it, so both mean one host.
        """
        host, port = addresses.read_url(url)
        if (address := addresses.literal(host)) is not None:
            self._check(str(address), shown=host)
            addresses.insist_on_spelling(host, address)
            return
        by_name = self._allows_name(host)
        if self._callees.is_by_users:
            if not by_name and _is_local(host):
                raise self._forbidden(host, Reach.PRIVATE)
            return
        for found in await self._look_up(host, port):
            self._check(found["host"], by_name=by_name, shown=host)

    def session(self) -> aiohttp.ClientSession:
        """Open a session that enforces the policy; call it in a running loop, and close it at the end.

        A connection is used again only after `connections.keep`. Connections are not limited in number. The session has
        no timeout: set one for each call, with `allow_redirects=False`. (A redirect that is followed is checked like
        any other connect.) It uses no proxy, no `.netrc` and no cookies. Read answers with `read_capped`, which also
        bounds compressed ones.

        A connect that policy refuses raises an aiohttp.ClientConnectorError for which `refused_by_policy` is true.
        """
        connector = ExchangeConnector(
            limit=0,
            ttl_dns_cache=DNS_TTL,
            keepalive_timeout=IDLE_SECONDS,
            # Both are needed: aiohttp asks no resolver about an address that is written out, and only the resolver
            # knows which name an address came from.
            resolver=_CheckingResolver(self),
            socket_factory=self._open_socket,
        )
        return open_session(
            connector,
            timeout=aiohttp.ClientTimeout(),
        )

    def _allows_name(self, name: str) -> bool:
        return _bare(name) in self._names

    def _check(self, ip: str, *, shown: str, by_name: bool = False) -> None:
        """Check one address; messages repeat only `shown`, which the user wrote."""
        try:
            address = ip_address(ip.partition("%")[0])
        except ValueError:
            raise InvalidAddress(f"{shown[:64]!r} is not an IP address") from None
        kind = addresses.reach(address)
        if kind is Reach.PUBLIC:
            return
        # What hands out the credentials of the machine we run on is no user's receiver, whatever is listed.
        is_open = kind is not Reach.NOWHERE and not (kind is Reach.METADATA and self._callees.is_by_users)
        if is_open and (by_name or self._is_listed(address)):
            return
        if not (kind is Reach.PRIVATE and self._allow_private):
            raise self._forbidden(shown, kind)

    def _forbidden(self, shown: str, kind: Reach) -> ForbiddenAddress:
        allow = variable(self._callees.allow_setting)
        if kind is Reach.NOWHERE or (kind is Reach.METADATA and self._callees.is_by_users):
            nobody = "webhook" if self._callees.is_by_users else "backend"
            return ForbiddenAddress(f"{shown} cannot be used: it leads to {kind.value}, which no {nobody} can have")
        if self._callees.is_by_users:
            return ForbiddenAddress(
                f"{shown} is refused: it leads to {kind.value}; webhooks may call such an address only if "
                f"{allow} lists it"
            )
        if kind is Reach.METADATA:
            # Not opened by allow_private_backends: it hands out the credentials of the machine we run on.
            return ForbiddenAddress(
                f"{shown} is refused: it leads to {kind.value}; if a backend really is there, list it in {allow}"
            )
        return ForbiddenAddress(
            f"{shown} is refused: it leads to {kind.value}; list it in {allow}, "
            f"or set {variable('allow_private_backends')}=true, if backends may be there"
        )

    def _is_listed(self, address: Address) -> bool:
        inner = addresses.carried(address) or (address,)
        return addresses.within(address, self._networks) or all(addresses.within(one, self._networks) for one in inner)

    async def _look_up(self, host: str, port: int) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                return await self._resolve(host, port, socket.AF_UNSPEC)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            return []

    async def resolve_to_connect(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        """Resolve a name before a connect, or raise AddressRefused: for all addresses if one is forbidden."""
        by_name = self._allows_name(host)
        found = await self._resolve(host, port, family)
        try:
            for each in found:
                self._check(each["host"], by_name=by_name, shown=host)
        except BadAddress:
            raise AddressRefused from None
        if by_name:
            for each in found:
                each["host"] = _AllowedByName(each["host"])
        return found

    def _open_socket(self, info: AddrInfoType) -> socket.socket:
        """Open the socket for an address, or raise AddressRefused."""
        family, kind, protocol, _, target = info
        host = str(target[0])
        try:
            self._check(host, by_name=isinstance(target[0], _AllowedByName), shown=host)
        except BadAddress:
            raise AddressRefused from None
        if (reached := _reached.get()) is not None:
            reached.add(host)
        opened = socket.socket(family, kind, protocol)
        _detect_silence(opened)
        return opened


class _CheckingResolver(AbstractResolver):
    """The session's resolver: `EgressPolicy` in the form that aiohttp expects."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return await self._policy.resolve_to_connect(host, port, family)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


_reached: ContextVar[set[str] | None] = ContextVar("reached", default=None)


@contextlib.contextmanager
def watch_connects() -> Iterator[set[str]]:
    """Return the set of addresses to which this task tries to connect meanwhile; a kept connection adds none."""
    reached: set[str] = set()
    token = _reached.set(reached)
    try:
        yield reached
    finally:
        _reached.reset(token)


def is_public(ip: str) -> bool:
    """Return True for a public IP address; False for any other, and for what is none."""
    try:
        return addresses.reach(ip_address(ip.partition("%")[0])) is Reach.PUBLIC
    except ValueError:
        return False


def refused_by_policy(error: BaseException | None) -> bool:
    """Return True if a call failed because policy refused its address."""
    while error is not None:
        if isinstance(error, AddressRefused):
            return True
        error = getattr(error, "os_error", None) or error.__cause__
    return False


def _detect_silence(opened: socket.socket) -> None:
    """Enable TCP keepalive: a machine that vanishes during a long call is noticed within a minute."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _bare(name: str) -> str:
    return name.rstrip(".").lower()


def _is_local(name: str) -> bool:
    """Return True for a name of this machine on every machine (RFC 6761, 6.3)."""
    return _bare(name).rpartition(".")[2] == "localhost"


def _listed(setting: str, entries: Iterable[str]) -> tuple[list[str], list[Network]]:
    """Return the names and the networks in a setting. Raises InvalidSettings for an entry that is neither."""
    names: list[str] = []
    networks: list[Network] = []
    for entry in entries:
        if network := _network(setting, entry):
            networks.append(network)
        else:
            names.append(_name(setting, entry))
    return names, networks


def _network(setting: str, entry: str) -> Network | None:
    """Return the network that an entry of a setting means; None if it may be a name."""
    try:
        return ip_network(entry)
    except ValueError:
        pass
    try:
        meant = ip_network(entry, strict=False)
    except ValueError:
        return None
    raise InvalidSettings(f"{variable(setting)}: {entry} has bits set after its mask; write {meant}")


def _name(setting: str, entry: str) -> str:
    if (name := addresses.read_name(entry)) is None:
        raise InvalidSettings(
            f"{variable(setting)}: {entry!r} is neither a host name (such as gpu.internal, without scheme "
            "and port) nor a CIDR block (such as 10.0.0.0/8)"
        )
    return name
