"""Background services: one loop for all of them, and the list of those that run in a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping
from typing import Protocol

import structlog

from ..errors import StoreError, UnreadableEvent

log = structlog.get_logger(__name__)

PERIOD_SECONDS = 1.0
"""Default pause between two runs; for a service with a lease also how soon a process on standby takes over."""
RETRY_SECONDS = 1.0
"""Longest pause after a failure, unless a service says otherwise."""
SHORTEST_PAUSE_SECONDS = 0.05
"""Shortest pause after a failure, and after a second run in a row that waited for nothing. Without it a service whose
work fails at once, or has nothing to do, would keep everything else in the process from running."""
CLOSE_SECONDS = 5.0


class ServiceLease(Protocol):
    """A lease as services use it: `streams.leases.Lease`."""

    @property
    def period_seconds(self) -> float:
        """How often its holder confirms it."""

    async def acquire(self) -> bool:
        """Take or confirm the lease; return True if it is held now. Raises StoreError."""

    async def release(self) -> None:
        """Give the lease up. Does nothing if it is not held."""


class Service:
    """Work that goes on in the background until it is stopped.

    A subclass overrides `run_once` (one pass, then a pause of `period_seconds`) or `_serve` (works on until something
    ends it). With a lease only the process that holds it works; the others stand by.

    After a StoreError the service retries: after `retry_seconds`, and at once when `wake` says that the store may be
    back, but never without a pause. At an UnreadableEvent it halts: it releases its lease, so that a process of
    the version that wrote the event can take over, and `halted` says why. Any other exception is a bug: it is logged,
    and the service goes on.
    """

    def __init__(
        self,
        name: str,
        *,
        lease: ServiceLease | None = None,
        period_seconds: float = PERIOD_SECONDS,
        retry_seconds: float | None = None,
    ) -> None:
        """`retry_seconds`: pause after a failure; if None the period, RETRY_SECONDS at most."""
        self.name = name
        """As `/health/ready`, the metric `taskstream_service_halted` and the log have it."""
        self.halted: str | None = None
        """Why it has stopped for good; None while it runs or stands by."""
        self._lease = lease
        self._period_seconds = period_seconds
        self._retry_seconds = min(period_seconds, RETRY_SECONDS) if retry_seconds is None else retry_seconds
        self._stopping = asyncio.Event()
        self._waking = asyncio.Event()
        """Ends the present pause, or the next one."""
        self._is_prepared = False
        self._has_failed = False
        self._failure = ""
        """Of the last run; logged once, not as often as it is met."""

    @property
    def halted_parts(self) -> Mapping[str, str]:
        """The parts that have halted while the rest goes on, by name, each with the reason."""
        return {}

    async def begin(self) -> None:
        """Do what must precede every other service of the process."""

    async def run(self) -> None:
        """Work until stopped or halted."""
        unpaused = 0
        """Runs in a row that let nothing else run."""
        while not self._stopping.is_set() and self.halted is None:
            has_waited = asyncio.Event()
            asyncio.get_running_loop().call_soon(has_waited.set)
            pause_seconds = await self._try()
            unpaused = 0 if has_waited.is_set() else unpaused + 1
            shortest = SHORTEST_PAUSE_SECONDS if self._has_failed or unpaused > 1 else 0.0
            if shortest or unpaused:
                await asyncio.sleep(shortest)
            if pause_seconds > shortest:
                await self._pause(pause_seconds - shortest)

    def wake(self) -> None:
        """End the pause now: what was unavailable may be back. A pause that has not begun yet is skipped."""
        self._waking.set()

    def retry(self) -> None:
        """Do as `wake` if the last run failed, or the present one may."""
        if self._has_failed:
            self.wake()

    async def run_once(self) -> Mapping[str, int]:
        """Do what is due; return how many of each thing were done. Raises StoreError."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Begin nothing more and release the lease, so that another process takes over at once.

        Does not wait for a run in progress. Safe to repeat.
        """
        self._begin_stop()
        if self._lease is not None:
            await self._lease.release()

    def _begin_stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()
        self._waking.set()

    async def _prepare(self) -> None:
        """Do what comes before the first run; repeated until it succeeds."""

    async def _serve(self) -> None:
        """Do the work of one run; where there is a lease, it has just been confirmed."""
        await self.run_once()

    async def _serve_together(self, *works: Coroutine[None, None, None]) -> None:
        """Run works side by side until one ends, the lease is lost or the service is stopped; then cancel the others.

        Raises what one of them raises.
        """
        tasks = [asyncio.create_task(work) for work in (*works, self._hold_lease())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hold_lease(self) -> None:
        """Return once the lease is lost or the service is stopped. Raises StoreError."""
        while await self._is_mine():
            await self._pause(self._lease.period_seconds if self._lease else self._period_seconds)

    async def _is_mine(self) -> bool:
        """Return True if the service may go on: it is not stopped and holds its lease. Raises StoreError."""
        return not self._stopping.is_set() and (self._lease is None or await self._lease.acquire())

    async def _pause(self, seconds: float) -> None:
        """Wait, at most until the service is stopped or woken."""
        if self._stopping.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # not `wait_for`: on Python 3.11 it may swallow a cancellation
                await self._waking.wait()
        self._waking.clear()

    async def _try(self) -> float:
        """Run once if the lease is held; return the seconds to pause."""
        self._has_failed = True
        try:
            if not self._is_prepared:
                await self._prepare()
                self._is_prepared = True
            if await self._is_mine():
                await self._serve()
        except UnreadableEvent as error:
            await self._halt(error)
            return 0.0
        except StoreError as error:
            self._log_failure(str(error))
            return self._retry_seconds
        except Exception:
            log.exception("service.failed", service=self.name)
            return RETRY_SECONDS
        self._has_failed = False
        self._failure = ""
        return self._period_seconds

    async def _halt(self, error: UnreadableEvent) -> None:
        self.halted = str(error)
        log.error(
            "service.halted", service=self.name, reason=self.halted, action="run the version that wrote the event"
        )
        if self._lease is not None:
            await self._lease.release()

    def _log_failure(self, failure: str) -> None:
        if failure != self._failure:
            log.warning("service.retrying", service=self.name, reason=failure)
        self._failure = failure


class Services:
    """The services of a process."""

    def __init__(self) -> None:
        self._running: dict[Service, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Service]:
        return iter(self._running)

    def start(self, *services: Service) -> None:
        """Run services in the background until they stop or halt, or until `close`."""
        for service in services:
            self._running[service] = asyncio.create_task(service.run(), name=service.name)

    def wake(self) -> None:
        """End the pause of every service: what was unavailable may be back."""
        for service in self:
            service.wake()

    def retry(self) -> None:
        """End the pause of every service that failed."""
        for service in self:
            service.retry()

    @property
    def halted(self) -> dict[str, str]:
        """The services, and parts of services, that have stopped for good, by name, each with the reason."""
        services = {service.name: service.halted for service in self if service.halted}
        return services | {name: why for service in self for name, why in service.halted_parts.items()}

    async def close(self) -> None:
        """Cancel every service; wait for them for up to CLOSE_SECONDS."""
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=CLOSE_SECONDS)
