"""Session affinity: which server a session is attached to. Pure.

Rendezvous hashing: each server has a score for each session, the highest wins. So every worker finds the same server
without asking, and when a server leaves, only its own sessions move, each to another one.
"""

from __future__ import annotations

import hashlib
import math

_SCALE = 2.0**-64


def attachment(session: str, server_id: str, weight: int) -> float:
    """Return the score of a server for a session. A server of twice the weight wins twice as many sessions."""
    digest = hashlib.sha256(f"{session}\n{server_id}".encode()).digest()
    point = (int.from_bytes(digest[:8], "big") + 1) * _SCALE  # in (0, 1]
    return -weight / math.log(point) if point < 1 else math.inf
