"""Which server gets a task: a pure choice among those that can take it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..settings import Balancing


class Candidate(NamedTuple):
    """A server with room for one more."""

    server_id: str
    running: int
    capacity: int
    weight: int


Choice = Callable[[Sequence[Candidate]], Candidate]


def chooser(balancing: Balancing, chance: Callable[[], float]) -> Choice:
    """Return the function that chooses among candidates, of which there is at least one.

    least-loaded: the smallest part of its capacity in use, in turn where several are equal. round-robin: each in turn.
    weighted: by chance in proportion to weight. random: by chance. `chance` gives numbers in [0, 1).
    """
    turn = -1

    def in_turn(candidates: Sequence[Candidate]) -> Candidate:
        nonlocal turn
        turn += 1
        return candidates[turn % len(candidates)]

    def least_loaded(candidates: Sequence[Candidate]) -> Candidate:
        if len(candidates) == 1:
            return candidates[0]
        least = min(candidate.running / candidate.capacity for candidate in candidates)
        return in_turn([candidate for candidate in candidates if candidate.running / candidate.capacity == least])

    def weighted(candidates: Sequence[Candidate]) -> Candidate:
        mark = chance() * sum(candidate.weight for candidate in candidates)
        for candidate in candidates:
            mark -= candidate.weight
            if mark < 0:
                return candidate
        return candidates[-1]

    def at_random(candidates: Sequence[Candidate]) -> Candidate:
        return candidates[int(chance() * len(candidates))]

    return {
        "least-loaded": least_loaded,
        "round-robin": in_turn,
        "weighted": weighted,
        "random": at_random,
    }[balancing]
