"""The topics that show a whole: numbers of tasks, alarms, the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from ...clock import utc_now
from ...commands.server import Present
from ...container import Container
from ...errors import IndexNotReady, UnreadableEvent
from ...index import statistics
from ...index.lists import SERVICE
from ...index.statistics import StatisticsScope
from ...instants import iso
from ..alarm_desk import AlarmDesk
from ..schemas.alarms import alarms_answer
from ..schemas.statistics import points, total_numbers
from .channels import FLUSH_SECONDS, Channel, LiveFrame, Shown, frame

MOST_ROWS = 200
"""Rows of one frame."""
PULSE_SECONDS = 1.0
_ONE_MINUTE = timedelta(minutes=1)


async def numbers(container: Container, owner: str | None) -> Shown:
    """Return the numbers of tasks now, and what happened in this minute and the last, of an owner token or all."""
    scope = StatisticsScope(owner=owner, deleted=owner is None)

    def read(connection: sqlite3.Connection) -> dict[str, Any]:
        now = utc_now()
        window = statistics.window_of(now - _ONE_MINUTE, now, _ONE_MINUTE, now)
        totals = statistics.totals(connection, scope, by_owner=False)
        flows = statistics.flows(connection, scope, window, now)
        return {
            "totals": total_numbers(totals, {}),
            "series": points(flows.total, [iso(at) for at in window.instants]),
            "asOf": statistics.position_of(connection),
        }

    try:
        fields = await container.index.run(read, owner or SERVICE, current=False)
    except IndexNotReady as error:
        return Shown(frame("stale", error=str(error)), str(error))
    return Shown(frame("stats", **fields), (fields["totals"], fields["series"]))


async def alarms(desk: AlarmDesk, owner: str | None) -> Shown:
    """Return the alarms, of an owner token's things or of the service."""
    answer = alarms_answer(await desk.read(owner), utc_now())
    # Texts say how long something has lasted: that alone is no news.
    what = [(each.kind, each.since, each.subject, each.data) for each in answer.alarms]
    return Shown(frame("alarms", alarms=answer.alarms, more=answer.more), (what, answer.more))


class FleetChannel(Channel):
    """Servers and pools: all at the start, then those that changed."""

    def __init__(self, container: Container, changed: asyncio.Event) -> None:
        """`changed` is set after each change of the fleet."""
        super().__init__()
        self._container = container
        self._changed = changed
        self._running: Mapping[str, int] = {}
        self._servers: dict[str, bytes] = {}
        self._pools: dict[str, bytes] = {}

    def first(self) -> list[LiveFrame]:
        return [self._frame(self._server_rows(), self._pool_rows(), [], whole=True)]

    async def work(self) -> None:
        while True:
            self._changed.clear()
            await self._count()
            before, pools = self._servers, self._pools
            self._servers, self._pools = self._server_rows(), self._pool_rows()
            changed = {name: row for name, row in self._servers.items() if before.get(name) != row}
            changed_pools = {name: row for name, row in self._pools.items() if pools.get(name) != row}
            gone = [name for name in before if name not in self._servers]
            if changed or changed_pools or gone:
                self.publish(self._frame(changed, changed_pools, gone, whole=False))
            await asyncio.sleep(FLUSH_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PULSE_SECONDS - FLUSH_SECONDS):
                    await self._changed.wait()

    async def _count(self) -> None:
        def read(connection: sqlite3.Connection) -> Mapping[str, int]:
            totals = statistics.totals(connection, StatisticsScope(), by_owner=False)
            return {name: each.processing for name, each in totals.by["server"]}

        with contextlib.suppress(IndexNotReady):
            self._running = await self._container.index.run(read, SERVICE, current=False)

    def _server_rows(self) -> dict[str, bytes]:
        return {server.server_id: self._server(server) for server in self._container.fleet.servers()}

    def _pool_rows(self) -> dict[str, bytes]:
        waiting: dict[str, Counter[str]] = {}
        for each in self._container.submissions.admission.depth().depths:
            waiting.setdefault(each.pool, Counter())[each.reason] += each.count
        return {name: self._pool(name, waiting.get(name, {})) for name in sorted(self._container.fleet.pools())}

    def _pool(self, name: str, waiting: Mapping[str, int]) -> bytes:
        try:
            is_paused = self._container.fleet.pool_state(name).pause is not None
        except UnreadableEvent:
            is_paused = True
        return msgspec.json.encode({"name": name, "paused": is_paused, "waitingFor": dict(sorted(waiting.items()))})

    def _server(self, server: Present) -> bytes:
        return msgspec.json.encode(
            {
                "id": server.server_id,
                "status": "online" if server.online else "offline",
                "reason": server.status_reason,
                "since": iso(server.status_since),
                "maintenance": server.maintenance,
                "circuit": server.circuit.__struct_config__.tag,
                "running": self._running.get(server.server_id, 0),
                "slots": server.settings.max_concurrent,
            }
        )

    def _frame(
        self, servers: Mapping[str, bytes], pools: Mapping[str, bytes], gone: list[str], *, whole: bool
    ) -> LiveFrame:
        shown, shown_pools = list(servers.values())[:MOST_ROWS], list(pools.values())[:MOST_ROWS]
        more = len(servers) + len(pools) + len(gone) - len(shown) - len(shown_pools) - len(gone[:MOST_ROWS])
        return frame(
            "fleet",
            counted=len(shown) + len(shown_pools),
            whole=whole,
            servers=list(map(msgspec.Raw, shown)),
            pools=list(map(msgspec.Raw, shown_pools)),
            gone=gone[:MOST_ROWS],
            more=more,
        )
