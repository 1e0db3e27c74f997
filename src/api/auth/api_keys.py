"""API keys: their text, the identity that each proves, their rates, and the open requests that end with them.

A key is `tsk_<id>_<secret><checksum>`. The log has its SHA-256 only. The secret is 256 random bits, so nobody can try
them out: a slow hash would protect nothing, and cost each request. A guess costs one comparison of text, with a correct
checksum one look-up and one SHA-256, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from hmac import compare_digest

import msgspec
import structlog
from msgspec import Struct

from ...clock import utc_now
from ...commands.key import ApiKey
from ...errors import RateExceeded, StoreError
from ...events.ids import KeyRef, parse_key_id
from ...instants import epoch_seconds
from ...projections.keys import KeyEnded, KeyRing
from ...runtime.service import Service
from ...streams.buckets import Bucket, Write
from ..middleware import MAY_TAKE_LONG
from .identity import API_KEY_PREFIX, LATEST, Identity, Unauthenticated
from .keys import Clock, KeysUnavailable
from .narrowing import TypeReach

log = structlog.get_logger(__name__)

SECRET_BYTES = 32
SECRET_DIGITS = 43
"""Digits (base 62) of a secret: 62**43 > 2**256."""
CHECK_DIGITS = 6
USED = "key."
"""Prefix of the keys of last uses in the bucket `heartbeats`."""
LONGEST_WAIT_SECONDS = 86_400.0
"""The most that `Retry-After` says."""
NOTED_EVERY_SECONDS = 60.0
"""How often a process writes the last use of a key, at most."""
STREAM_GRACE_SECONDS = 1.0
"""Streams end when their key expires, with a last message; what has not ended by then is cut off."""
LOOKED_AGAIN_SECONDS = 0.5
"""How soon after the end of its key a request that begins to wait is ended."""
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(rf"tsk_([0-9A-Z]{{26}})_[0-9A-Za-z]{{{SECRET_DIGITS + CHECK_DIGITS}}}", re.ASCII)
UNKNOWN = "no such API key, or it was revoked long ago"


class LastUse(Struct, frozen=True):
    """The value of a last use."""

    seen_at: datetime


def new_key(ref: KeyRef) -> str:
    """Return the text of a new key with this id. It is shown once, and stored nowhere."""
    body = f"{API_KEY_PREFIX}{ref.unique}_{_base62(secrets.randbits(8 * SECRET_BYTES), SECRET_DIGITS)}"
    return body + _checksum(body)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    """Return a checksum: it finds typing errors, and lets scanners tell keys from text. It protects nothing."""
    return _base62(zlib.crc32(body.encode()), CHECK_DIGITS)


def _base62(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        text = _DIGITS[digit] + text
    return text


class ApiKeys:
    """The API keys as this process accepts them."""

    def __init__(
        self,
        ring: KeyRing,
        uses: Bucket,
        reach: TypeReach,
        *,
        must_grant_payloads: bool = False,
        monotonic: Clock = time.monotonic,
    ) -> None:
        """`uses`: the bucket of last uses. `must_grant_payloads`: a key reads payloads only if it was made so."""
        self.ring = ring
        self.reach = reach
        """What keys reach that are for tasks of some types."""
        self.processes = 1
        """API processes, which share each rate."""
        self._must_grant_payloads = must_grant_payloads
        self._uses = uses
        self._monotonic = monotonic
        self._buckets: dict[str, RequestBucket] = {}
        self._open: dict[str, set[KeyUse]] = {}
        self._noted: dict[str, float] = {}
        """When the last use of each key was last written."""
        self._to_note: dict[KeyRef, datetime] = {}
        ring.on_revoked(self._end_revoked)

    def __deepcopy__(self, _: object) -> ApiKeys:
        """Return itself: Litestar copies the arguments of middleware, and all routers must know the same keys."""
        return self

    # Identities

    def identify(self, token: str) -> Identity:
        """Return the identity that a key proves.

        Raises Unauthenticated with a reason that repeats nothing of the key, and KeysUnavailable if this process cannot
        know whether the key was revoked.
        """
        found = _KEY.fullmatch(token)
        if found is None or not compare_digest(_checksum(token[:-CHECK_DIGITS]), token[-CHECK_DIGITS:]):
            raise Unauthenticated("the API key is mistyped or cut off: its checksum is wrong")
        state = self.ring.find(found[1])
        digest = digest_of(token)
        if state is None or not compare_digest(state.created.digest, digest):
            self._check_current()  # it may be new
            raise Unauthenticated(UNKNOWN)
        return self._identity(state)

    def identity(self, key_id: str) -> Identity:
        """Return the identity of a key by its id, for a token that was made with it. Raises as `identify` does."""
        state = self.ring.find(key_id.partition("~")[0])
        if state is None:
            self._check_current()
            raise Unauthenticated(UNKNOWN)
        return self._identity(state)

    def _check_current(self) -> None:
        if not self.ring.is_current:
            raise KeysUnavailable(
                "API keys are not accepted now: this process has no news from NATS, and cannot know which were revoked"
            )

    def _identity(self, state: ApiKey) -> Identity:
        self._check_current()
        now = utc_now()
        try:
            until = self.ring.accepted_until(state, now)
        except KeyEnded as ended:
            raise Unauthenticated(f"the API key {ended}") from None
        created = state.created
        return Identity(
            created.owner,
            frozenset(created.roles),
            LATEST if until is None else epoch_seconds(until),
            None if created.servers is None else frozenset(created.servers),
            payloads=created.payloads is True if self._must_grant_payloads else created.payloads is not False,
            key_id=created.key_id,
            types=frozenset(created.types) or None,
        )

    # Rates and uses

    def admit(self, identity: Identity) -> None:
        """Count a request with a key. Raises RateExceeded."""
        unique = identity.key_id.partition("~")[0]
        state = self.ring.find(unique)
        if state is None:
            return
        now = self._monotonic()
        limited = [each for each in self.ring.lineage(state) if each.created.per_second is not None]
        buckets = [self._bucket(each, now) for each in limited]
        waits = [bucket.wait_seconds() for bucket in buckets]
        if longest := max(waits, default=0.0):
            slowest = limited[waits.index(longest)].created.per_second
            raise RateExceeded(slowest or 0.0, max(1, math.ceil(min(longest, LONGEST_WAIT_SECONDS))))
        for bucket in buckets:
            bucket.take()
        if now - self._noted.get(unique, -math.inf) >= NOTED_EVERY_SECONDS:
            self._noted[unique] = now
            self._to_note[parse_key_id(identity.key_id)] = utc_now()

    def _bucket(self, state: ApiKey, now: float) -> RequestBucket:
        unique = state.created.key_id.partition("~")[0]
        bucket = self._buckets.get(unique)
        if bucket is None:
            bucket = self._buckets[unique] = RequestBucket(now)
        bucket.refill((state.created.per_second or 0.0) / self.processes, now)
        return bucket

    async def note_uses(self) -> int:
        """Write the last uses that are not written yet; return how many. What cannot be written is dropped."""
        noted, self._to_note = self._to_note, {}
        if noted:
            with contextlib.suppress(StoreError):
                await self._uses.put_many(
                    [Write(use_key(ref), msgspec.json.encode(LastUse(at))) for ref, at in noted.items()]
                )
        for known in (self._noted, self._buckets):
            for unique in [unique for unique in known if self.ring.find(unique) is None]:
                del known[unique]
        return len(noted)

    async def last_uses(self, refs: Sequence[KeyRef]) -> dict[KeyRef, datetime]:
        """Return when each of these keys was last used, up to a minute ago; without those that never were."""
        entries = await self._uses.get_many([use_key(ref) for ref in refs])
        return {
            ref: msgspec.json.decode(entry.value, type=LastUse).seen_at
            for ref in refs
            if (entry := entries.get(use_key(ref))) is not None
        }

    # Open requests

    def watch(self, identity: Identity, end: Callable[[], None], grace_seconds: float = 0.0) -> KeyUse:
        """Have `end` called once the key of an identity is revoked or has expired; close the result before.

        `grace_seconds`: how long after it has expired.
        """
        return KeyUse(self, identity, end, grace_seconds)

    @contextlib.asynccontextmanager
    async def while_valid(self, identity: Identity, scope: dict[str, object]) -> AsyncIterator[None]:
        """End what a request waits for once its key has ended. Raises EndedWithKey then.

        A request that does not wait is finished: it came while the key was valid.
        """
        loop = asyncio.get_running_loop()
        again: asyncio.TimerHandle | None = None
        limit = asyncio.timeout(None)

        def end() -> None:
            nonlocal again
            if MAY_TAKE_LONG in scope:
                limit.reschedule(loop.time())
            else:  # it may begin to wait
                again = loop.call_later(LOOKED_AGAIN_SECONDS, end)

        try:
            async with limit:
                use = self.watch(identity, end, STREAM_GRACE_SECONDS)
                try:
                    yield
                finally:
                    use.close()
                    if again is not None:
                        again.cancel()
        except TimeoutError:
            if limit.expired():
                raise EndedWithKey from None
            raise

    def add(self, use: KeyUse) -> None:
        self._open.setdefault(use.unique, set()).add(use)

    def remove(self, use: KeyUse) -> None:
        uses = self._open.get(use.unique)
        if uses is not None:
            uses.discard(use)
            if not uses:
                del self._open[use.unique]

    def _end_revoked(self) -> None:
        now = utc_now()
        for unique, uses in list(self._open.items()):
            if not self.ring.is_accepted(unique, now):
                for use in list(uses):
                    use.end()


class EndedWithKey(Exception):
    """The API key of an open request was revoked, or has expired."""


class KeyUse:
    """An open request, stream or socket of a key."""

    def __init__(self, keys: ApiKeys, identity: Identity, end: Callable[[], None], grace_seconds: float) -> None:
        self.unique = identity.key_id.partition("~")[0]
        self._keys = keys
        self._end = end
        self._has_ended = False
        left = identity.seconds_left(utc_now())
        self._timer = asyncio.get_running_loop().call_later(max(0.0, left) + grace_seconds, self.end)
        keys.add(self)
        if not keys.ring.is_accepted(self.unique, utc_now()):
            self.end()

    def end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._end()

    def close(self) -> None:
        self._has_ended = True
        self._timer.cancel()
        self._keys.remove(self)


class RequestBucket:
    """Requests that a key may make now: those of one second at once, at least one."""

    def __init__(self, now: float) -> None:
        self._rate = 0.0
        self._tokens: float | None = None
        self._at = now

    def refill(self, per_second: float, now: float) -> None:
        most = max(1.0, per_second)
        tokens = most if self._tokens is None else self._tokens + (now - self._at) * per_second
        self._rate, self._tokens, self._at = per_second, min(most, tokens), now

    def wait_seconds(self) -> float:
        """Return how long the next request must wait; 0: not at all."""
        return 0.0 if self._tokens is None or self._tokens >= 1.0 else (1.0 - self._tokens) / self._rate

    def take(self) -> None:
        if self._tokens is not None:
            self._tokens -= 1.0


def use_key(ref: KeyRef) -> str:
    """Return the key of the last use of an API key, in the bucket `heartbeats`."""
    return f"{USED}{ref.owner}.{ref.unique}"


class KeyUses(Service):
    """Writes the last uses of keys, and counts the processes that share their rates."""

    def __init__(self, keys: ApiKeys, processes: Callable[[], int]) -> None:
        super().__init__("key-uses", period_seconds=1.0)
        self._keys = keys
        self._processes = processes

    async def run_once(self) -> dict[str, int]:
        self._keys.processes = max(1, self._processes())
        return {"noted": await self._keys.note_uses()}
