"""Detection of what a server speaks, from this process, over the egress rules."""

from __future__ import annotations

from ..backends.detection import Detected, detect, dialect_detected, undetected_reason
from ..commands.server import MarkOffline, Present, RecordDialect
from ..container import Container
from ..errors import RuleBroken
from ..events.server import ServerRegistered
from ..vault.sealing import SealingError
from .auth.access import Origin
from .schemas.detection import DetectAnswer, evidence_info
from .server_registration import command_server


def must_be_called(server: ServerRegistered) -> None:
    """Raise RuleBroken for a pulled server: it has no address."""
    if server.is_pulled:
        raise RuleBroken("a server with `mode: pull` is never called: it has no address")


async def key_of(container: Container, server: ServerRegistered) -> str | None:
    """Return a server's API key, None if it has none. Raises RuleBroken if it cannot be read."""
    if not server.api_key_id:
        return None
    try:
        return await container.secrets.get(server.server_id, server.api_key_id)
    except SealingError:
        raise RuleBroken("its API key cannot be decrypted: register the server again with its key") from None


async def detect_dialect(container: Container, server: Present, signed: Origin) -> DetectAnswer:
    """Find out what a server speaks, and apply it if it is registered with the dialect `auto`.

    While it is not known, the server's status says why, and each health check tries again. Raises RuleBroken if its
    API key cannot be read, or the server is pulled.
    """
    must_be_called(server.settings)
    api_key = await key_of(container, server.settings)
    async with container.egress.session() as session:
        found = await detect(session, server.registered, api_key)
    after = await _record(container, server, found, signed)
    return detect_answer(server.server_id, found, applied=after.detected is not None)


def detect_answer(server_id: str, found: Detected, *, applied: bool) -> DetectAnswer:
    """Return what clients see of a detection. `applied`: the registration takes what is found."""
    finding = found.finding
    is_known = finding is not None and bool(finding.dialect)
    return DetectAnswer(
        id=server_id,
        dialect=finding.dialect if finding and is_known else None,
        preset=(finding.preset or None) if finding else None,
        program=(finding.program or None) if finding else None,
        reason=found.problem or None,
        applied=is_known and applied,
        evidence=evidence_info(found.evidence),
    )


async def _record(container: Container, server: Present, found: Detected, signed: Origin) -> Present:
    """Record a finding, or why there is none while nothing is known; return the server's new state."""
    event = dialect_detected(server.registered, found)
    if event is not None:
        command: RecordDialect | MarkOffline = RecordDialect(detected=event)
    elif server.is_undetected and not found.is_ours:
        command = MarkOffline(reason=undetected_reason(found))
    else:
        return server
    after = (await command_server(container, server.server_id, command, signed)).known.state
    return after if isinstance(after, Present) else server
