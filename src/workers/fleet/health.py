"""Health checks of servers. Each check sets the timer of the next; any worker may run it.

Only a change is an event. A stable server is checked less often, a failing one more often.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from ...backends.client import BackendClient
from ...backends.dialects.dialect import Probe
from ...clock import jitter, utc_now
from ...commands.server import MarkOffline, MarkOnline, Present, RemoveServer
from ...container import Container
from ...errors import NotFound
from ...events.envelope import Actor
from ...projections.heartbeats import Heartbeat
from ...settings import Settings

log = structlog.get_logger(__name__)

BY = Actor("timer", "health-check")
SPREAD = 0.1
"""Fraction of an interval by which a check may come early: checks of servers registered together spread out."""


class CheckState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """State passed from one check to the next, in the timer's body."""

    good: int = 0
    """Successful checks in a row."""
    sequence: int = 0
    """Of the registration that asked for the check: the fleet view must have reached it."""


class Health:
    def __init__(self, container: Container, backend: BackendClient) -> None:
        self._settings = container.settings
        self._servers = container.commands.servers
        self._fleet = container.fleet
        self._heartbeats = container.heartbeats
        self._secrets = container.secrets
        self._timers = container.timers
        self._backend = backend

    async def check(self, server_name: str, body: bytes) -> None:
        """Check a server (by token), record a change, and set the next check. Safe to repeat.

        Raises StoreUnavailable, or UnreadableEvent for an event of a newer version: the check must be repeated.
        """
        state = msgspec.json.decode(body or b"{}", type=CheckState)
        await self._fleet.reached(state.sequence)
        server = self._fleet.by_token(server_name)
        if server is None:
            self._fleet.must_be_readable(f"server.{server_name}")
            return  # removed: no further check
        probe = await self._probe(server)
        if probe.is_ours:
            log.warning("health.not-checked", server=server.server_id, reason=probe.reason)
            again_at = utc_now() + timedelta(seconds=self._settings.failing_interval)
            await self._timers.check_server(server.server_id, again_at, body)  # by any worker
            return
        try:
            await self._record(server, probe)
        except NotFound:
            return
        good = state.good + 1 if probe.well else 0
        interval = next_interval(self._settings, good, well=probe.well) * (1 - SPREAD * jitter())
        following = msgspec.json.encode(CheckState(good=good))
        await self._timers.check_server(server.server_id, utc_now() + timedelta(seconds=interval), following)

    async def _probe(self, server: Present) -> Probe:
        if server.settings.health_url is None:
            return self._by_heartbeat(await self._heartbeats.get(server.server_id))
        # An offline server is probed once a check; retries are for servers that were online.
        tries = 1 + (self._settings.health_retries if server.online else 0)
        for number in range(tries):
            if number:
                await asyncio.sleep(self._settings.health_retry_delay)
            probe = await self._backend.probe(server.settings)
            if probe.well:
                break
        if probe.timed_out and await self._is_at_work(server):
            return Probe(well=True, reason="too busy to answer its health check, but finishing tasks")
        return probe

    async def _is_at_work(self, server: Present) -> bool:
        """Return True if a server finished a task or sent a heartbeat lately: busy is not dead."""
        heartbeat = await self._heartbeats.get(server.server_id)
        if heartbeat is None or heartbeat.unasked_at is None:
            return False
        return _age(heartbeat.unasked_at) < self._settings.heartbeat_ttl / 2

    def _by_heartbeat(self, heartbeat: Heartbeat | None) -> Probe:
        if heartbeat is None:
            return Probe(well=False, reason="no sign of life yet")
        seconds = _age(heartbeat.seen_at)
        if seconds < self._settings.heartbeat_ttl:
            return Probe(well=True, reason="heartbeat")
        return Probe(well=False, reason=f"no sign of life for {seconds:.0f} s")

    async def _record(self, server: Present, probe: Probe) -> None:
        server_id = server.server_id
        if probe.well:
            if server.settings.health_url is not None:
                now = utc_now()
                known = await self._heartbeats.get(server_id) or Heartbeat(seen_at=now, checked_at=now)
                seen = replace(
                    known, seen_at=now, checked_at=now, heard_at=known.unasked_at, latency_ms=probe.latency_ms
                )
                await self._heartbeats.put(server_id, seen)
            if not server.online:
                await self._servers.handle(server_id, MarkOnline(reason=probe.reason), by=BY)
            return
        if server.online:
            await self._servers.handle(server_id, MarkOffline(reason=probe.reason), by=BY)
        elif _age(server.changed_at) > self._settings.server_remove_after:
            reason = f"offline for more than {self._settings.server_remove_after:g} s: {probe.reason}"
            await self._servers.handle(server_id, RemoveServer(reason=reason), by=BY)
            await self._secrets.destroy(server_id, server.settings.api_key_id)
            await self._heartbeats.forget(server_id)


def next_interval(settings: Settings, good: int, *, well: bool) -> float:
    """Return the seconds until the next check: stretched for a stable server, short after a failure."""
    if not well:
        return settings.failing_interval
    return settings.stable_interval if good >= settings.health_stable_checks else settings.health_interval


def _age(instant: datetime) -> float:
    return (utc_now() - instant).total_seconds()
