"""Checks of registrations in this process, over the egress rules: what each would do. Nothing is stored."""

from __future__ import annotations

from ..backends.client import BackendClient
from ..backends.detection import dialect_detected
from ..backends.dialects import dialect_of, is_checked
from ..commands.server import AUTO, Present, with_dialect
from ..container import Container
from ..events.server import ServerRegistered
from .schemas.trials import CheckAnswer, HealthInfo
from .server_detection import detect_answer


async def check_registration(
    container: Container, server: ServerRegistered, api_key: str | None, *, reach: bool
) -> CheckAnswer:
    """Return what a registration would do; with `reach`, also what its server answers now. Nothing is stored.

    A server is asked for its health as a worker would ask, and with the dialect `auto` for what it speaks. No request
    calls a model.
    """
    known = (await container.commands.servers.load(server.server_id)).state
    found = CheckAnswer(
        id=server.server_id,
        registered=isinstance(known, Present),
        dialect=server.dialect or None,
        health_checked=is_checked(server),
        health=None,
        detected=None,
    )
    if not reach or server.is_pulled:
        return found
    async with container.egress.session() as session:
        settings = container.settings
        client = BackendClient(session, settings.max_result, settings.health_timeout)
        if server.dialect == AUTO:
            detected = await client.detect(server, api_key)
            event = dialect_detected(server, detected)
            found.detected = detect_answer(server.server_id, detected, applied=event is not None)
            if event is None:
                found.dialect = None
                return found
            server = with_dialect(server, event)
            found.dialect, found.health_checked = server.dialect, is_checked(server)
        if found.health_checked:
            needs_key = dialect_of(server).health_needs_key(server)
            probe = await client.probe(server, api_key if needs_key else None)
            found.health = HealthInfo(well=probe.well, reason=probe.reason, latency_ms=probe.latency_ms)
    return found
