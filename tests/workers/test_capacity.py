"""The index of servers that may be sent tasks says the same as a look at each of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from taskstream.events.task import MODEL
from taskstream.scheduling.affinity import attachment
from taskstream.settings import Balancing
from taskstream.workers.fleet.capacity import Candidate, Capacity, ServerCapacity, policy

TYPES = ("chapter", "clip", "song")
POOL_OF = {"chapter": "text", "clip": "video", "song": "video"}
MODELS = ("llama", "mistral")
POOLS = ("text", "video", "default")
labels = st.dictionaries(st.sampled_from(["gpu", "zone"]), st.sampled_from(["a", "b"]))

ids = st.sampled_from([f"s{number}" for number in range(8)])


@st.composite
def servers(draw: Any) -> ServerCapacity:
    capacity = draw(st.integers(1, 4))
    types = tuple(draw(st.lists(st.sampled_from(TYPES), unique=True, max_size=3)))
    return ServerCapacity(
        candidate=Candidate(
            draw(ids), draw(st.integers(0, capacity + 1)), capacity, draw(st.integers(1, 3)), draw(st.integers(0, 5))
        ),
        types=types,
        pools=frozenset({"default", *(POOL_OF[name] for name in types)}) if types else frozenset(),
        labels=draw(labels),
        models=tuple(draw(st.lists(st.sampled_from(MODELS), unique=True, max_size=2))),
    )


class Scan(RuleBasedStateMachine):
    """Every server looked at for every answer: what the index is compared with."""

    balancing: Balancing
    compare: Callable[..., None]
    """Of candidates, a type, the server to avoid, labels and those kept. Each kind of balancing has its own; it cannot
    be an abstract method, since Hypothesis has a metaclass of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = 0.0
        self.index = Capacity(policy(self.balancing, lambda: self.chance))
        self.servers: dict[str, ServerCapacity] = {}

    @rule(server=servers())
    def put(self, server: ServerCapacity) -> None:
        self.servers[server.candidate.server_id] = server
        self.index.put(server)

    @rule(server_id=ids)
    def remove(self, server_id: str) -> None:
        self.servers.pop(server_id, None)
        self.index.remove(server_id)

    @rule(server_id=ids, turn=st.integers(6, 50), more=st.booleans())
    @precondition(lambda self: self.servers)
    def load_changes(self, server_id: str, turn: int, more: bool) -> None:
        known = self.servers.get(server_id)
        if known is not None:
            running = max(0, known.candidate.running + (1 if more else -1))
            server = known.candidate._replace(running=running, last_choice=turn)
            self.put(replace(known, candidate=server))

    def candidates(self, task_type: str) -> list[Candidate]:
        return [
            server.candidate
            for server in self.servers.values()
            if server.free_slots and (not server.types or task_type in server.types)
        ]

    @invariant()
    def free_slots_are_the_same(self) -> None:
        for pool in POOLS:
            serving = [each for each in self.servers.values() if not each.types or pool in each.pools]
            assert self.index.free_slots(pool) == sum(each.free_slots for each in serving)
            assert self.index.serves(pool) == bool(serving)
        assert self.index.total_free_slots == sum(each.free_slots for each in self.servers.values())

    @invariant()
    def choices_are_the_same(self) -> None:
        for task_type in (*TYPES, "unknown"):
            self.compare(self.candidates(task_type), task_type, "")

    @rule(server_id=ids, task_type=st.sampled_from(TYPES))
    def choices_that_avoid_one_are_the_same(self, server_id: str, task_type: str) -> None:
        found = self.candidates(task_type)
        others = [each for each in found if each.server_id != server_id]
        self.compare(others or found, task_type, server_id)

    @rule(
        server_id=ids,
        task_type=st.sampled_from(TYPES),
        require=labels,
        model=st.none() | st.sampled_from(MODELS),
        prefer=labels,
    )
    def choices_by_label_are_the_same(
        self, server_id: str, task_type: str, require: dict[str, str], model: str | None, prefer: dict[str, str]
    ) -> None:
        if model is not None:
            require = {**require, MODEL: model}

        def shared(candidate: Candidate, wanted: dict[str, str]) -> int:
            server = self.servers[candidate.server_id]
            serves_model = MODEL in wanted and wanted[MODEL] in server.models
            return len(wanted.items() & server.labels.items()) + serves_model

        found = [each for each in self.candidates(task_type) if shared(each, require) == len(require)]
        found = [each for each in found if each.server_id != server_id] or found
        most = max((shared(each, prefer) for each in found), default=0)
        best = [each for each in found if shared(each, prefer) == most]
        self.compare(best, task_type, server_id, require, prefer)
        attached = max(best, key=lambda each: attachment("session", each.server_id, each.weight), default=None)
        chosen = self.index.choose(task_type, server_id, require, prefer, session="session")
        assert chosen == (attached.server_id if attached else None)

    @rule(kept=st.sets(ids), server_id=ids, task_type=st.sampled_from(TYPES))
    def those_kept_are_not_chosen(self, kept: set[str], server_id: str, task_type: str) -> None:
        found = [each for each in self.candidates(task_type) if each.server_id not in kept]
        others = [each for each in found if each.server_id != server_id]
        self.compare(others or found, task_type, server_id, {}, {}, kept)

    @rule(task_type=st.sampled_from(TYPES), require=labels)
    def those_able_are_the_same(self, task_type: str, require: dict[str, str]) -> None:
        able = {
            each.server_id
            for each in self.candidates(task_type)
            if require.items() <= self.servers[each.server_id].labels.items()
        }
        assert set(self.index.able(task_type, require)) == able
        assert self.index.free_slots_of(able) == sum(self.servers[server_id].free_slots for server_id in able)


class InOrder(Scan):
    """The choice is the same."""

    rank: Callable[[Candidate], tuple[float, int, str]]

    def compare(self, candidates: list[Candidate], task_type: str, avoid: str, *more: Any) -> None:
        expected = min(candidates, key=self.rank).server_id if candidates else None
        assert self.index.choose(task_type, avoid, *more) == expected


class ByChance(Scan):
    """Over all that chance may bring, each is chosen as often as its weight says."""

    weight: Callable[[Candidate], int]

    def compare(self, candidates: list[Candidate], task_type: str, avoid: str, *more: Any) -> None:
        expected = Counter({server.server_id: self.weight(server) for server in candidates})
        found: Counter[str] = Counter()
        for point in range(expected.total()):
            self.chance = (point + 0.5) / expected.total()
            server_id = self.index.choose(task_type, avoid, *more)
            assert server_id is not None
            found[server_id] += 1
        assert found == expected
        for self.chance in (0.0, math.nextafter(1.0, 0.0)):
            server_id = self.index.choose(task_type, avoid, *more)
            assert server_id in expected if candidates else server_id is None


class LeastLoaded(InOrder):
    balancing = "least-loaded"

    def rank(self, server: Candidate) -> tuple[float, int, str]:
        return server.running / server.capacity, server.last_choice, server.server_id


class RoundRobin(InOrder):
    balancing = "round-robin"

    def rank(self, server: Candidate) -> tuple[float, int, str]:
        return 0, server.last_choice, server.server_id


class Weighted(ByChance):
    balancing = "weighted"

    def weight(self, server: Candidate) -> int:
        return server.weight


class Random(ByChance):
    balancing = "random"

    def weight(self, server: Candidate) -> int:
        return 1


SHORT = settings(max_examples=25, stateful_step_count=30)

TestLeastLoaded: Any = LeastLoaded.TestCase
TestRoundRobin: Any = RoundRobin.TestCase
TestWeighted: Any = Weighted.TestCase
TestRandom: Any = Random.TestCase
for case in (TestLeastLoaded, TestRoundRobin, TestWeighted, TestRandom):
    case.settings = SHORT
