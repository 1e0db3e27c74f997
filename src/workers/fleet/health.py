"""Health checks of servers. Each check sets the timer of the next; any worker may run it.

Only a change is an event. A stable server is checked less often, a failing one more often. A server that was removed
for being offline is checked ever more seldom, until it answers and is restored, or is forgotten.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from ...backends.client import BackendClient
from ...backends.detection import dialect_detected, undetected_reason
from ...backends.dialects import dialect_of, is_checked
from ...backends.dialects.dialect import Probe
from ...clock import jitter, utc_now
from ...commands.server import (
    MISCONFIGURED,
    PULLERS_ALIVE,
    ForgetServer,
    MarkOffline,
    MarkOnline,
    Present,
    RecordDialect,
    RecordModels,
    Removed,
    RemoveOffline,
    RestoreServer,
    ServerCommand,
    decide,
    with_dialect,
)
from ...container import Container
from ...errors import NotFound
from ...events.envelope import Actor
from ...events.server import DialectDetected, ServerRegistered
from ...projections.heartbeats import Heartbeat, RemovedCheck
from ...runtime import fleet_log
from ...settings import Settings
from .server_keys import Misconfigured, ServerKeys

log = structlog.get_logger(__name__)

BY = Actor("timer", "health-check")
SPREAD = 0.1
"""Fraction of an interval by which a check may come early: checks of servers registered together spread out."""

LONGEST_PAUSE_SECONDS = 900.0
"""Longest time between two checks of a removed server."""


class CheckState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """State passed from one check to the next, in the timer's body."""

    good: int = 0
    """Successful checks in a row."""
    failed: int = 0
    """Failed checks of a removed server in a row."""
    sequence: int = 0
    """Of the registration that asked for the check: the fleet view must have reached it."""


class Health:
    def __init__(self, container: Container, backend: BackendClient) -> None:
        self._settings = container.settings
        self._servers = container.commands.servers
        self._fleet = container.fleet
        self._heartbeats = container.heartbeats
        self._secrets = container.secrets
        self._keys = ServerKeys(container)
        self._timers = container.timers
        self._backend = backend

    async def check(self, server_name: str, body: bytes) -> None:
        """Check a server (by token), record a change, and set the next check. Safe to repeat.

        Raises StoreUnavailable, or UnreadableEvent for an event of a newer version: the check must be repeated.
        """
        state = msgspec.json.decode(body or b"{}", type=CheckState)
        await self._fleet.reached(state.sequence)
        server = self._fleet.by_token(server_name)
        if server is not None:
            await self._check(server, state, body)
        elif (removed := self._fleet.removed_by_token(server_name)) is not None:
            await self._check_removed(removed, state)
        else:
            self._fleet.must_be_readable(f"server.{server_name}")

    async def _check(self, server: Present, state: CheckState, body: bytes) -> None:
        try:
            server, undetected = await self._detect(server)
        except NotFound:
            return
        probe = undetected or await self._probe(server)
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

    async def _check_removed(self, removed: Removed, state: CheckState) -> None:
        """Restore a removed server that answers, and forget one that has not for long."""
        server_id, before = removed.server_id, removed.before
        if before is None:
            return
        if not removed.is_kept:  # a crash may have come between the event and this
            await self._destroy(before)
            return
        forget_after = timedelta(seconds=self._settings.server_forget_after)
        if utc_now() >= removed.removed_at + forget_after:
            await self._forget(removed, before, f"removed for more than {forget_after.total_seconds():g} s")
            return
        event, undetected = await self._look(before)
        settings = before.settings if event is None else with_dialect(before.settings, event)
        probe = undetected or await self._probe(replace(before, settings=settings, online=False))
        if probe.well and await self._restore(before, probe):
            await self._timers.check_server(server_id, utc_now())
            return
        pause = pause_after(self._settings, state.failed)
        next_at = min(utc_now() + timedelta(seconds=pause), removed.removed_at + forget_after)
        check = RemovedCheck(seen_at=utc_now(), reason=probe.reason, next_at=next_at)
        await self._heartbeats.put_removed(server_id, check)
        following = CheckState(failed=state.failed if probe.is_ours else state.failed + 1)
        await self._timers.check_server(server_id, next_at, msgspec.json.encode(following))

    async def _restore(self, before: Present, probe: Probe) -> bool:
        """Restore a removed server; return False if it is not removed any more, or by an admin."""
        restore = RestoreServer(reason=probe.reason, is_kept=True)
        try:
            handled = await self._servers.handle(before.server_id, restore, by=BY)
        except NotFound:
            return False
        if handled.appended:
            fleet_log.restored(before.server_id, probe.reason)
            await self._heartbeats.put_removed(before.server_id, None)
            await self._fleet.reached(handled.known.sequence)
        return True

    async def _forget(self, removed: Removed, before: Present, reason: str) -> None:
        """Let nothing but an admin restore a server; only then destroy its key."""
        server_id = removed.server_id
        try:
            handled = await self._servers.handle(server_id, ForgetServer(reason=reason), by=BY)
        except NotFound:
            return
        if isinstance(handled.known.state, Present):
            return  # restored meanwhile
        if handled.appended:
            fleet_log.forgotten(server_id, reason)
        await self._destroy(before)

    async def _destroy(self, before: Present) -> None:
        await self._secrets.destroy(before.server_id, before.settings.api_key_id)
        await self._heartbeats.forget(before.server_id)

    async def _detect(self, server: Present) -> tuple[Present, Probe | None]:
        """Find out what a server speaks, if that is not known; return its new state, or the probe that says why not."""
        event, undetected = await self._look(server)
        if event is None:
            return server, undetected
        handled = await self._servers.handle(server.server_id, RecordDialect(detected=event), by=BY)
        await self._fleet.reached(handled.known.sequence)
        state = handled.known.state
        if not isinstance(state, Present):
            raise NotFound("server", server.server_id)
        return state, None

    async def _look(self, server: Present) -> tuple[DialectDetected | None, Probe | None]:
        """Return what a server of unknown dialect speaks, or the probe that says why that is not known."""
        if not server.is_undetected:
            return None, None
        try:
            api_key = await self._keys.of(server.settings)
        except Misconfigured as error:
            self._keys.warn(server.server_id, str(error))
            return None, Probe(well=False, reason=str(error))
        found = await self._backend.detect(server.settings, api_key)
        event = dialect_detected(server.settings, found)
        if event is None:
            return None, Probe(well=False, reason=undetected_reason(found), is_ours=found.is_ours)
        return event, None

    async def _probe(self, server: Present) -> Probe:
        try:
            api_key = await self._keys.of(server.settings)
        except Misconfigured as error:
            self._keys.warn(server.server_id, str(error))
            return Probe(well=False, reason=str(error))
        if not is_checked(server.settings):
            return self._by_heartbeat(server, await self._heartbeats.get(server.server_id))
        # An offline server is probed once a check; retries are for servers that were online.
        needs_key = dialect_of(server.settings).health_needs_key(server.settings)
        tries = 1 + (self._settings.health_retries if server.online else 0)
        for number in range(tries):
            if number:
                await asyncio.sleep(self._settings.health_retry_delay)
            probe = await self._backend.probe(server.settings, api_key if needs_key else None)
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

    def _by_heartbeat(self, server: Present, heartbeat: Heartbeat | None) -> Probe:
        what = "no puller has asked or renewed" if server.settings.is_pulled else "no sign of life"
        if heartbeat is None:
            hint = "" if server.settings.is_pulled else "; it has no `endpoints.health`, and sent no heartbeat"
            return Probe(well=False, reason=f"{what} yet{hint}")
        seconds = _age(heartbeat.seen_at)
        if seconds < self._settings.heartbeat_ttl:
            return Probe(well=True, reason=PULLERS_ALIVE if server.settings.is_pulled else "heartbeat")
        return Probe(well=False, reason=f"{what} for {seconds:.0f} s")

    async def _record(self, server: Present, probe: Probe) -> None:
        server_id = server.server_id
        if probe.well:
            if is_checked(server.settings):
                now = utc_now()
                known = await self._heartbeats.get(server_id) or Heartbeat(seen_at=now, checked_at=now)
                seen = replace(
                    known, seen_at=now, checked_at=now, heard_at=known.unasked_at, latency_ms=probe.latency_ms
                )
                await self._heartbeats.put(server_id, seen)
            if server.settings.finds_models:
                await self._find_models(server)  # before it gets tasks
            await self._handle(server, MarkOnline(reason=probe.reason))
            return
        limit = None if probe.reason.startswith(MISCONFIGURED) else remove_after(self._settings, server.settings)
        if not server.online and limit is not None and _age(server.changed_at) > limit:
            reason = f"offline for more than {limit:g} s: {probe.reason}"
            since = utc_now() - timedelta(seconds=limit)
            if await self._handle(server, RemoveOffline(reason=reason, since=since)):
                fleet_log.removed(server_id, "offline", reason)
            return
        await self._handle(server, MarkOffline(reason=probe.reason))

    async def _find_models(self, server: Present) -> None:
        """Record which models a server serves now; without an answer, it is taken to serve the same as before."""
        try:
            api_key = await self._keys.of(server.settings)
        except Misconfigured:
            return  # the next check says so
        names = await self._backend.models(server.settings, api_key)
        if names is not None:
            await self._handle(server, RecordModels(models=tuple(names)))

    async def _handle(self, server: Present, command: ServerCommand) -> bool:
        """Execute a command if it may change anything; return True if it did."""
        if not decide(command, server, utc_now()):
            return False
        return bool((await self._servers.handle(server.server_id, command, by=BY)).appended)


def remove_after(settings: Settings, server: ServerRegistered) -> float | None:
    """Return the seconds offline after which a server is removed, None for never."""
    if server.is_permanent:
        return None
    return settings.server_remove_after if server.remove_after is None else server.remove_after.total_seconds()


def pause_after(settings: Settings, failed: int) -> float:
    """Return the seconds between two checks of a removed server after so many that failed."""
    return float(min(settings.failing_interval * 2 ** min(failed, 16), LONGEST_PAUSE_SECONDS))


def next_interval(settings: Settings, good: int, *, well: bool) -> float:
    """Return the seconds until the next check: stretched for a stable server, short after a failure."""
    if not well:
        return settings.failing_interval
    return settings.stable_interval if good >= settings.health_stable_checks else settings.health_interval


def _age(instant: datetime) -> float:
    return (utc_now() - instant).total_seconds()
