"""Routes of owners' limits. Admins set them; each owner may read their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from litestar.params import QueryParameter

from ...commands.owner import LimitOwner, OwnerCommand, OwnerState, RemoveOwnerLimits, allowance
from ...container import Container
from ...errors import Forbidden, InvalidInput, QuotaExceeded, StoredTooMuch, StoreUnavailable, TooManyStreams
from ...events.ids import owner_token
from ...events.owner import OwnerLimited
from ...index.lists import SERVICE
from ...index.loads import owners_after
from ...instants import optional_milliseconds
from ..auth.access import READERS_OF_ALL, ApiRequest, Origin, guarded, origin, tag
from ..auth.identity import is_plain
from ..bodies import read_as
from ..limit_use import UNUSED, ask_limits, effect_of, loads_of_owners
from ..parameters import Cursor, IfMatch, Limit, OwnerInPath, decoded, page_of
from ..routing import RouteHandler, Routes
from ..schemas.owners import (
    LimitsPreview,
    OwnerLimitsAnswer,
    OwnerLimitsBody,
    OwnerPage,
    OwnerUse,
    QuotaBody,
    QuotasAnswer,
    owner_answer,
    owner_limits,
)

LONGEST_OWNER = 256
AllOwners = Annotated[
    bool, QueryParameter(name="all", description="True: also owners without limits of their own, all with their `use`")
]


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


async def uses_of(container: Container, owners: Sequence[str]) -> dict[str, OwnerUse]:
    """Return what owners use now. Raises StoreError."""
    tokens = {owner: owner_token(owner) for owner in owners}
    loads = await loads_of_owners(container, list(tokens.values()))
    limits = await ask_limits(container, owners=list(tokens.values()))
    found = {}
    for owner, key in tokens.items():
        load, use = loads[key], limits.owners.get(key, UNUSED) if limits else None
        found[owner] = OwnerUse(
            running=load.running,
            waiting=load.waiting,
            held=load.held,
            starts_per_second=round(load.starts_per_minute / 60, 2),
            counted=use.counted if use else None,
            held_by_limit=use.held if use else None,
            quotas=(await quotas_of(container, owner)).quotas,
        )
    return found


async def preview_of(container: Container, owner: str, limits: OwnerLimited) -> LimitsPreview:
    """Return what an owner's own limits would do. Raises StoreError."""
    key = owner_token(owner)
    answer = await ask_limits(container, owners=[key])
    if answer is None:
        raise StoreUnavailable("no scheduler answers, so it is not known what the limits would do; retry later")
    load = (await loads_of_owners(container, [key]))[key]
    present = container.fleet.allowance(key)
    wanted = allowance(OwnerState(own=limits), container.fleet.service)
    effect = effect_of(wanted, present, answer.owners.get(key, UNUSED), load)
    used = {QuotaExceeded.policy: load.waiting, StoredTooMuch.policy: (await container.submissions.stored.of(key)).used}
    quotas = {QuotaExceeded.policy: wanted.waiting, StoredTooMuch.policy: wanted.stored}
    return LimitsPreview(
        owner=owner,
        would_hold=effect.would_hold,
        would_release=effect.would_release,
        over=effect.over,
        refuses=[policy for policy, limit in quotas.items() if limit is not None and used[policy] >= limit],
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
        fails={412},
    )
    async def put_owner_limits(
        request: ApiRequest,
        owner: OwnerInPath,
        if_match: IfMatch = None,  # noqa: ARG001 - read by `guarded`
    ) -> OwnerLimitsAnswer:
        """Set the limits of one owner, replacing all previous ones. They apply at once, also to waiting tasks.

        Running tasks go on: after a limit is lowered, more may run for a while.
        """
        name = owner_name(owner)
        body = await read_as(request, OwnerLimitsBody, container.settings.max_json_depth)
        limits = owner_limits(name, body)
        answer = await command_owner(container, name, LimitOwner(limits=limits), guarded(request))
        tag(request, OwnerState(own=limits))
        return answer

    @routes.get("/{owner:str}/limits", "Read an owner's limits", "The limits in force", never={404})
    async def get_owner_limits(request: ApiRequest, owner: OwnerInPath) -> OwnerLimitsAnswer:
        """Return the limits of an owner: your own, or any owner's with the role admin or auditor."""
        name = owner_name(owner)
        check_reader(request, name, "limits")
        state = (await container.commands.owners.load(name)).state
        tag(request, state)
        return owner_answer(name, state, container.fleet.service)

    @routes.get("/", "List owners", "A page of owners, by name", roles=READERS_OF_ALL)
    async def list_owners(all_: AllOwners = False, limit: Limit = 50, cursor: Cursor = None) -> OwnerPage:
        """List the owners with limits set by an admin; all others have the limits of the service.

        With `all=true` list everybody who has tasks, too, each with what is used now: running and waiting tasks,
        starts, tasks that the limits hold, and quotas.
        """
        await container.fleet.catch_up(container.reading)
        found = {own.owner: own for own in container.fleet.limited_owners()}
        if not all_:
            shown, following = page_of(found, limit, cursor)
            owners = [owner_answer(owner, OwnerState(own=found[owner]), container.fleet.service) for owner in shown]
            return OwnerPage(owners=owners, next_cursor=following)
        known = await container.index.run(partial(owners_after, after=cursor or "", limit=limit + 1), SERVICE)
        shown, following = page_of({*found, *known}, limit, cursor)
        uses = await uses_of(container, shown)
        states = {owner: OwnerState(own=found.get(owner)) for owner in shown}
        answers = [owner_answer(owner, state, container.fleet.service) for owner, state in states.items()]
        for answer in answers:
            answer.use = uses[answer.owner]
        return OwnerPage(owners=answers, next_cursor=following)

    @routes.post(
        "/{owner:str}/limits/preview",
        "Preview an owner's limits",
        "What the limits would do",
        body=OwnerLimitsBody,
        needs_body=True,
        roles=("admin",),
        never={404},
    )
    async def preview_owner_limits(request: ApiRequest, owner: OwnerInPath) -> LimitsPreview:
        """Return what limits would do to an owner's tasks if they were set now, and change nothing.

        503 if no scheduler answers.
        """
        name = owner_name(owner)
        body = await read_as(request, OwnerLimitsBody, container.settings.max_json_depth)
        return await preview_of(container, name, owner_limits(name, body))

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
