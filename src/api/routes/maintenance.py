"""Maintenance of servers: begun and ended, and how far it has drained what they have. Admins only."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from litestar import Router, post

from ...clock import utc_now
from ...commands.server import Present, SetMaintenance
from ...container import Container
from ...events.subjects import server_token
from ...projections.active import projection_reaches, running_on
from ...streams.jetstream.api import api
from ...streams.topology.definitions import TASKS
from ...wire.fields import iso
from ..auth.access import ApiRequest, requires
from ..bodies import described, read_as, schema_of
from ..openapi.examples import DRAIN_EXAMPLES, MAINTENANCE_EXAMPLES
from ..parameters import ServerId
from ..problems import answers
from ..schemas.servers import DrainAnswer, DrainBody, MaintenanceAnswer, MaintenanceBody
from .server_commands import command_server

PROJECTION_SECONDS = 2.0
"""How long a drain waits for the projection, which says what runs."""
KNOWN_AFTER = timedelta(seconds=2)
"""How long after its beginning every worker knows of a drain, and what it began before is in the log."""


class Maintenance:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container

    async def set(self, request: ApiRequest, server_id: str) -> MaintenanceAnswer:
        body = await read_as(request, MaintenanceBody, self.container.settings.max_json_depth)
        return await self._set(request, server_id, SetMaintenance(maintenance=body.maintenance, reason=body.reason))

    async def end(self, request: ApiRequest, server_id: str) -> MaintenanceAnswer:
        body = await read_as(request, DrainBody, self.container.settings.max_json_depth)
        return await self._set(request, server_id, SetMaintenance(maintenance=False, reason=body.reason))

    async def _set(self, request: ApiRequest, server_id: str, command: SetMaintenance) -> MaintenanceAnswer:
        await command_server(self.container, request, server_id, command)
        return MaintenanceAnswer(id=server_id, maintenance=command.maintenance)

    async def drain(self, request: ApiRequest, server_id: str) -> DrainAnswer:
        """Have a server take nothing new; return how much it still runs. Safe to repeat: it tells how far it is."""
        body = await read_as(request, DrainBody, self.container.settings.max_json_depth)
        command = SetMaintenance(maintenance=True, reason=body.reason)
        state = (await command_server(self.container, request, server_id, command)).known.state
        assert isinstance(state, Present)
        since = state.maintenance_since or utc_now()
        running = await self._running(server_id)
        return DrainAnswer(
            id=server_id, since=iso(since), running=running, drained=running == 0 and utc_now() - since > KNOWN_AFTER
        )

    async def _running(self, server_id: str) -> int:
        """Return how many tasks a server runs by all that is in the log now, if the projection gets there soon."""
        bucket = self.container.buckets.tasks
        last = int((await api(self.container.reading, f"STREAM.INFO.{TASKS}"))["state"]["last_seq"])
        await projection_reaches(bucket, last, PROJECTION_SECONDS)
        return len(await running_on(bucket, server_token(server_id)))


def maintenance_router(container: Container) -> Router:
    """Return the routes."""
    maintenance = Maintenance(container)
    intervention = partial(post, status_code=200, responses=answers(400, 401, 403, 404, 413, 415, 503))
    reasons = described(schema_of(DrainBody), DRAIN_EXAMPLES, required=False)

    @intervention(
        "/{server_id:str}/maintenance",
        operation_class=described(schema_of(MaintenanceBody), MAINTENANCE_EXAMPLES),
        response_description="The server is, or is no longer, in maintenance",
        summary="Begin or end maintenance",
    )
    async def set_maintenance(request: ApiRequest, server_id: ServerId) -> MaintenanceAnswer:
        """In maintenance a server finishes what it has and takes nothing new."""
        return await maintenance.set(request, server_id)

    @intervention(
        "/{server_id:str}/drain",
        operation_class=reasons,
        response_description="How far it is",
        summary="Drain a server",
    )
    async def drain_server(request: ApiRequest, server_id: ServerId) -> DrainAnswer:
        """Begin maintenance, and tell how many tasks still run. Ask again until `drained` is true; then resume it."""
        return await maintenance.drain(request, server_id)

    @intervention(
        "/{server_id:str}/resume",
        operation_class=reasons,
        response_description="The server is given work again",
        summary="End a drain",
    )
    async def resume_server(request: ApiRequest, server_id: ServerId) -> MaintenanceAnswer:
        """End a drain, which is maintenance: the server is given work again."""
        return await maintenance.end(request, server_id)

    return Router(
        path="/servers",
        route_handlers=[set_maintenance, drain_server, resume_server],
        opt=requires("admin"),
        tags=["Servers"],
    )
