"""A process of the service as the machine sees it: its socket, its signals, its cores."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Iterator

import structlog
from msgspec.structs import replace

from ..settings import InvalidSettings, Settings

log = structlog.get_logger(__name__)

BACKLOG = 2048
REQUESTS_GRACE_SECONDS = 10
"""How long an API that stops waits for the requests in progress."""
UNREAD_MILLISECONDS = 60_000
RELEASED_SECONDS = 1.0
"""How long the processes of a killed service may take to let go of its port."""
LOOK_SECONDS = 0.02


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def listen(settings: Settings) -> Iterator[tuple[Settings, socket.socket]]:
    """Open the listening socket; yield it with the settings that name its real port (0 picks a free one)."""
    with _opened(settings.host, settings.port) as sock:
        # Accepted sockets inherit it; asyncio does not set it on them, and every answer would wait 40 ms for an ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Inherited too: a client that has stopped reading a stream is disconnected (Linux).
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)
        yield replace(settings, port=sock.getsockname()[1]), sock


def _opened(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    give_up_at = time.monotonic() + RELEASED_SECONDS
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < give_up_at:
                time.sleep(LOOK_SECONDS)
                continue
            reason = (error.strerror or str(error)).partition(" (while ")[0]
            raise InvalidSettings(
                f"cannot listen on {host}:{port}: {reason}: set another --host or --port, "
                "or end the program that listens there"
            ) from None


def announce(settings: Settings) -> None:
    log.info(
        "ready", url=f"http://{settings.host}:{settings.port}", docs=f"http://{settings.host}:{settings.port}/docs"
    )


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        log.info("stopping")
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)
            if os.getpid() == 1:  # the first process of a container gets no signal that it does not handle
                loop.add_signal_handler(number, os._exit, 128 + number)

    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    return stop


def send_signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to a child; does nothing if it has ended.

    After asyncio's own methods, whoever waits for the child may see 255 instead of its exit status.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
