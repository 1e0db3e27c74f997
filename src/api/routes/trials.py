"""Routes that check a registration, or try a server: calls outside the queue. Admins only."""

from __future__ import annotations

from typing import Any, TypeVar, cast

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
from ..schemas.trials import CheckAnswer, CheckBody, TryAnswer, TryBody, TryUnregisteredBody
from ..server_checks import check_registration
from ..server_registration import find_server, read_settings, whole_registration
from ..server_trials import Trials, try_server

B = TypeVar("B", TryUnregisteredBody, CheckBody)


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

    async def read_unregistered(request: ApiRequest, body_type: type[B]) -> tuple[B, ServerRegistered]:
        """Return a body with a registration in `server`, and the settings that it means. Raises InvalidInput."""
        given = parse_json_object((await read_body(request)).strip() or b"{}", depth)
        try:
            if isinstance(server := given.get("server"), dict):
                given["server"] = whole_registration(server)
            body = decoded_as(msgspec.json.encode(given), body_type, depth)
        except InvalidInput as error:
            at_preset = error.path == "$.preset"
            raise InvalidInput(error.detail, "$.server.preset" if at_preset else error.path) from None
        try:
            return body, await read_settings(container, body.server)
        except InvalidInput as error:
            raise InvalidInput(error.detail, error.path.replace("$", "$.server", 1)) from None

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
        body, settings = await read_unregistered(request, TryUnregisteredBody)
        return await tried(request, settings, body, body.server.api_key)

    @routes.post("/check", "Check a registration", "What it would do", body=CheckBody, fails=[409])
    async def check(request: ApiRequest) -> CheckAnswer:
        """Check the body that would register a server, without registering it.

        A registration that would be refused is refused here, with the same words. With `reach`, the server is asked for
        its health, and with the dialect `auto` for what it speaks: GET requests that call no model. Nothing is stored.
        """
        body, settings = await read_unregistered(request, CheckBody)
        if not body.reach:
            return await check_registration(container, settings, None, reach=False)
        cast(dict[str, Any], request.scope)[MAY_TAKE_LONG] = True
        with trials.one(request.user.subject):
            return await check_registration(container, settings, body.server.api_key, reach=True)

    return routes.handlers
