"""The one reader of the clock and of randomness; everywhere else they are arguments."""

from __future__ import annotations

import os
import random
import secrets
import string
from datetime import UTC, datetime

_random = random.Random()  # noqa: S311 - not for secrets
"""Of our own: whoever seeds the module's (a library, a test) must not make us repeat ids."""
os.register_at_fork(after_in_child=_random.seed)
_SAFE = f"{string.ascii_letters}{string.digits}-_"
_PAIRS = [first + second for first in _SAFE for second in _SAFE]


def utc_now() -> datetime:
    return datetime.now(UTC)


def jitter() -> float:
    """Return a number in [0, 1) that spreads retries."""
    return _random.random()


def secret_token(size: int = 16) -> str:
    """Return `size` bytes nobody can guess, as URL-safe text."""
    return secrets.token_urlsafe(size)


def random_bits(count: int) -> int:
    """Return bits that make a name unique; they guard nothing, and cost no system call."""
    return _random.getrandbits(count)


def event_id() -> str:
    """Return 48 random bits as eight URL-safe characters: unique among the appends to one history."""
    bits = _random.getrandbits(48)
    return f"{_PAIRS[bits & 4095]}{_PAIRS[bits >> 12 & 4095]}{_PAIRS[bits >> 24 & 4095]}{_PAIRS[bits >> 36]}"


def unique_id() -> str:
    """Return 64 random bits in hex."""
    return f"{_random.getrandbits(64):016x}"
