"""The servers that may be sent tasks now, by what they serve: how much room a pool has, and which server is next.

Kept up to date server by server, so that no answer has to look at all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from .placement import Candidate, Line, Policy

ANY = None
"""Stands for the types and pools of a server that serves all."""


class Opening(Struct, frozen=True, kw_only=True):
    """A server that may be sent tasks, whether or not it has room at the moment."""

    server: Candidate
    types: tuple[str, ...]
    """Empty: all, and so all pools."""
    pools: frozenset[str]
    """In which tasks of its types may wait."""

    @property
    def room(self) -> int:
        return max(0, self.server.capacity - self.server.running)

    @property
    def lines(self) -> Iterable[str | None]:
        return self.types or (ANY,)

    @property
    def counters(self) -> Iterable[str | None]:
        return self.pools if self.types else (ANY,)


class Openings:
    def __init__(self, policy: Policy[Any]) -> None:
        self._policy = policy
        self._openings: dict[str, Opening] = {}
        self._lines: dict[str | None, Line] = {}
        """By type, the servers that have room."""
        self._servers: Counter[str | None] = Counter()
        """By pool."""
        self._room: Counter[str | None] = Counter()
        """By pool."""

    def put(self, opening: Opening) -> None:
        """Add a server, or bring it up to date."""
        server_id = opening.server.server_id
        before = self._openings.get(server_id)
        if before is not None and before.lines != opening.lines:
            self._leave_lines(before)
        if before is not None:
            self._count(before, -1)
        self._openings[server_id] = opening
        self._count(opening, 1)
        if opening.room:
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

    def room(self, pool: str) -> int:
        """Return how many more tasks of a pool can be placed."""
        return self._room[pool] + self._room[ANY]

    def serves(self, pool: str) -> bool:
        """Tell whether any server serves a pool, whether or not it has room."""
        return self._servers[pool] + self._servers[ANY] > 0

    def choose(self, task_type: str, avoid: str = "") -> str | None:
        """Return the server with room that gets the next task of a type, None if there is none.

        The one to `avoid` is chosen only where there is no other.
        """
        avoided = self._openings.get(avoid)
        if avoided is None or not avoided.room:
            return self._choose(task_type)
        self._leave_lines(avoided)
        chosen = self._choose(task_type)
        self.put(avoided)
        return chosen if chosen is not None else self._choose(task_type)

    def _choose(self, task_type: str) -> str | None:
        return self._policy.choose([self._lines[name] for name in (task_type, ANY) if name in self._lines])

    def _line(self, name: str | None) -> Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = self._policy.new_line()
        return line

    def _leave_lines(self, opening: Opening) -> None:
        for name in opening.lines:
            self._line(name).remove(opening.server.server_id)

    def _count(self, opening: Opening, sign: int) -> None:
        for pool in opening.counters:
            self._servers[pool] += sign
            self._room[pool] += sign * opening.room
