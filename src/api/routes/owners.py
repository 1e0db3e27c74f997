"""Owners: what limits hold for them. Admins set them, and each owner may read their own."""

from __future__ import annotations

from litestar import Router, delete, get, put

from ...commands.owner import LimitOwner, OwnerCommand, OwnerState, RemoveOwnerLimits
from ...container import Container
from ...errors import Forbidden, InvalidInput
from ..auth.access import READERS_OF_ALL, ApiRequest, actor, requires
from ..auth.authenticator import is_plain
from ..bodies import described, read_as, schema_of
from ..middleware.edge import request_id
from ..openapi.examples import OWNER_EXAMPLES
from ..parameters import Cursor, Limit, OwnerInPath, decoded, page_of
from ..problems import answers
from ..schemas.owners import OwnerLimitsAnswer, OwnerLimitsBody, OwnerPage, owner_answer, owner_limits

LONGEST_OWNER = 256


class Owners:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container

    async def put(self, request: ApiRequest, segment: str) -> OwnerLimitsAnswer:
        owner = owner_name(segment)
        body = await read_as(request, OwnerLimitsBody, self.container.settings.max_json_depth)
        return await self._command(request, owner, LimitOwner(limits=owner_limits(owner, body)))

    async def delete(self, request: ApiRequest, segment: str) -> OwnerLimitsAnswer:
        owner = owner_name(segment)
        return await self._command(request, owner, RemoveOwnerLimits(owner=owner))

    async def get(self, request: ApiRequest, segment: str) -> OwnerLimitsAnswer:
        owner = owner_name(segment)
        if owner != request.user.subject and not request.user.has(*READERS_OF_ALL):
            raise Forbidden(f"another owner's limits need a token with the role {' or '.join(READERS_OF_ALL)}")
        return self._answer(owner, (await self.container.commands.owners.load(owner)).state)

    async def page(self, limit: int, cursor: str | None) -> OwnerPage:
        fleet = self.container.fleet
        await fleet.catch_up(self.container.reading)
        found = {own.owner: own for own in fleet.limited_owners()}
        shown, following = page_of(found, limit, cursor)
        return OwnerPage(
            owners=[self._answer(owner, OwnerState(own=found[owner])) for owner in shown],
            next_cursor=following,
        )

    async def _command(self, request: ApiRequest, owner: str, command: OwnerCommand) -> OwnerLimitsAnswer:
        handled = await self.container.commands.owners.handle(
            owner, command, by=actor(request.user), cause=request_id(request.scope)
        )
        await self.container.fleet.reached(handled.known.sequence)
        return self._answer(owner, handled.known.state)

    def _answer(self, owner: str, state: OwnerState) -> OwnerLimitsAnswer:
        return owner_answer(owner, state, self.container.fleet.service)


def owner_name(segment: str) -> str:
    """Return the owner that a path's segment is, still percent-encoded. Raises InvalidInput for what no token has."""
    owner = decoded(segment, "owner")
    if not 0 < len(owner) <= LONGEST_OWNER or not is_plain(owner):
        raise InvalidInput(f"an owner is 1 to {LONGEST_OWNER} characters, none a control character", "owner")
    return owner


def owner_router(container: Container) -> Router:
    """Return the routes."""
    owners = Owners(container)

    @put(
        "/{owner:str}/limits",
        status_code=200,
        opt=requires("admin"),
        operation_class=described(schema_of(OwnerLimitsBody), OWNER_EXAMPLES),
        responses=answers(400, 401, 403, 413, 415, 503),
        response_description="The limits that hold now",
        summary="Set an owner's limits",
    )
    async def put_owner_limits(request: ApiRequest, owner: OwnerInPath) -> OwnerLimitsAnswer:
        """Set limits for one owner, in place of those they had; they hold at once, also for what waits already.

        What runs goes on: after a limit was lowered, more may run for a while.
        """
        return await owners.put(request, owner)

    @get(
        "/{owner:str}/limits",
        responses=answers(400, 401, 403, 503),
        response_description="The limits that hold now",
        summary="Read an owner's limits",
    )
    async def get_owner_limits(request: ApiRequest, owner: OwnerInPath) -> OwnerLimitsAnswer:
        """Return the limits of an owner: your own, or with the role admin or auditor anybody's."""
        return await owners.get(request, owner)

    @get(
        "/",
        opt=requires(*READERS_OF_ALL),
        responses=answers(400, 401, 403, 503),
        response_description="A page of owners, by name",
        summary="List owners with limits of their own",
    )
    async def list_limited_owners(limit: Limit = 50, cursor: Cursor = None) -> OwnerPage:
        """List the owners for whom an admin has set limits; for all others those of the service hold."""
        return await owners.page(limit, cursor)

    @delete(
        "/{owner:str}/limits",
        status_code=200,
        opt=requires("admin"),
        responses=answers(400, 401, 403, 503),
        response_description="The limits that hold now: the service's",
        summary="Remove an owner's limits",
    )
    async def delete_owner_limits(request: ApiRequest, owner: OwnerInPath) -> OwnerLimitsAnswer:
        """Take an owner's own limits away, if there are any: the service's hold again."""
        return await owners.delete(request, owner)

    return Router(
        path="/owners",
        route_handlers=[put_owner_limits, get_owner_limits, list_limited_owners, delete_owner_limits],
        tags=["Owners"],
    )
