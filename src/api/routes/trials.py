"""Routes that try a server or a registration: one call outside the queue. Admins only."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from ...container import Container
from ...errors import InvalidInput
from ...events.server import ServerRegistered
from ...submission.body import parse_json_object
from ..auth.access import ApiRequest
from ..bodies import decoded_as, read_as, read_body
from ..middleware import MAY_TAKE_LONG
from ..parameters import ServerId
from ..routing import RouteHandler, Routes
from ..schemas.trials import TryAnswer, TryBody, TryUnregisteredBody
from ..server_registration import find_server, read_settings, whole_registration
from ..server_trials import Trials, try_server


def trial_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/servers", "Servers", roles=("admin",))
    depth = container.settings.max_json_depth
    trials = Trials()

    async def tried(
        request: ApiRequest, settings: ServerRegistered, body: TryBody, own_key: str | None = None
    ) -> TryAnswer:
        cast(dict[str, Any], request.scope)[MAY_TAKE_LONG] = True
        subject = request.user.subject
        with trials.one(subject):
            return await try_server(container, settings, body, subject, own_key)

    @routes.post("/{server_id:str}/try", "Try a server", "The call, and what it means", body=TryBody, fails=[409])
    async def try_registered(request: ApiRequest, server_id: ServerId) -> TryAnswer:
        """Call a server once, with a payload, to check its registration. No task is made, and nothing is stored.

        The call goes from the API and outside the queue, also to a server that is offline or in maintenance; it takes
        no slot. At most three at once for each admin. Keys are removed from what is shown.
        """
        body = await read_as(request, TryBody, depth)
        server = await find_server(container, server_id)
        return await tried(request, server.settings, body)

    @routes.post("/try", "Try a registration", "The call, and what it means", body=TryUnregisteredBody, fails=[409])
    async def try_unregistered(request: ApiRequest) -> TryAnswer:
        """Call a server once that is not registered: `server` is the body that would register it."""
        given = parse_json_object((await read_body(request)).strip() or b"{}", depth)
        try:
            if isinstance(server := given.get("server"), dict):
                given["server"] = whole_registration(server)
            body = decoded_as(msgspec.json.encode(given), TryUnregisteredBody, depth)
        except InvalidInput as error:
            at_preset = error.path == "$.preset"
            raise InvalidInput(error.detail, "$.server.preset" if at_preset else error.path) from None
        try:
            settings = await read_settings(container, body.server)
        except InvalidInput as error:
            raise InvalidInput(error.detail, error.path.replace("$", "$.server", 1)) from None
        return await tried(request, settings, body, body.server.api_key)

    return routes.handlers
