"""The circuit breaker: a server's circuit opens when attempts on it keep failing, and closes when a trial succeeds.

A busy answer, or one that rejects the task, comes from a healthy server and counts as success.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from ...backends.dialects.dialect import Answer, Busy, Failed, Unsent
from ...commands.server import CircuitIsClosed, CloseCircuit, OpenCircuit, Present
from ...container import Container
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from .slots import Slots

log = structlog.get_logger(__name__)

COUNTS_AGAINST_SERVER = frozenset({"error", "unreachable", "timeout", "bad_answer"})
BUSY_PAUSE = timedelta(seconds=1)
"""Pause of a busy server that sends no `Retry-After`."""
SHORTEST_PAUSE = timedelta(milliseconds=250)
"""Also of a server that asks for none: its tasks return to the queue at once."""


class CircuitBreaker:
    def __init__(self, container: Container, slots: Slots, worker: Actor) -> None:
        self._settings = container.settings
        self._servers = container.commands.servers
        self._heartbeats = container.heartbeats
        self._slots = slots
        self._worker = worker

    def count(self, server: Present, answer: Answer) -> int:
        """Count an answer for or against its server, and pause a busy one; return its failures in a row.

        Called before the slot is free, so that no other task gets it meanwhile.
        """
        if isinstance(answer, Unsent):
            return 0  # it says nothing about the server
        failing = _counts_against(answer)
        failures = self._slots.count(server.server_id, "failing" if failing else "well")
        if failing and self._opens(server, failures):
            # The event of the open circuit takes a moment to reach this worker's fleet.
            self._slots.pause(server.server_id, timedelta(seconds=self._settings.circuit_cooldown))
        elif isinstance(answer, Busy):
            self._slots.pause(server.server_id, max(answer.retry_after or BUSY_PAUSE, SHORTEST_PAUSE))
        return failures

    async def update(self, server: Present, answer: Answer, failures: int) -> None:
        """Open the circuit of a server that keeps failing; close it after a successful trial."""
        if isinstance(answer, Unsent):
            return
        server_id = server.server_id
        try:
            if not _counts_against(answer):
                await self._heartbeats.note(server_id)
                if _is_trial(server):
                    await self._servers.handle(server_id, CloseCircuit(reason="an attempt succeeded"), by=self._worker)
            elif self._opens(server, failures):
                assert isinstance(answer, Failed)
                command = OpenCircuit(
                    reason=f"{failures} attempts failed in a row, the last because {answer.error}",
                    cooldown=timedelta(seconds=self._settings.circuit_cooldown),
                )
                await self._servers.handle(server_id, command, by=self._worker)
        except (Refused, StoreUnavailable) as error:
            log.info("circuit-breaker.unchanged", server=server_id, reason=str(error))

    def _opens(self, server: Present, failures: int) -> bool:
        return failures >= self._settings.circuit_failures or _is_trial(server)


def _counts_against(answer: Answer) -> bool:
    return isinstance(answer, Failed) and answer.kind in COUNTS_AGAINST_SERVER


def _is_trial(server: Present) -> bool:
    """Return True if the attempt was a trial: the circuit was not closed when it began."""
    return not isinstance(server.circuit, CircuitIsClosed)
