"""Server-sent events of the service, read to their end over restarts of the API: nothing is lost or shown twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from .client import OperatorClient, Query, decode
from .failures import ServiceRefused, Unreachable
from .output import Output

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
LONGEST_BLOCK = 64 * 1024 * 1024
"""Characters of one event."""


async def followed(
    client: OperatorClient, output: Output, where: str, query: Query = ()
) -> AsyncGenerator[msgspec.Raw, None]:
    """Yield the JSON of each event, and reconnect after the last one until the service says that nothing follows.

    The first connection must succeed; later ones are tried until they do. Raises CommandFailed if the service refuses.
    """
    last_id, pause, connected = "", FIRST_PAUSE_SECONDS, False
    lost = False
    while True:
        try:
            async with client.streamed(where, query, last_id) as response:
                if response.status == 204:
                    return
                if lost:
                    output.note("connected again")
                connected, lost = True, False
                async for event_id, data in _blocks(response.content.iter_any()):
                    pause = FIRST_PAUSE_SECONDS
                    last_id = event_id or last_id
                    yield data
        except (Unreachable, ServiceRefused) as failure:
            is_away = isinstance(failure, Unreachable) or failure.http_status in (429, 502, 503, 504)
            if not connected or not is_away:
                raise
            if not lost:
                output.note(f"{failure}: connecting again")
            lost = True
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


async def _blocks(parts: AsyncIterator[bytes]) -> AsyncGenerator[tuple[str, msgspec.Raw], None]:
    """Yield the id, empty for none, and the data of each block. Raises CommandFailed for one that is no JSON."""
    pending, event_id, data = bytearray(), "", b""
    async for part in parts:
        pending += part
        if b"\n" not in part:
            if len(pending) > LONGEST_BLOCK:
                raise Unreachable("the stream sent a line without an end")
            continue
        *lines, rest = bytes(pending).split(b"\n")
        pending = bytearray(rest)
        for line in lines:
            if not line:
                if data:
                    decode(data)
                    yield event_id, msgspec.Raw(data)
                event_id, data = "", b""
            elif line.startswith(b"id:"):
                event_id = line[3:].strip().decode(errors="replace")
            elif line.startswith(b"data:"):
                data += line[5:].strip()
