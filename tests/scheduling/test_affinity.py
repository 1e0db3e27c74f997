"""Which server a session is attached to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from taskstream.scheduling.affinity import attachment

SESSIONS = [f"session-{number}" for number in range(2_000)]


def winner(session: str, weights: Mapping[str, int]) -> str:
    return max(weights, key=lambda server: attachment(session, server, weights[server]))


def test_a_session_is_attached_to_the_same_server_in_every_process() -> None:
    servers = dict.fromkeys(["a", "b", "c"], 1)

    assert "".join(winner(session, servers) for session in SESSIONS[:8]) == "babbcbcb"


def test_sessions_are_shared_by_weight() -> None:
    shares = Counter(winner(session, {"a": 1, "b": 1, "c": 2}) for session in SESSIONS)

    assert 0.2 < shares["a"] / len(SESSIONS) < 0.3
    assert 0.45 < shares["c"] / len(SESSIONS) < 0.55


def test_when_a_server_leaves_only_its_own_sessions_move_and_not_all_to_one() -> None:
    servers = dict.fromkeys(["a", "b", "c", "d"], 1)
    left = {name: weight for name, weight in servers.items() if name != "a"}
    moved = [session for session in SESSIONS if winner(session, servers) != winner(session, left)]

    assert all(winner(session, servers) == "a" for session in moved)
    assert {winner(session, left) for session in moved} == left.keys()


@given(st.text(), st.text(), st.integers(1, 1_000))
def test_every_score_can_be_compared(session: str, server: str, weight: int) -> None:
    score = attachment(session, server, weight)

    assert score > 0
    assert not math.isnan(score)
