"""Routes of owners' limits. Admins set them; each owner may read their own."""

from __future__ import annotations

from ...commands.owner import LimitOwner, OwnerCommand, OwnerState, RemoveOwnerLimits
from ...container import Container
from ...errors import Forbidden, InvalidInput, QuotaExceeded, StoredTooMuch, TooManyStreams
from ...events.ids import owner_token
from ...instants import optional_milliseconds
from ..auth.access import READERS_OF_ALL, ApiRequest, Origin, origin
from ..auth.authenticator import is_plain
from ..bodies import read_as
from ..parameters import Cursor, Limit, OwnerInPath, decoded, page_of
from ..routing import RouteHandler, Routes
from ..schemas.owners import (
    OwnerLimitsAnswer,
    OwnerLimitsBody,
    OwnerPage,
    QuotaBody,
    QuotasAnswer,
    owner_answer,
    owner_limits,
)

LONGEST_OWNER = 256


async def command_owner(container: Container, owner: str, command: OwnerCommand, signed: Origin) -> OwnerLimitsAnswer:
    """Give a command, wait until this process has read its event, and return the limits in force."""
    handled = await container.commands.owners.handle(owner, command, **signed)
    await container.fleet.reached(handled.known.sequence)
    return owner_answer(owner, handled.known.state, container.fleet.service)


def owner_name(segment: str) -> str:
    """Return the owner named by a percent-encoded path segment. Raises InvalidInput if no token can have it."""
    owner = decoded(segment, "owner")
    if not 0 < len(owner) <= LONGEST_OWNER or not is_plain(owner):
        raise InvalidInput(f"must be 1 to {LONGEST_OWNER} characters without control characters", "owner")
    return owner


def check_reader(request: ApiRequest, owner: str, what: str) -> None:
    """Raise Forbidden unless the caller is the owner, an admin or an auditor."""
    if owner != request.user.subject and not request.user.has(*READERS_OF_ALL):
        raise Forbidden(f"another owner's {what} need a token with the role {' or '.join(READERS_OF_ALL)}")


async def quotas_of(container: Container, owner: str) -> QuotasAnswer:
    """Return the quotas of an owner, by name. Raises StoreError."""
    key = owner_token(owner)
    stored = await container.submissions.stored.of(key)
    return QuotasAnswer(
        owner=owner,
        quotas=[
            QuotaBody(
                policy=QuotaExceeded.policy,
                unit="tasks",
                limit=container.fleet.allowance(key).waiting,
                used=container.submissions.admission.waiting(key),
            ),
            QuotaBody(
                policy=StoredTooMuch.policy,
                unit="bytes",
                limit=stored.limit,
                used=stored.used,
                frees_at=optional_milliseconds(stored.frees_at),
            ),
            QuotaBody(
                policy=TooManyStreams.policy,
                unit="streams",
                limit=container.settings.user_streams or None,
                used=container.open_streams.of(owner),
            ),
        ],
    )


def quota_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/quotas", "Owners")

    @routes.get("/", "Read your quotas", "Your quotas")
    async def get_quotas(request: ApiRequest) -> QuotasAnswer:
        """Return the caller's quotas, each with its limit and what is used of it. A request over one is a 429."""
        return await quotas_of(container, request.user.subject)

    return routes.handlers


def owner_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/owners", "Owners")

    @routes.get("/{owner:str}/quotas", "Read an owner's quotas", "The quotas of the owner", never={404})
    async def get_owner_quotas(request: ApiRequest, owner: OwnerInPath) -> QuotasAnswer:
        """Return the quotas of an owner: your own, or any owner's with the role admin or auditor."""
        name = owner_name(owner)
        check_reader(request, name, "quotas")
        return await quotas_of(container, name)

    @routes.put(
        "/{owner:str}/limits",
        "Set an owner's limits",
        "The limits in force",
        body=OwnerLimitsBody,
        needs_body=True,
        roles=("admin",),
        never={404},
    )
    async def put_owner_limits(request: ApiRequest, owner: OwnerInPath) -> OwnerLimitsAnswer:
        """Set the limits of one owner, replacing all previous ones. They apply at once, also to waiting tasks.

        Running tasks go on: after a limit is lowered, more may run for a while.
        """
        name = owner_name(owner)
        body = await read_as(request, OwnerLimitsBody, container.settings.max_json_depth)
        return await command_owner(container, name, LimitOwner(limits=owner_limits(name, body)), origin(request))

    @routes.get("/{owner:str}/limits", "Read an owner's limits", "The limits in force", never={404})
    async def get_owner_limits(request: ApiRequest, owner: OwnerInPath) -> OwnerLimitsAnswer:
        """Return the limits of an owner: your own, or any owner's with the role admin or auditor."""
        name = owner_name(owner)
        check_reader(request, name, "limits")
        return owner_answer(name, (await container.commands.owners.load(name)).state, container.fleet.service)

    @routes.get("/", "List owners with limits of their own", "A page of owners, by name", roles=READERS_OF_ALL)
    async def list_limited_owners(limit: Limit = 50, cursor: Cursor = None) -> OwnerPage:
        """List the owners with limits set by an admin; all others have the limits of the service."""
        await container.fleet.catch_up(container.reading)
        found = {own.owner: own for own in container.fleet.limited_owners()}
        shown, following = page_of(found, limit, cursor)
        return OwnerPage(
            owners=[owner_answer(owner, OwnerState(own=found[owner]), container.fleet.service) for owner in shown],
            next_cursor=following,
        )

    @routes.delete(
        "/{owner:str}/limits",
        "Remove an owner's limits",
        "The limits in force: those of the service",
        roles=("admin",),
        never={404},
    )
    async def delete_owner_limits(request: ApiRequest, owner: OwnerInPath) -> OwnerLimitsAnswer:
        """Remove an owner's own limits, if any: the limits of the service apply again."""
        name = owner_name(owner)
        return await command_owner(container, name, RemoveOwnerLimits(owner=name), origin(request))

    return routes.handlers
