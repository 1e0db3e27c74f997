"""What the answers of a server say of the server: its circuit opens when attempts keep failing, and closes again.

Being busy, or refusing a task, is what a healthy server does; it counts for it.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from ...backends.dialects.dialect import Answer, Failed
from ...commands.commands import Commands
from ...commands.server import CircuitIsClosed, CloseCircuit, OpenCircuit, Present
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from ...projections.heartbeats import Heartbeats
from ...settings import Settings
from .slots import Slots

log = structlog.get_logger(__name__)

COUNTS_AGAINST_SERVER = frozenset({"error", "unreachable", "timeout", "bad_answer"})
BUSY_PAUSE = timedelta(seconds=1)
"""How long a busy server that names no time is left alone."""


class CircuitBreaker:
    def __init__(
        self, settings: Settings, commands: Commands, slots: Slots, heartbeats: Heartbeats, worker: Actor
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._slots = slots
        self._heartbeats = heartbeats
        self._worker = worker

    def learn(self, server: Present, answer: Answer) -> int:
        """Count an answer for or against its server, before its slot is free for another; return failures in a row."""
        failing = _counts_against(answer)
        failures = self._slots.note(server.server_id, "failing" if failing else "well")
        if failing and self._opens(server, failures):
            # The circuit's event takes a moment to come round.
            self._slots.pause(server.server_id, timedelta(seconds=self._settings.circuit_cooldown))
        elif isinstance(answer, Failed) and answer.kind == "busy":
            self._slots.pause(server.server_id, answer.retry_after or BUSY_PAUSE)
        return failures

    async def circuit_breaker(self, server: Present, answer: Answer, failures: int) -> None:
        """Open the circuit of a server that keeps failing, close that of one whose trial went well."""
        server_id = server.server_id
        try:
            if not _counts_against(answer):
                await self._heartbeats.note(server_id)
                if _is_trial(server):
                    await self._commands.servers.handle(
                        server_id, CloseCircuit(reason="an attempt succeeded"), by=self._worker
                    )
            elif self._opens(server, failures):
                assert isinstance(answer, Failed)
                command = OpenCircuit(
                    reason=f"{failures} attempts failed in a row, the last because {answer.error}",
                    cooldown=timedelta(seconds=self._settings.circuit_cooldown),
                )
                await self._commands.servers.handle(server_id, command, by=self._worker)
        except (Refused, StoreUnavailable) as error:
            log.info("circuit.unchanged", server=server_id, reason=str(error))

    def _opens(self, server: Present, failures: int) -> bool:
        return failures >= self._settings.circuit_failures or _is_trial(server)


def _counts_against(answer: Answer) -> bool:
    return isinstance(answer, Failed) and answer.kind in COUNTS_AGAINST_SERVER


def _is_trial(server: Present) -> bool:
    """Tell whether a server, as it was when the attempt began, was let one attempt to see whether it has recovered."""
    return not isinstance(server.circuit, CircuitIsClosed)
