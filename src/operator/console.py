"""`taskstream console`: print a link to the console that signs in, and open it in a browser."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
import webbrowser
from hmac import compare_digest
from urllib.parse import quote

import msgspec
from rich.text import Text

from ..api.auth.authenticator import make_token
from ..settings import load
from .access import ServiceAccess
from .commands import OperatorSession, runs, whole_number
from .failures import CommandFailed
from .text import plain

LIFETIME_SECONDS = 3600
PATIENCE_SECONDS = 30.0
"""How long a browser may take to ask for the link."""
HEAD_BYTES = 16 * 1024
FOUND = (
    b"HTTP/1.1 303 See Other\r\nLocation: %b\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def define(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    runs(parser, show)
    parser.add_argument(
        "--ttl",
        type=whole_number,
        default=LIFETIME_SECONDS,
        metavar="SECONDS",
        help=f"lifetime of a token that is signed; default: {LIFETIME_SECONDS}",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the link")


async def show(session: OperatorSession) -> int:
    """Print the link, and open it if this machine has a browser with windows. Raises CommandFailed."""
    access, output = session.access, session.output
    await session.client.get("/api/me")  # a token that is refused is better known here
    link = f"{access.url}/console/#/token={quote(token_for(access, session.options.ttl), safe='')}"
    if output.json:
        output.raw(msgspec.json.encode({"url": link}))
        return 0
    # One line, however narrow the terminal is: what wraps cannot be copied.
    output.console.print(Text(plain(link)), soft_wrap=True)
    if session.options.no_browser or not has_windows():
        return 0
    if not await hand_over(link):
        output.note("The browser did not open the link. Copy it.")
    return 0


def token_for(access: ServiceAccess, lifetime_seconds: int) -> str:
    """Return the token that was given, or sign one with this lifetime. Raises CommandFailed if there is none."""
    token = access.bearer()
    if token is None:
        raise CommandFailed("no token: set TASKSTREAM_JWT_SECRET to have one signed, or pass one with --token")
    if not access.is_signed:
        return token
    settings, claims = load(), access.claims()
    assert settings.jwt_secret is not None
    return make_token(
        settings.jwt_secret,
        claims["sub"],
        claims["roles"],
        lifetime_seconds,
        time.time(),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
    )


def has_windows() -> bool:
    """Return True if there is a browser that does not run in this terminal."""
    try:
        return type(webbrowser.get()) is not webbrowser.GenericBrowser
    except webbrowser.Error:
        return False


async def hand_over(link: str) -> bool:
    """Have a browser open the link; return False if it does not ask for it in time.

    Others on the machine can read the arguments of a browser. So it gets an address of this process, which works once.
    """
    path, asked = f"/{secrets.token_urlsafe(24)}", asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
            is_right = compare_digest(head.split(b" ", 2)[1], path.encode()) and not asked.is_set()
            writer.write(FOUND % link.encode() if is_right else NOT_FOUND)
            await writer.drain()
            if is_right:
                asked.set()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, IndexError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=HEAD_BYTES)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await asyncio.to_thread(webbrowser.open, f"http://127.0.0.1:{port}{path}")
        try:
            await asyncio.wait_for(asked.wait(), PATIENCE_SECONDS)
        except TimeoutError:
            return False
    return True
