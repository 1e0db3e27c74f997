"""The API keys, folded from their log in each API process: a request with a key asks nobody.

A process must know that no key was revoked meanwhile. So it asks NATS for the end of the log again and again, and
accepts no key once STALE_SECONDS have passed since the last request whose answer its fold has reached. Whoever revokes
a key and waits that long knows that no process accepts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct, field
from nats.aio.msg import Msg

from ..commands import key
from ..commands.key import ApiKey, ApiKeyState
from ..errors import Forbidden, StoreError, StoreUnavailable
from ..events.codec import key_codec
from ..events.ids import KeyRef
from ..events.subjects import KEY_SUBJECTS, KEYS_APPLIED, key_ref
from ..runtime.service import Service
from ..streams.client.connection import Connection
from ..streams.jetstream.consumers import follow
from ..streams.jetstream.messages import Position, stream_info
from ..streams.leases import Membership
from ..streams.log import decode
from ..streams.topology.definitions import KEYS

STALE_SECONDS = 5.0
"""How long a process accepts keys without news from NATS. If you raise it, a revocation may take that long."""
CONFIRMED_EVERY_SECONDS = 1.0
ENDED_KEPT = 200
"""Keys of one owner that are listed after they ended, the last to end; the log has all."""
MOST_GENERATIONS = 4
"""Keys that made each other, one after another."""


class _OwnersKeys(Struct):
    """The keys of one owner, by the unique parts of their ids."""

    kept: dict[str, ApiKey] = field(default_factory=dict)
    revoked: deque[str] = field(default_factory=deque)
    made: int = 0
    """How many there ever were."""


class KeyRing:
    """The API keys as of the events applied."""

    def __init__(self) -> None:
        self.members: Membership | None = None
        """This process among those of the API; None: it is none."""
        self.sequence = 0
        """Of the last event applied."""
        self._keys: dict[str, ApiKey] = {}
        """By the unique part of the id, which the text of a key has."""
        self._owners: dict[str, _OwnersKeys] = {}
        self._moved = asyncio.Event()
        self._confirmed_at = -1e9
        self._watchers: list[Callable[[], None]] = []

    def on_revoked(self, react: Callable[[], None]) -> None:
        """Call `react` whenever keys were revoked."""
        self._watchers.append(react)

    # The fold

    def apply(self, positions: Sequence[Position]) -> None:
        """Fold events, in order. Raises UnreadableEvent."""
        has_revoked = False
        for position in positions:
            ref = key_ref(position.subject)
            state: ApiKeyState = self._keys.get(ref.unique, key.UNMADE)
            changed = key.evolve(state, decode(key_codec, position).recorded)
            if isinstance(changed, ApiKey):
                has_revoked |= self._keep(ref, changed, is_new=isinstance(state, key.Unmade))
            self.sequence = position.sequence
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        if has_revoked:
            for react in self._watchers:
                react()

    def _keep(self, ref: KeyRef, state: ApiKey, *, is_new: bool) -> bool:
        """Keep a key as it is now; return True if it is revoked."""
        owner = self._owners.setdefault(ref.owner, _OwnersKeys())
        owner.made += is_new
        if is_new and len(owner.kept) > 2 * ENDED_KEPT:
            self._drop_expired(owner, state.created_at)
        self._keys[ref.unique] = owner.kept[ref.unique] = state
        if state.revoked_at is None:
            return False
        owner.revoked.append(ref.unique)
        if len(owner.revoked) > ENDED_KEPT:
            oldest = owner.revoked.popleft()
            self._keys.pop(oldest, None)
            owner.kept.pop(oldest, None)
        return True

    def _drop_expired(self, owner: _OwnersKeys, before: datetime) -> None:
        """Keep few of the keys of an owner that had expired at an instant."""
        expired = [
            unique for unique, state in owner.kept.items() if state.revoked_at is None and not state.is_live(before)
        ]
        for unique in expired[:-ENDED_KEPT]:
            del owner.kept[unique]
            del self._keys[unique]

    def clear(self) -> None:
        """Forget everything: the log was replaced."""
        self.sequence, self._confirmed_at = 0, -1e9
        self._keys, self._owners = {}, {}

    async def reached(self, sequence: int) -> None:
        """Return once all events up to a sequence are applied."""
        while self.sequence < sequence:
            await self._moved.wait()

    # What it knows

    def find(self, unique: str) -> ApiKey | None:
        """Return a key by the unique part of its id, live or not."""
        return self._keys.get(unique)

    def lineage(self, state: ApiKey) -> list[ApiKey]:
        """Return a key, the key that made it, and so on; an ancestor that is no longer kept ends the list."""
        found = [state]
        while parent := found[-1].created.parent:
            made_by = self._keys.get(parent.partition("~")[0])
            if made_by is None or len(found) > MOST_GENERATIONS:
                break
            found.append(made_by)
        return found

    def accepted_until(self, state: ApiKey, now: datetime) -> datetime | None:
        """Return when a key expires, with those that made it; None: never. Raises KeyEnded for one that has ended."""
        ends: datetime | None = None
        oldest = state
        for oldest in self.lineage(state):
            if oldest.revoked_at is not None:
                raise KeyEnded("was revoked")
            expires_at = oldest.created.expires_at
            if expires_at is not None and expires_at <= now:
                raise KeyEnded("has expired")
            ends = expires_at if ends is None else min(ends, expires_at or ends)
        if oldest.created.parent:
            raise KeyEnded("was made by a key that is unknown here")
        return ends

    def is_accepted(self, unique: str, now: datetime) -> bool:
        """Return True if a key has not ended, nor a key that made it."""
        state = self._keys.get(unique)
        try:
            if state is not None:
                self.accepted_until(state, now)
        except KeyEnded:
            return False
        return state is not None

    def of(self, owner: str | None) -> Mapping[KeyRef, ApiKey]:
        """Return the keys of an owner token, of everybody for None: those that live, and the last that were revoked."""
        owners = self._owners if owner is None else {owner: self._owners.get(owner) or _OwnersKeys()}
        return {
            KeyRef(each, unique): state for each, of_owner in owners.items() for unique, state in of_owner.kept.items()
        }

    def live(self, owner: str, now: datetime) -> int:
        """Return how many keys of an owner token have neither expired nor been revoked."""
        return sum(state.is_live(now) for state in self.of(owner).values())

    def made(self, owner: str) -> int:
        """Return how many keys an owner token ever had."""
        found = self._owners.get(owner)
        return found.made if found else 0

    def reaches_all(self, key_id: str) -> bool:
        """Return True if a key reaches tasks of all types. An empty id is no key."""
        if not key_id:
            return True
        state = self._keys.get(key_id.partition("~")[0])
        return state is not None and not state.created.types

    def reaches(self, key_id: str, task_type: str) -> bool:
        """Return True if a key reaches tasks of a type."""
        state = self._keys.get(key_id.partition("~")[0])
        return self.reaches_all(key_id) or (state is not None and task_type in state.created.types)

    def check_type(self, key_id: str, task_type: str) -> None:
        """Raise Forbidden if a key does not reach tasks of a type. An empty id is no key, which reaches all."""
        if not key_id:
            return
        state = self._keys.get(key_id.partition("~")[0])
        if state is None:
            raise Forbidden("this API key has ended")
        types = state.created.types
        if types and task_type not in types:
            raise Forbidden(f"this API key submits only tasks of the types {', '.join(types)}, not {task_type!r}")

    # How current it is

    def confirm(self, asked_at: float) -> None:
        """Record that all was applied that the log had at an instant of the monotonic clock."""
        self._confirmed_at = max(self._confirmed_at, asked_at)

    @property
    def is_current(self) -> bool:
        """True if no key can have been revoked for long without this process having applied it."""
        return time.monotonic() - self._confirmed_at < STALE_SECONDS


class KeyEnded(Exception):
    """The key was revoked or has expired. The text says which, as the end of a sentence."""


class KeyFollower(Service):
    """Keeps the keys up to date with the log, and knows that they are."""

    def __init__(self, ring: KeyRing, connection: Connection, reading: Connection) -> None:
        super().__init__("keys", period_seconds=CONFIRMED_EVERY_SECONDS)
        self._ring = ring
        self._connection = connection
        self._reading = reading
        self._answering: set[asyncio.Task[None]] = set()
        self.is_current = asyncio.Event()
        """Set once the keys are current for the first time."""

    async def _prepare(self) -> None:
        await self._connection.listen(KEYS_APPLIED, self._on_request)

    async def _serve(self) -> None:
        await self._serve_together(self._follow(), self._confirm())

    def _on_request(self, message: Msg) -> None:
        """Answer which process this is, once it has applied the log up to a sequence."""
        if message.reply and message.data.isdigit():
            answering = asyncio.create_task(self._answer(message.reply, int(message.data)), name="keys-applied")
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def _answer(self, reply: str, sequence: int) -> None:
        members = self._ring.members
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(STALE_SECONDS):
                await self._ring.reached(sequence)
            if members is not None:
                await self._connection.publish(reply, members.id.encode())

    async def _follow(self) -> None:
        async for positions in follow(self._connection, KEYS, [KEY_SUBJECTS], self._ring.sequence):
            self._ring.apply(positions)

    async def _confirm(self) -> None:
        while True:
            asked_at = time.monotonic()
            end = int((await stream_info(self._reading, KEYS, reaches=self._ring.sequence))["state"]["last_seq"])
            if end < self._ring.sequence:
                self._ring.clear()
                raise StoreUnavailable("the log of API keys was replaced")
            try:
                async with asyncio.timeout(STALE_SECONDS):
                    await self._ring.reached(end)
            except TimeoutError:
                raise StoreUnavailable("the log of API keys cannot be followed") from None
            self._ring.confirm(asked_at)
            self.is_current.set()
            await self._pause(CONFIRMED_EVERY_SECONDS)
