"""Errors of connections: whose they are, and what went wrong."""

from __future__ import annotations

import errno
import socket

import aiohttp

from ..wire.body_limit import BadEncoding
from ..wire.connections import UnaskedAnswer

LOCAL_LACKS: dict[int, str] = {
    errno.EMFILE: "this worker has no file descriptor left (raise its `ulimit -n`)",
    errno.ENFILE: "this machine has no file descriptor left",
    errno.ENOMEM: "this machine is out of memory",
    errno.ENOBUFS: "this machine has no buffer space left for connections",
    errno.EADDRNOTAVAIL: "this machine has no local port left for connections",
}
"""Errors of a connection that say nothing about the server."""


def local_lack(error: Exception) -> str | None:
    """Return what this machine lacks if that is why nothing was sent; None if the server or the network is to blame."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _lack_of_descriptors()  # the resolver does not say what it lacked
    if isinstance(error, aiohttp.ClientConnectorError):
        # Without a number, the addresses of a name failed in different ways.
        return LOCAL_LACKS.get(error.os_error.errno) if error.os_error.errno else _lack_of_descriptors()
    return None


def _lack_of_descriptors() -> str | None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return LOCAL_LACKS.get(error.errno or 0)
    return None


def describe(error: Exception) -> str:
    """Return what went wrong with a connection, without the address."""
    match error:
        case TimeoutError():
            return "the server did not answer in time"
        case aiohttp.ClientConnectorDNSError():
            return "the server's name does not resolve"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "the server's certificate was not accepted"
        case aiohttp.ClientConnectorError():
            return "the server could not be reached"
        case UnaskedAnswer():
            return "the server sent an answer before it was asked"
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return "the server closed the connection without an answer"
        case aiohttp.ClientResponseError():
            return "the server's answer is not valid HTTP" + _first_line(error.message)
        case BadEncoding():
            return "the server's answer is not compressed as its Content-Encoding says"
        case aiohttp.ClientPayloadError():
            return "the server broke off its answer"
        case aiohttp.ClientOSError(__cause__=ConnectionResetError()):
            return "the server closed the connection before it had the whole request"
        case aiohttp.InvalidURL():
            return "the server's address is not valid"
        case _:
            return "the connection to the server failed"


def _first_line(message: str) -> str:
    """Return what aiohttp's parser found, without the bytes that it quotes below: ": Bad status line"."""
    found = message.strip().partition("\n")[0].partition(": b'")[0].rstrip(":")
    return f": {found[:80]}" if found else ""
