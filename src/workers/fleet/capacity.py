"""Which server has a free slot: how many slots each pool has free, and which server gets the next task.

Updated server by server, so that no answer has to go over all of them. For each type the servers with a free slot are
kept as *candidates*, in the order of the balancing policy: a change of a server and a choice cost O(log servers) where
the policy ranks, O(distinct weights) where it draws by chance.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, assert_never

from msgspec import Struct, field

from ...events.task import MODEL
from ...scheduling.affinity import attachment
from ...settings import Balancing

NO_LABELS: Mapping[str, str] = {}
ANY = None
"""Stands for the types and pools of a server that serves all."""
OUTDATED_RANKS = 16
"""How many outdated ranks a short heap may keep; a long one keeps no more than it has servers."""


class ServerCapacity(Struct, frozen=True, kw_only=True):
    """A server that may be sent tasks, whether or not it has a free slot now."""

    candidate: Candidate
    types: tuple[str, ...]
    """Empty: all, and so all pools."""
    pools: frozenset[str]
    """In which tasks of its types may wait."""
    labels: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()

    @property
    def free_slots(self) -> int:
        return max(0, self.candidate.capacity - self.candidate.running)

    @property
    def serves(self) -> tuple[object, ...]:
        """Its place in the index of servers."""
        return self.types, self.pools, self.labels, self.models

    def label_keys(self) -> Iterator[tuple[str, str]]:
        """Yield its labels, and its models as labels."""
        yield from self.labels.items()
        yield from ((MODEL, model) for model in self.models)

    @property
    def type_keys(self) -> Iterable[str | None]:
        return self.types or (ANY,)

    @property
    def pool_keys(self) -> Iterable[str | None]:
        return self.pools if self.types else (ANY,)

    def shared_labels(self, labels: Mapping[str, str]) -> int:
        """Return how many of these labels it has."""
        return sum(self.labels.get(key) == value for key, value in labels.items())


class Capacity:
    """The servers that may be sent tasks, indexed by type, pool and label."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._servers: dict[str, ServerCapacity] = {}
        self._candidates: dict[str | None, Candidates] = {}
        """By type, the servers that have a free slot."""
        self._labelled: dict[tuple[str, str], set[str]] = {}
        """By label or model, the ids of the servers that have it, with a free slot or without."""
        self._with_free_slot: set[str] = set()
        self._serving: Counter[str | None] = Counter()
        """By pool."""
        self._free_slots: Counter[str | None] = Counter()
        """By pool."""
        self.total_free_slots = 0
        """How many more tasks can be placed, whatever their pools."""

    def put(self, server: ServerCapacity) -> None:
        """Add or replace a server."""
        server_id = server.candidate.server_id
        before = self._servers.get(server_id)
        if before is None or before.serves != server.serves:
            if before is not None:
                self.remove(server_id)
            for label in server.label_keys():
                self._labelled.setdefault(label, set()).add(server_id)
            self._count(server, 1)
        elif gained := server.free_slots - before.free_slots:
            self.total_free_slots += gained
            for pool in server.pool_keys:
                self._free_slots[pool] += gained
        self._servers[server_id] = server
        if server.free_slots:
            self._with_free_slot.add(server_id)
            for name in server.type_keys:
                self._candidates_of(name).put(server.candidate)
        else:
            self._remove_candidate(server)

    def remove(self, server_id: str) -> None:
        """Remove a server. Does nothing if it is not there."""
        server = self._servers.pop(server_id, None)
        if server is not None:
            self._count(server, -1)
            self._remove_candidate(server)
            self._unlabel(server)

    def free_slots(self, pool: str) -> int:
        """Return how many more tasks of a pool can be placed."""
        return self._free_slots[pool] + self._free_slots[ANY]

    def serves(self, pool: str) -> bool:
        """Return True if any server serves a pool, whether or not it has a free slot."""
        return self._serving[pool] + self._serving[ANY] > 0

    def choose(
        self,
        task_type: str,
        avoid: str = "",
        require: Mapping[str, str] = NO_LABELS,
        prefer: Mapping[str, str] = NO_LABELS,
        kept: Collection[str] = (),
        session: str = "",
    ) -> str | None:
        """Return the server that gets the next task of a type; None if none has a free slot.

        The server has all required labels, and no other has more of the preferred ones; of several, it is the one that
        the session is attached to. The one to `avoid` is chosen only if there is no other, those in `kept` never. Costs
        O(log servers) without labels and session; with labels it goes over the servers that have them, with a session
        over those with a free slot.
        """
        if not kept:
            return self._choose_by_labels(task_type, avoid, require, prefer, session)
        with self._without(kept):
            return self._choose_by_labels(task_type, avoid, require, prefer, session)

    def able(self, task_type: str, require: Mapping[str, str]) -> list[str]:
        """Return the servers with a free slot that can take tasks of a type and have all required labels."""
        found = self._having(require, all_of=True) if require else map(self._servers.__getitem__, self._with_free_slot)
        return [each.candidate.server_id for each in found if not each.types or task_type in each.types]

    def free_slots_of(self, server_ids: Iterable[str]) -> int:
        """Return how many more tasks can be placed on some servers."""
        return sum(self._servers[server_id].free_slots for server_id in server_ids)

    @contextlib.contextmanager
    def _without(self, server_ids: Collection[str]) -> Iterator[None]:
        """Keep some servers from being chosen meanwhile. Those without a free slot, or unknown, never are."""
        found = map(self._servers.get, server_ids)
        left = [server for server in found if server is not None and server.free_slots]
        for server in left:
            self._remove_candidate(server)
        try:
            yield
        finally:
            for server in left:
                self.put(server)

    def _choose_by_labels(
        self, task_type: str, avoid: str, require: Mapping[str, str], prefer: Mapping[str, str], session: str
    ) -> str | None:
        if not require and not prefer and not session:
            return self._choose_any(task_type, avoid)
        if require or not session:
            having = self._having(require or prefer, all_of=bool(require))
        else:
            having = map(self._servers.__getitem__, self._with_free_slot)
        found = [each for each in having if not each.types or task_type in each.types]
        others = [each for each in found if each.candidate.server_id != avoid]
        if not require and not others and not session:
            return self._choose_any(task_type, avoid)
        found = others or found
        best = max((each.shared_labels(prefer) for each in found), default=0) if prefer else 0
        equals = [each.candidate for each in found if not prefer or each.shared_labels(prefer) == best]
        if session:
            scores = ((attachment(session, each.server_id, each.weight), each.server_id) for each in equals)
            return max(scores, default=(0.0, None))[1]
        candidates = self._policy.new_candidates()
        for each in equals:
            candidates.put(each)
        return self._policy.choose([candidates])

    def _having(self, labels: Mapping[str, str], *, all_of: bool) -> Iterable[ServerCapacity]:
        """Return the servers with a free slot that have all of these labels, or any of them."""
        sets = [self._labelled.get(label, set()) & self._with_free_slot for label in labels.items()]
        ids = set.intersection(*sets) if all_of else set.union(*sets)
        return [self._servers[server_id] for server_id in ids]

    def _choose_any(self, task_type: str, avoid: str) -> str | None:
        if avoid not in self._with_free_slot:
            return self._choose(task_type)
        with self._without([avoid]):
            chosen = self._choose(task_type)
        return chosen if chosen is not None else self._choose(task_type)

    def _choose(self, task_type: str) -> str | None:
        return self._policy.choose([self._candidates[name] for name in (task_type, ANY) if name in self._candidates])

    def _candidates_of(self, name: str | None) -> Candidates:
        candidates = self._candidates.get(name)
        if candidates is None:
            candidates = self._candidates[name] = self._policy.new_candidates()
        return candidates

    def _remove_candidate(self, server: ServerCapacity) -> None:
        self._with_free_slot.discard(server.candidate.server_id)
        for name in server.type_keys:
            self._candidates_of(name).remove(server.candidate.server_id)

    def _unlabel(self, server: ServerCapacity) -> None:
        for label in server.label_keys():
            self._labelled[label].discard(server.candidate.server_id)
            if not self._labelled[label]:
                del self._labelled[label]

    def _count(self, server: ServerCapacity, sign: int) -> None:
        self.total_free_slots += sign * server.free_slots
        for pool in server.pool_keys:
            self._serving[pool] += sign
            self._free_slots[pool] += sign * server.free_slots


# The balancing policy


class Candidate(NamedTuple):
    """A server with a free slot."""

    server_id: str
    running: int
    capacity: int
    weight: int
    last_choice: int = 0
    """Number of the choice that last gave it a task; 0: none did yet."""


class Candidates(Protocol):
    """Servers of one type of task, of which a policy chooses one."""

    def put(self, candidate: Candidate) -> None:
        """Add or replace a server."""

    def remove(self, server_id: str) -> None:
        """Remove a server. Does nothing if it is not there."""


Rank: TypeAlias = tuple[float, int, str]
"""The least is chosen first. Ends with the server's id, so that no two are equal."""


class RankedCandidates:
    """Candidates in order of rank."""

    def __init__(self, rank: Callable[[Candidate], Rank]) -> None:
        self._rank = rank
        self._ranks: dict[str, Rank] = {}
        self._heap: list[Rank] = []
        """Those ranks, and outdated ones, which `first` drops."""

    def put(self, candidate: Candidate) -> None:
        rank = self._ranks[candidate.server_id] = self._rank(candidate)
        heapq.heappush(self._heap, rank)
        if len(self._heap) > 2 * len(self._ranks) + OUTDATED_RANKS:
            self._heap = list(self._ranks.values())
            heapq.heapify(self._heap)

    def remove(self, server_id: str) -> None:
        self._ranks.pop(server_id, None)

    def first(self) -> Rank | None:
        """Return the least rank; None if there are no candidates."""
        while self._heap and self._ranks.get(self._heap[0][-1]) != self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None


class WeightedCandidates:
    """Candidates of which one is drawn by chance, in proportion to weight."""

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
        """Return the server at a point in [0, total), of which each takes as much as its weight."""
        for weight, servers in self._by_weight.items():
            if point < weight * len(servers):
                return servers[point // weight]
            point -= weight * len(servers)
        raise IndexError(point)


class Policy(NamedTuple):
    """A balancing policy."""

    new_candidates: Callable[[], Candidates]
    choose: Callable[[Sequence[Any]], str | None]
    """Returns the server that gets a task, of groups made by `new_candidates`; None if all are empty. A server is in at
    most one group."""


def _in_order(rank: Callable[[Candidate], Rank]) -> Policy:
    """Return the policy that gives a task to the server of least rank."""

    def choose(groups: Sequence[RankedCandidates]) -> str | None:
        first = min((rank for group in groups if (rank := group.first())), default=None)
        return first[-1] if first else None

    return Policy(lambda: RankedCandidates(rank), choose)


def _by_chance(weigh: Callable[[Candidate], int], chance: Callable[[], float]) -> Policy:
    """Return the policy that gives each server a task with a chance in proportion to its weight."""

    def choose(groups: Sequence[WeightedCandidates]) -> str | None:
        point = int(chance() * sum(group.total for group in groups))
        for group in groups:
            if point < group.total:
                return group.at(point)
            point -= group.total
        return None

    return Policy(lambda: WeightedCandidates(weigh), choose)


def policy(balancing: Balancing, chance: Callable[[], float]) -> Policy:
    """Return a balancing policy.

    least-loaded: the smallest part of its capacity in use; among equals the one not chosen for longest.
    round-robin: the one not chosen for longest. weighted: by chance, in proportion to weight. random: by chance.
    `chance` returns numbers in [0, 1).
    """
    match balancing:
        case "least-loaded":
            return _in_order(lambda server: (server.running / server.capacity, server.last_choice, server.server_id))
        case "round-robin":
            return _in_order(lambda server: (0, server.last_choice, server.server_id))
        case "weighted":
            return _by_chance(lambda server: server.weight, chance)
        case "random":
            return _by_chance(lambda _: 1, chance)
        case _:
            assert_never(balancing)
