"""Agreement of the API processes on the keys: what one of them appends to the log of keys, all have applied soon.

    request   keys.applied, with a sequence of the log
    answers   the id of each API process, once it has applied the log up to there

A process that does not answer is waited for until it accepts no key any more, because it has no news from NATS
(`projections/keys.py`). So this needs no list of all processes to be right; the answers only make it short.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from nats.aio.msg import Msg

from ..errors import StoreError
from ..events.subjects import KEYS_APPLIED
from ..projections.keys import STALE_SECONDS, KeyRing
from ..streams.client.connection import Connection

GRACE_SECONDS = 0.5
"""For clocks that do not run at exactly the same rate."""


class KeySpread:
    """The asking side of the agreement; `KeyFollower` answers."""

    def __init__(self, ring: KeyRing, connection: Connection) -> None:
        self._ring = ring
        self._connection = connection

    async def everywhere(self, sequence: int, seconds: float = STALE_SECONDS + GRACE_SECONDS) -> bool:
        """Wait until every API process has applied the log up to a sequence, or accepts no key, or for `seconds`.

        By default the seconds suffice for this. Return True if all processes have said so.
        """
        give_up_at = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(seconds):
                await self._ask(sequence)
                await self._ring.reached(sequence)
                return True
        await asyncio.sleep(max(0.0, give_up_at - time.monotonic()))  # also if NATS cannot be asked
        return False

    async def _ask(self, sequence: int) -> None:
        """Return once every other process has answered."""
        members = self._ring.members
        if members is None:
            return
        await members.observe()
        missing = set(members.present("api")) - {members.id}
        if not missing:
            return
        all_answered = asyncio.Event()

        def receive(message: Msg | None) -> None:
            if message is not None:
                missing.discard(message.data.decode(errors="replace"))
                if not missing:
                    all_answered.set()

        token = self._connection.open_inbox(receive)
        try:
            await self._connection.publish(KEYS_APPLIED, str(sequence).encode(), self._connection.inbox(token))
            await all_answered.wait()
        finally:
            self._connection.close_inbox(token)
