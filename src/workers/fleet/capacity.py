"""The servers that may be sent tasks now, by what they serve: how much room a pool has, and which server is next.

Kept up to date server by server, so that no answer has to look at all of them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from .placement import Candidate, CandidateLine, Policy

NO_LABELS: Mapping[str, str] = {}
ANY = None
"""Stands for the types and pools of a server that serves all."""


class Opening(Struct, frozen=True, kw_only=True):
    """A server that may be sent tasks, whether or not it has room at the moment."""

    server: Candidate
    types: tuple[str, ...]
    """Empty: all, and so all pools."""
    pools: frozenset[str]
    """In which tasks of its types may wait."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def room(self) -> int:
        return max(0, self.server.capacity - self.server.running)

    @property
    def lines(self) -> Iterable[str | None]:
        return self.types or (ANY,)

    @property
    def counters(self) -> Iterable[str | None]:
        return self.pools if self.types else (ANY,)

    def shared(self, labels: Mapping[str, str]) -> int:
        """Return how many of these labels it has."""
        return sum(self.labels.get(key) == value for key, value in labels.items())


class Openings:
    def __init__(self, policy: Policy[Any]) -> None:
        self._policy = policy
        self._openings: dict[str, Opening] = {}
        self._lines: dict[str | None, CandidateLine] = {}
        """By type, the servers that have room."""
        self._labelled: dict[tuple[str, str], set[str]] = {}
        """By label, the ids of the servers that have it, with room or without."""
        self._with_room: set[str] = set()
        self._servers: Counter[str | None] = Counter()
        """By pool."""
        self._room: Counter[str | None] = Counter()
        """By pool."""
        self.room_in_all = 0
        """How many more tasks can be placed, of whatever pools."""

    def put(self, opening: Opening) -> None:
        """Add a server, or bring it up to date."""
        server_id = opening.server.server_id
        before = self._openings.get(server_id)
        if before is not None and before.lines != opening.lines:
            self._leave_lines(before)
        if before is not None:
            self._count(before, -1)
        if before is None or before.labels != opening.labels:
            if before is not None:
                self._unlabel(before)
            self._label(opening)
        self._openings[server_id] = opening
        self._count(opening, 1)
        if opening.room:
            self._with_room.add(server_id)
            for name in opening.lines:
                self._line(name).put(opening.server)
        else:
            self._leave_lines(opening)

    def remove(self, server_id: str) -> None:
        """Take a server out; one that is not there is no error."""
        opening = self._openings.pop(server_id, None)
        if opening is not None:
            self._count(opening, -1)
            self._leave_lines(opening)
            self._unlabel(opening)

    def room(self, pool: str) -> int:
        """Return how many more tasks of a pool can be placed."""
        return self._room[pool] + self._room[ANY]

    def serves(self, pool: str) -> bool:
        """Tell whether any server serves a pool, whether or not it has room."""
        return self._servers[pool] + self._servers[ANY] > 0

    def choose(
        self,
        task_type: str,
        avoid: str = "",
        require: Mapping[str, str] = NO_LABELS,
        prefer: Mapping[str, str] = NO_LABELS,
        kept: Collection[str] = (),
    ) -> str | None:
        """Return the server with room that gets the next task of a type, None if there is none.

        It has all labels that are required, and as many of those preferred as any that has room; the one to `avoid` is
        chosen only where there is no other, and those that are `kept` for others never. Without labels few servers are
        looked at; with some, those that have them.
        """
        if not kept:
            return self._choose_by_labels(task_type, avoid, require, prefer)
        with self._without(kept):
            return self._choose_by_labels(task_type, avoid, require, prefer)

    def able(self, task_type: str, require: Mapping[str, str]) -> list[str]:
        """Return the servers with room that can take tasks of a type, and have all labels that are required."""
        found = self._having(require, all_of=True) if require else map(self._openings.__getitem__, self._with_room)
        return [each.server.server_id for each in found if not each.types or task_type in each.types]

    def room_of(self, server_ids: Iterable[str]) -> int:
        """Return how many more tasks can be placed on some servers."""
        return sum(self._openings[server_id].room for server_id in server_ids)

    @contextlib.contextmanager
    def _without(self, server_ids: Collection[str]) -> Iterator[None]:
        """Have some servers that have room not be chosen meanwhile."""
        left = [self._openings[server_id] for server_id in server_ids]
        for opening in left:
            self._leave_lines(opening)
        try:
            yield
        finally:
            for opening in left:
                self.put(opening)

    def _choose_by_labels(
        self, task_type: str, avoid: str, require: Mapping[str, str], prefer: Mapping[str, str]
    ) -> str | None:
        if not require and not prefer:
            return self._choose_any(task_type, avoid)
        having = self._having(require or prefer, all_of=bool(require))
        found = [each for each in having if not each.types or task_type in each.types]
        others = [each for each in found if each.server.server_id != avoid]
        if not require and not others:
            return self._choose_any(task_type, avoid)
        found = others or found
        most = max((each.shared(prefer) for each in found), default=0) if prefer else 0
        line = self._policy.new_line()
        for each in found:
            if not prefer or each.shared(prefer) == most:
                line.put(each.server)
        return self._policy.choose([line])

    def _having(self, labels: Mapping[str, str], *, all_of: bool) -> Iterable[Opening]:
        """Return the servers with room that have all of some labels, or any."""
        sets = [self._labelled.get(label, set()) & self._with_room for label in labels.items()]
        ids = set.intersection(*sets) if all_of else set.union(*sets)
        return [self._openings[server_id] for server_id in ids]

    def _choose_any(self, task_type: str, avoid: str) -> str | None:
        if avoid not in self._with_room:
            return self._choose(task_type)
        with self._without([avoid]):
            chosen = self._choose(task_type)
        return chosen if chosen is not None else self._choose(task_type)

    def _choose(self, task_type: str) -> str | None:
        return self._policy.choose([self._lines[name] for name in (task_type, ANY) if name in self._lines])

    def _line(self, name: str | None) -> CandidateLine:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = self._policy.new_line()
        return line

    def _leave_lines(self, opening: Opening) -> None:
        self._with_room.discard(opening.server.server_id)
        for name in opening.lines:
            self._line(name).remove(opening.server.server_id)

    def _label(self, opening: Opening) -> None:
        for label in opening.labels.items():
            self._labelled.setdefault(label, set()).add(opening.server.server_id)

    def _unlabel(self, opening: Opening) -> None:
        for label in opening.labels.items():
            self._labelled[label].discard(opening.server.server_id)
            if not self._labelled[label]:
                del self._labelled[label]

    def _count(self, opening: Opening, sign: int) -> None:
        self.room_in_all += sign * opening.room
        for pool in opening.counters:
            self._servers[pool] += sign
            self._room[pool] += sign * opening.room
