"""Addresses: what an IP address reaches, and the host of a URL in any spelling. `egress` decides which are allowed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TypeAlias

from yarl import URL

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_URL = 2048
"""Characters. Many servers refuse longer URLs."""


class BadAddress(Exception):
    """The address is not allowed for a backend. The text is safe to show to the caller."""


class InvalidAddress(BadAddress):
    """The text is not a valid http or https URL."""


# Places


class Reach(Enum):
    """What an address reaches, from best to worst; the value completes "it leads to …"."""

    PUBLIC = "a public address"
    PRIVATE = "a private, loopback or link-local address"
    METADATA = "the address of a cloud's metadata service"
    NOWHERE = "an unspecified, multicast or reserved address"


def _networks(*blocks: str) -> tuple[Network, ...]:
    return tuple(ip_network(block) for block in blocks)


# From the IANA special-purpose registries (RFC 6890). `ipaddress.is_global` differs between Python versions;
# that of 3.11.7 returns True for 224.0.0.1, 192.0.0.8, 192.88.99.1 and fec0::1.
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
    "198.18.0.0/15",  # RFC 2544, benchmarks
    "::1/128",
    "64:ff9b:1::/48",  # RFC 8215, local NAT64: may reach any internal address
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",  # RFC 3879, deprecated site-local addresses
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
    """Return the IPv4 addresses embedded in an IPv6 address, which packets to it reach."""
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
    """Return what an address reaches. An address that embeds others is as bad as the worst of them."""
    if inner := carried(address):
        return max(map(reach, inner), key=list(Reach).index)
    if within(address, METADATA):
        return Reach.METADATA
    if within(address, PRIVATE):
        return Reach.PRIVATE
    if within(address, NOWHERE) or (isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST):
        return Reach.NOWHERE
    return Reach.PUBLIC


def within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


# Spellings

_URL = re.compile(r"https?://(?P<authority>[^/?]*)", re.IGNORECASE | re.ASCII)
_AUTHORITY = re.compile(r"(?:\[[^\[\]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.ASCII)


def read_url(url: str) -> tuple[str, int]:
    """Return (host, port) of an http or https URL as the HTTP client reads them. Raises InvalidAddress."""
    if len(url) > MAX_URL:
        raise InvalidAddress(f"the address is longer than {MAX_URL} characters")
    if not url.isprintable() or " " in url:
        raise InvalidAddress("the address contains a space or a control character; percent-encode it")
    if "#" in url:
        raise InvalidAddress("the address has a fragment (#…), which is never sent; leave it out")
    match = _URL.match(url)
    if match is None:
        raise InvalidAddress("the address must begin with http:// or https://")
    # yarl accepts more than RFC 3986 (the port "+80", an empty user), so the authority is checked first.
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
        raise InvalidAddress("the address has a host that is not a valid name") from None
    host, port = parsed.raw_host or "", parsed.port or 0
    bracketed = authority.startswith("[")
    if bracketed != (":" in host) or not (bracketed or _is_name(host)):
        raise InvalidAddress("the address has a host that is not a valid name")
    return host, port


def read_name(text: str) -> str | None:
    """Return a host name as the HTTP client spells it (lower case, IDNA); None for an address or an invalid name."""
    try:
        host = URL.build(scheme="http", host=text).raw_host or ""
    except ValueError:
        return None
    return host if _is_name(host) and not _NUMERIC_END.fullmatch(host) else None


def _is_name(host: str) -> bool:
    return len(host.rstrip(".")) <= 253 and _NAME.fullmatch(host) is not None


def literal(host: str) -> Address | None:
    """Return the IP address that a host spells in any form the system understands; None for a name."""
    if ":" in host:
        try:
            return IPv6Address(host.partition("%")[0])
        except ValueError:
            raise InvalidAddress("the address has a host that is not a valid IPv6 address") from None
    if not _NUMERIC_END.fullmatch(host):
        return None
    # No top-level domain is a number, so it must be IPv4 (WHATWG URL, "ends in a number").
    try:
        return IPv4Address(socket.inet_aton(host.rstrip(".")))  # knows octal, hex, and fewer than four parts
    except OSError:
        raise InvalidAddress("the address has a host that ends in a number but is not an IPv4 address") from None


def insist_on_spelling(host: str, address: Address) -> None:
    """Raise InvalidAddress for harmless spellings that the HTTP client does not connect to."""
    if "%" in host:
        raise InvalidAddress("the address has an IPv6 zone, which is valid on one machine only; leave it out")
    if isinstance(address, IPv4Address) and host != str(address):
        raise InvalidAddress(f"write the host as {address}")
