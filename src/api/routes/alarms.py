"""The route of alarms: what needs a person now."""

from __future__ import annotations

from ...clock import utc_now
from ...events.ids import owner_token
from ..alarm_desk import EVERYBODY, AlarmDesk
from ..auth.access import READERS_OF_ALL, ApiRequest
from ..routing import RouteHandler, Routes
from ..schemas.alarms import AlarmsAnswer, alarms_answer


def alarm_routes(desk: AlarmDesk) -> list[RouteHandler]:
    routes = Routes("/", "Alarms")

    @routes.get("/alarms", "Read the alarms", "What needs a person now")
    async def get_alarms(request: ApiRequest) -> AlarmsAnswer:
        """Return the conditions that need a person, each with what to do and the evidence.

        Admins and auditors get those of the service, others those of their own schedules and webhooks. One answer
        serves everybody for a second, so it may be asked for often.
        """
        owner = EVERYBODY if request.user.has(*READERS_OF_ALL) else owner_token(request.user.subject)
        return alarms_answer(await desk.read(owner), utc_now())

    return routes.handlers
