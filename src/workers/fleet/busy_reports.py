"""Reports of this worker's assumptions about busy servers: for `why`, and for the next worker of a server."""

from __future__ import annotations

from collections.abc import Mapping

from ...container import Container
from ...runtime.service import Service
from .slots import Slots

PERIOD_SECONDS = 0.5
"""A server is reported once in that time, at most."""


class BusyReports(Service):
    def __init__(self, container: Container, slots: Slots) -> None:
        super().__init__("busy-reports", period_seconds=PERIOD_SECONDS)
        self._heartbeats = container.heartbeats
        self._slots = slots

    async def run_once(self) -> Mapping[str, int]:
        """Report what has changed; return of how many servers. A report that NATS does not store is lost."""
        news = self._slots.busy_news()
        for server_id, busy in news.items():
            await self._heartbeats.put_busy(server_id, busy)
        return {"servers": len(news)}
