"""Which server gets a task: a choice among those with room, kept in such an order that it looks at few of them.

A *line* holds the servers with room that serve one type; a choice is made among the few lines whose servers serve a
task. Where a policy is one of order, a change of a server and a choice take O(log servers); where it is one of chance,
O(different weights).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, assert_never

from ...settings import Balancing

OUTDATED_RANKS = 16
"""How many outdated ranks a short line may keep; a long one keeps no more than it has servers."""


class Candidate(NamedTuple):
    """A server with room for one more."""

    server_id: str
    running: int
    capacity: int
    weight: int
    turn: int = 0
    """The number of the choice that last gave it a task; 0: none did yet."""


class CandidateLine(Protocol):
    """Servers of which one is to be chosen."""

    def put(self, candidate: Candidate) -> None:
        """Add a server, or bring it up to date."""

    def remove(self, server_id: str) -> None:
        """Take a server out; one that is not there is no error."""


Rank: TypeAlias = tuple[float, int, str]
"""The least is chosen first. Ends with the server's id, so that no two are equal."""


class Ranked:
    """A line in the order of rank."""

    def __init__(self, rank: Callable[[Candidate], Rank]) -> None:
        self._rank = rank
        self._ranks: dict[str, Rank] = {}
        self._heap: list[Rank] = []
        """Those ranks, and outdated ones, which are passed over when their turn comes."""

    def put(self, candidate: Candidate) -> None:
        rank = self._ranks[candidate.server_id] = self._rank(candidate)
        heapq.heappush(self._heap, rank)
        if len(self._heap) > 2 * len(self._ranks) + OUTDATED_RANKS:
            self._heap = list(self._ranks.values())
            heapq.heapify(self._heap)

    def remove(self, server_id: str) -> None:
        self._ranks.pop(server_id, None)

    def first(self) -> Rank | None:
        """Return the least rank, None if the line is empty."""
        while self._heap and self._ranks.get(self._heap[0][-1]) != self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None


class Drawn:
    """A line from which one is drawn by chance, in proportion to weight."""

    def __init__(self, weigh: Callable[[Candidate], int]) -> None:
        self.total = 0
        """The sum of all weights."""
        self._weigh = weigh
        self._by_weight: dict[int, list[str]] = {}
        self._places: dict[str, tuple[int, int]] = {}
        """By server: its weight, and where among those of that weight it is."""

    def put(self, candidate: Candidate) -> None:
        weight = self._weigh(candidate)
        self.remove(candidate.server_id)
        servers = self._by_weight.setdefault(weight, [])
        self._places[candidate.server_id] = weight, len(servers)
        servers.append(candidate.server_id)
        self.total += weight

    def remove(self, server_id: str) -> None:
        if server_id not in self._places:
            return
        weight, index = self._places[server_id]
        servers = self._by_weight[weight]
        servers[index] = servers[-1]
        self._places[servers[index]] = weight, index
        servers.pop()
        del self._places[server_id]
        if not servers:
            del self._by_weight[weight]
        self.total -= weight

    def at(self, point: int) -> str:
        """Return the server at a point in [0, total), of which each takes up as much as its weight."""
        for weight, servers in self._by_weight.items():
            if point < weight * len(servers):
                return servers[point // weight]
            point -= weight * len(servers)
        raise IndexError(point)


L = TypeVar("L", bound=CandidateLine)


class Policy(Protocol[L]):
    """A way of balancing."""

    def new_line(self) -> L: ...

    def choose(self, lines: Iterable[L]) -> str | None:
        """Return the server that gets a task, None if all lines are empty. A server is in one of them at most."""


class InOrder:
    """The server of least rank gets the task."""

    def __init__(self, rank: Callable[[Candidate], Rank]) -> None:
        self._rank = rank

    def new_line(self) -> Ranked:
        return Ranked(self._rank)

    def choose(self, lines: Iterable[Ranked]) -> str | None:
        first = min((rank for line in lines if (rank := line.first())), default=None)
        return first[-1] if first else None


class ByChance:
    """Each server gets the task with a chance in proportion to its weight. `chance` gives numbers in [0, 1)."""

    def __init__(self, weigh: Callable[[Candidate], int], chance: Callable[[], float]) -> None:
        self._weigh = weigh
        self._chance = chance

    def new_line(self) -> Drawn:
        return Drawn(self._weigh)

    def choose(self, lines: Iterable[Drawn]) -> str | None:
        lines = list(lines)
        point = int(self._chance() * sum(line.total for line in lines))
        for line in lines:
            if point < line.total:
                return line.at(point)
            point -= line.total
        return None


def policy(balancing: Balancing, chance: Callable[[], float]) -> Policy[Any]:
    """Return a way of balancing.

    least-loaded: the smallest part of its capacity in use, in turn where several are equal. round-robin: each in turn.
    weighted: by chance in proportion to weight. random: by chance. `chance` gives numbers in [0, 1).
    """
    match balancing:
        case "least-loaded":
            return InOrder(lambda server: (server.running / server.capacity, server.turn, server.server_id))
        case "round-robin":
            return InOrder(lambda server: (0, server.turn, server.server_id))
        case "weighted":
            return ByChance(lambda server: server.weight, chance)
        case "random":
            return ByChance(lambda _: 1, chance)
        case _:
            assert_never(balancing)
