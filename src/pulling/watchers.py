"""The open requests of pullers that wait for attempts to stop, and the limits on them: per server and in all."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self

from ..errors import TooManyAsks

MOST_WATCHERS_OF_SERVER = 1_000
"""Of one server's pullers, at this process."""
MOST_WATCHERS = 10_000
"""At this process."""


class Watcher:
    """The place of an open request. Ends with `close`, or as a context manager; closing twice is safe."""

    def __init__(self, watchers: Watchers, server_id: str) -> None:
        self._watchers: Watchers | None = watchers
        self._server_id = server_id

    def close(self) -> None:
        watchers, self._watchers = self._watchers, None
        if watchers is not None:
            watchers.leave(self._server_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Watchers:
    """Counts the open requests."""

    def __init__(self) -> None:
        self._of_server: Counter[str] = Counter()
        self._count = 0

    def open(self, server_id: str) -> Watcher:
        """Take a place. Raises TooManyAsks."""
        counts = ((MOST_WATCHERS_OF_SERVER, self._of_server[server_id]), (MOST_WATCHERS, self._count))
        for limit, count in counts:
            if count >= limit:
                raise TooManyAsks(limit, count)
        self._of_server[server_id] += 1
        self._count += 1
        return Watcher(self, server_id)

    def leave(self, server_id: str) -> None:
        """Give a place back; called by the place."""
        self._count -= 1
        self._of_server[server_id] -= 1
        if not self._of_server[server_id]:
            del self._of_server[server_id]
