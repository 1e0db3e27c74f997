"""Snapshots of streams: taken from JetStream during writes, and restored with the same sequences.

They use `$JS.API.STREAM.SNAPSHOT` and `.RESTORE`, for which nats-py has no wrapper. The data is NATS' own archive,
compressed, in chunks. Each chunk is acknowledged, so neither side buffers more than a window of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.msg import Msg

from ..errors import OutcomeUnknown, StoreUnavailable
from ..streams.client.connection import Connection, NoResponders, status_of
from ..streams.jetstream.api import api, decode_answer

BEGIN_SECONDS = 600.0
"""Time NATS may take before the first chunk: it checks every message of the stream first."""
PAUSE_SECONDS = 60.0
"""Longest pause between two chunks."""
CHUNK_SECONDS = 300.0
"""Time NATS may take to restore one chunk, which may hold thousands of messages, each synced."""
UNHEARD_SECONDS = 10.0
"""Time that a cluster may take to tell the client's server which one restores."""
UNHEARD_PAUSE_SECONDS = 0.05
WINDOW_BYTES = 8 * 1024 * 1024
"""Bytes sent and not yet acknowledged."""
ENDED_WELL = frozenset({None, "204"})
"""Status of the empty message that ends a complete snapshot; any other says why it is incomplete."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """The configuration and state of a stream when its snapshot was taken."""

    config: dict[str, Any]
    state: dict[str, Any]
    """As in STREAM.INFO: `messages`, `bytes`, `first_seq`, `last_seq`, …"""


async def take_snapshot(connection: Connection, stream: str, write: Callable[[bytes], None]) -> Snapshot:
    """Take a snapshot and pass its bytes to `write`, in order, while the stream is written to.

    It contains everything acknowledged before the call. Raises ApiError if NATS refuses or finds a damaged message,
    StoreUnavailable if the snapshot is interrupted: the bytes written are useless then.
    """
    arrived: asyncio.Queue[Msg | None] = asyncio.Queue()

    loss = connection.open_inbox(arrived.put_nowait)
    # A separate inbox: NATS checks for interest in this exact subject, and waits 2 s if only a wildcard matches.
    subscription = await connection.listen(connection.new_inbox(), arrived.put_nowait)
    request = {
        "deliver_subject": subscription.subject,
        "no_consumers": True,
        "jsck": True,
        "window_size": WINDOW_BYTES,
    }
    try:
        answer = await api(connection, f"STREAM.SNAPSHOT.{stream}", request, BEGIN_SECONDS)
        count = 0
        while chunk := await _next(stream, arrived):
            if chunk.reply:
                count += 1
                place = chunk.reply.rpartition(".")[2]  # $JS.SNAPSHOT.ACK.<stream>.<id>.<bytes>.<place>
                if place != str(count):
                    raise StoreUnavailable(f"the snapshot of {stream} broke off: after chunk {count - 1} came {place}")
                await connection.publish(chunk.reply)
            write(chunk.data)
        return Snapshot(config=answer["config"], state=answer["state"])
    finally:
        connection.close_inbox(loss)
        with contextlib.suppress(nats.errors.Error):  # the connection was closed
            await subscription.unsubscribe()


async def restore_snapshot(connection: Connection, snapshot: Snapshot, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Create a stream from a snapshot, with the configuration in it; return its state.

    Raises ApiError if NATS refuses: the stream exists, the bytes are damaged, there is no space. After any error a part
    of the stream may be left that looks complete, so give it unused subjects until this returns.
    """
    name = f"STREAM.RESTORE.{snapshot.config['name']}"
    request = {"config": snapshot.config, "state": snapshot.state}
    subject = (await api(connection, name, request, PAUSE_SECONDS))["deliver_subject"]
    for chunk in chunks:
        taken = await _send(connection, subject, chunk)
        if taken.data:
            decode_answer(name, taken)
    state: dict[str, Any] = decode_answer(name, await _send(connection, subject, b""))["state"]
    return state


async def _send(connection: Connection, subject: str, chunk: bytes) -> Msg:
    """Send a chunk, again while nobody hears it; return the answer. Raises NoResponders after UNHEARD_SECONDS."""
    give_up_at = time.monotonic() + UNHEARD_SECONDS
    while True:
        try:
            return await connection.request(subject, chunk, timeout_seconds=CHUNK_SECONDS)
        except NoResponders:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(UNHEARD_PAUSE_SECONDS)


async def _next(stream: str, arrived: asyncio.Queue[Msg | None]) -> Msg | None:
    """Return the next chunk, None after the last. Raises StoreUnavailable if there will be none."""
    try:
        message = await asyncio.wait_for(arrived.get(), PAUSE_SECONDS)
    except TimeoutError:
        raise OutcomeUnknown(f"the snapshot of {stream} broke off: nothing came for {PAUSE_SECONDS:g} s") from None
    if message is None:
        raise OutcomeUnknown(f"the snapshot of {stream} broke off: the connection was lost")
    if message.data:
        return message
    if status_of(message) not in ENDED_WELL:
        said = (message.headers or {}).get("Description", "")
        raise StoreUnavailable(f"the snapshot of {stream} broke off: {status_of(message)} {said}")
    return None
