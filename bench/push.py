"""The cost of push, for server-sent events and for WebSocket.

Idle subscribers follow owners without tasks; active ones all follow the owner whose tasks run. Delivery time is from
the event's `at` (before it is appended and synced) to its receipt. The CPU time of a delivery is what the API's process
uses beyond its use for the same tasks without subscribers.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import re
import resource
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Literal, cast
from urllib.parse import urlsplit

import msgspec

from .report import Runs, percentiles
from .service import OWNER, Bench, running

Door = Literal["sse", "ws"]
DOORS: tuple[Door, ...] = ("sse", "ws")
TASKS = 150
TASKS_PER_SECOND = 15
SAMPLED = 20
"""Subscribers that measure delivery times; the others only count, which costs the client less."""
FILES = 8192
OPENED_AT_ONCE = 50
SETTLE_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
MICROSECONDS = 1e6

_AT = re.compile(rb'"at":"([^"]+)"')
_SUBSCRIBE = msgspec.json.encode({"type": "subscribe", "all": True})


class Subscriber(asyncio.Protocol):
    """One connection that follows all tasks of an owner, counts events, and records their delay if it is sampled."""

    def __init__(self, door: Door, host: str, authorization: str, delays_ms: list[float] | None) -> None:
        self.events = 0
        self.open = asyncio.get_running_loop().create_future()
        self._door = door
        self._host = host
        self._authorization = authorization
        self._delays_ms = delays_ms
        self._held = b""
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        request = f"Host: {self._host}\r\nAuthorization: {self._authorization}\r\n"
        if self._door == "sse":
            transport.write(f"GET /api/tasks/stream HTTP/1.1\r\n{request}\r\n".encode())
        else:
            nonce = base64.b64encode(b"0123456789abcdef").decode()
            upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {nonce}\r\n"
            transport.write(f"GET /ws HTTP/1.1\r\n{request}{upgrade}Sec-WebSocket-Version: 13\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._held += data
        if not self._is_open:
            head, end, self._held = self._held.partition(b"\r\n\r\n")
            if not end:
                self._held = head
                return
            if head.split(None, 2)[1] not in (b"200", b"101"):
                self.open.set_exception(RuntimeError(head.decode()))
            self._is_open = True
            if self._door == "ws":
                self.transport.write(bytes([0x81, 0x80 | len(_SUBSCRIBE)]) + bytes(4) + _SUBSCRIBE)
        for message in self._messages():
            if not self.open.done():  # the first message is the position in the log
                self.open.set_result(None)
            if at := _AT.search(message):
                self.events += 1
                if self._delays_ms is not None:
                    self._delays_ms.append((now - datetime.fromisoformat(at[1].decode()).timestamp()) * 1000)

    def _messages(self) -> Iterator[bytes]:
        if self._door == "sse":
            *messages, self._held = self._held.split(b"\n\n")
            yield from (message for message in messages if b"id: " in message)
            return
        while len(self._held) >= 4:
            length, start = self._held[1] & 0x7F, 2
            if length == 126:
                length, start = int.from_bytes(self._held[2:4], "big"), 4
            if len(self._held) < start + length:
                return
            message, self._held = self._held[start : start + length], self._held[start + length :]
            if b'"subscribed"' not in message:
                yield message


class Crowd:
    """Subscribers of one door."""

    def __init__(self, bench: Bench, door: Door) -> None:
        self._bench = bench
        self._door = door
        self._subscribers: list[Subscriber] = []
        self.delays_ms: list[float] = []

    async def join(self, count: int, owner: str | None) -> None:
        """Open connections; without an owner each is of one of its own."""
        for first in range(0, count, OPENED_AT_ONCE):
            numbers = range(first, min(first + OPENED_AT_ONCE, count))
            await asyncio.gather(*(self._open(owner or f"idle-{number}", number) for number in numbers))

    async def _open(self, owner: str, number: int) -> None:
        address = urlsplit(self._bench.url)
        authorization = self._bench.user(owner)["Authorization"]
        delays = self.delays_ms if owner == OWNER and number < SAMPLED else None
        _, subscriber = await asyncio.get_running_loop().create_connection(
            lambda: Subscriber(self._door, address.netloc, authorization, delays), address.hostname, address.port
        )
        self._subscribers.append(subscriber)
        await asyncio.wait_for(subscriber.open, PATIENCE_SECONDS)

    @property
    def delivered(self) -> int:
        return sum(subscriber.events for subscriber in self._subscribers)

    def leave(self) -> None:
        for subscriber in self._subscribers:
            subscriber.transport.abort()


async def _run_tasks(bench: Bench, crowd: Crowd, active: int) -> float:
    """Have tasks run at a steady rate, and all of it delivered; return the CPU seconds the API used."""
    done = await bench.succeeded()
    delivered = crowd.delivered
    cpu = bench.cpu_seconds()["api"]
    begun = time.perf_counter()
    for number in range(TASKS):
        await bench.submit(number)
        await asyncio.sleep(max(0.0, begun + (number + 1) / TASKS_PER_SECOND - time.perf_counter()))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await bench.all_succeeded(done + TASKS)
        while crowd.delivered < delivered + 3 * TASKS * active:  # submitted, started, succeeded
            await asyncio.sleep(0.02)
    return bench.cpu_seconds()["api"] - cpu


async def _measure_door(door: Door, idle: int, active: int) -> dict[str, float]:
    async with running(slots=16) as bench:
        crowd = Crowd(bench, door)
        try:
            await _run_tasks(bench, crowd, 0)  # warms up
            alone = await _run_tasks(bench, crowd, 0)
            empty_mb = bench.resident_mb()["api"]
            await crowd.join(idle, None)
            await asyncio.sleep(SETTLE_SECONDS)
            idle_mb = bench.resident_mb()["api"]
            await crowd.join(active, OWNER)
            listened_to = await _run_tasks(bench, crowd, active)
        finally:
            crowd.leave()
        return {
            "kb_per_idle_subscriber": (idle_mb - empty_mb) * 1000 / max(idle, 1),
            "kb_per_subscriber_after": (bench.resident_mb()["api"] - empty_mb) * 1000 / max(idle + active, 1),
            **percentiles("delivery", crowd.delays_ms),
            "cpu_us_per_delivery": (listened_to - alone) / crowd.delivered * MICROSECONDS,
        }


async def measure(options: argparse.Namespace) -> Runs:
    """Return what subscribers cost one API process, for each door (`push_sse_…`, `push_ws_…`)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, FILES), hard), hard))
    figures = {}
    for door in DOORS:
        for name, value in (await _measure_door(door, options.idle_subscribers, options.active_subscribers)).items():
            figures[f"push_{door}_{name}"] = value
    return [figures]
