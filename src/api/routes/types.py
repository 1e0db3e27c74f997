"""Routes of task types: payload schema, retries and limits. Admins write them, all callers read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Annotated

import msgspec
from litestar.params import QueryParameter
from msgspec import UNSET, Raw

from ...clock import utc_now
from ...commands.task_type import (
    DEFAULT_POOL,
    DEFAULT_TYPE,
    DefineType,
    DeleteType,
    PauseType,
    ResumeType,
    TypeCommand,
    TypeState,
)
from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound, RuleBroken
from ...events.envelope import NULL
from ...events.limits import Limits
from ...events.task_type import TypeDefined
from ...index.lists import SERVICE
from ...index.loads import loads
from ...submission.payload_schema import PayloadSchema
from ..auth.access import READERS_OF_ALL, ApiRequest, Origin, guarded, origin, tag
from ..bodies import read_as
from ..limit_use import UNUSED, ask_limits
from ..parameters import Cursor, IfMatch, TypeLimit, TypeNameInPath, page_of
from ..routing import RouteHandler, Routes
from ..schemas.dialects import read_dialect
from ..schemas.owners import check_burst
from ..schemas.pools import PauseAnswer, pause_info
from ..schemas.shared import ReasonBody
from ..schemas.types import TypeBody, TypeDone, TypeName, TypePage, TypeSummary, TypeUse, type_summary
from ..server_schemas import schema_of_server

WithUse = Annotated[
    bool, QueryParameter(description="True: with `use`, what tasks of the type do now; admins and auditors only")
]


async def define_type(container: Container, name: str, body: TypeBody, signed: Origin) -> TypeState:
    """Define a type or replace its settings, and return its new state.

    Raises InvalidInput, and RuleBroken if another type has the model.
    """
    await _check_model(container, name, body.model)
    schema, source = body.schema, None
    if body.schema_from is not None:
        schema, source = await schema_of_server(container, body)
    elif schema is not None:
        PayloadSchema(schema)
    definition = TypeDefined(
        name=name,
        pool=body.pool if isinstance(body.pool, str) else _own_pool(name),
        payload_schema=Raw(msgspec.json.encode(schema)) if schema is not None else NULL,
        schema_source=source,
        attempts=body.attempts,
        backoff_base=_duration(body.backoff_base),
        backoff_cap=_duration(body.backoff_cap),
        timeout=_duration(body.timeout),
        priority=body.priority,
        description=body.description,
        limits=_limits(body),
        key_concurrency=body.key_concurrency,
        on_conflict=body.on_conflict,
        busy_for=_duration(body.busy_for),
        accepts=body.accepts,
        indexed=tuple(dict.fromkeys(body.indexed)),
        session_affinity=body.session_affinity,
        dialect=read_dialect(body.dialect),
        model=body.model or "",
    )
    command = DefineType(definition=definition, keeps_pool=body.pool is UNSET)
    return await command_type(container, name, command, signed)


async def command_type(container: Container, name: str, command: TypeCommand, signed: Origin) -> TypeState:
    """Give a command, wait until this process has read its events, and return the type's new state."""
    handled = await container.commands.types.handle(name, command, **signed)
    await container.fleet.reached(handled.known.sequence)
    return handled.known.state


async def _check_model(container: Container, name: str, model: str | None) -> None:
    """Raise RuleBroken if another type has a model."""
    if model is None:
        return
    await container.fleet.catch_up(container.reading)
    if (holder := container.fleet.type_of_model(model)) not in (None, name):
        raise RuleBroken(f"the type {holder} has the `model` {model}; choose another, or take it from that type first")


def _check_name(name: str) -> None:
    try:
        msgspec.convert(name, TypeName)
    except msgspec.ValidationError:
        raise InvalidInput(
            "must be 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit",
            "name",
        ) from None


def _own_pool(name: str) -> str:
    """Return the pool of a type whose settings have no pool: one of its own."""
    return DEFAULT_POOL if name == DEFAULT_TYPE else name


def _limits(body: TypeBody) -> Limits | None:
    check_burst(body.per_second, body.burst)
    limits = Limits(concurrency=body.concurrency, per_second=body.per_second, burst=body.burst)
    return limits if limits.is_any else None


def _duration(seconds: float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds is not None else None


def check_use(request: ApiRequest, *, wanted: bool) -> None:
    """Raise Forbidden if the caller wants the numbers of everybody's tasks and may not have them."""
    if wanted and not request.user.has(*READERS_OF_ALL):
        raise Forbidden("`use` has numbers of all owners' tasks; it needs a token with the role admin or auditor")


async def add_use(container: Container, types: Sequence[TypeSummary]) -> None:
    """Add to types what their tasks do now. Raises StoreError."""
    names = [each.name for each in types]
    found = await container.index.run(partial(loads, of="type", values=names, now=utc_now()), SERVICE)
    limits = await ask_limits(container, types=names)
    for each in types:
        load = found[each.name]
        limit = limits.types.get(each.name, UNUSED) if limits else None
        each.use = TypeUse(
            running=load.running,
            waiting=load.waiting,
            held=load.held,
            starts_per_minute=load.starts_per_minute,
            counted=limit.counted if limit else None,
            held_by_limit=limit.held if limit else None,
            waiting_for=limits.waiting_for.get(each.name, {}) if limits else None,
        )


def type_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/types", "Types")
    depth = container.settings.max_json_depth

    @routes.put(
        "/{name:str}",
        "Define a type",
        "The type's settings",
        body=TypeBody,
        roles=("admin",),
        never={404},
        fails={409, 412},
    )
    async def put_type(
        request: ApiRequest,
        name: TypeNameInPath,
        if_match: IfMatch = None,  # noqa: ARG001 - read by `guarded`
    ) -> TypeSummary:
        """Define a type, or replace its settings. Tasks already submitted keep their settings.

        What the body leaves out gets its default, but a `pool` left out stays as it is. `schemaFrom` asks a server for
        the schema of its model's input; it is refused, with the reason, if the server gives none that can be used.
        """
        _check_name(name)
        body = await read_as(request, TypeBody, depth)
        state = await define_type(container, name, body, guarded(request))
        tag(request, state)
        return type_summary(name, state, container.settings)

    @routes.get("/", "List types", "A page of types, by name")
    async def list_types(
        request: ApiRequest, use: WithUse = False, limit: TypeLimit = 1000, cursor: Cursor = None
    ) -> TypePage:
        """List the types by name; `default` always exists."""
        check_use(request, wanted=use)
        fleet = container.fleet
        await fleet.catch_up(container.reading)
        states = {state.definition.name: state for state in fleet.types() if state.definition}
        states.setdefault(DEFAULT_TYPE, fleet.type_state(DEFAULT_TYPE))
        shown, following = page_of(states, limit, cursor)
        types = [type_summary(name, states[name], container.settings) for name in shown]
        if use:
            await add_use(container, types)
        return TypePage(types=types, next_cursor=following)

    @routes.get("/{name:str}", "Read a type", "The type's settings")
    async def get_type(request: ApiRequest, name: TypeNameInPath, use: WithUse = False) -> TypeSummary:
        """Return a type's settings; where it has none, those of the service."""
        check_use(request, wanted=use)
        state = (await container.commands.types.load(name)).state
        if state.definition is None and name != DEFAULT_TYPE:
            raise NotFound("type", name)
        tag(request, state)
        found = type_summary(name, state, container.settings)
        if use:
            await add_use(container, [found])
        return found

    @routes.delete("/{name:str}", "Delete a type", "The type is deleted", roles=("admin",), fails={409})
    async def delete_type(request: ApiRequest, name: TypeNameInPath) -> TypeDone:
        """Delete a type's settings. Its tasks go on; new tasks of this type are treated like `default`."""
        await command_type(container, name, DeleteType(name=name), origin(request))
        return TypeDone(name=name)

    @routes.post("/{name:str}/pause", "Pause a type", "The type is paused", body=ReasonBody, roles=("admin",))
    async def pause_type(request: ApiRequest, name: TypeNameInPath) -> PauseAnswer:
        """Keep the tasks of a type waiting. New ones are accepted; running tasks and other types of the pool go on."""
        body = await read_as(request, ReasonBody, depth)
        state = await command_type(container, name, PauseType(name=name, reason=body.reason), origin(request))
        return PauseAnswer(name=name, pause=pause_info(state.pause))

    @routes.post("/{name:str}/resume", "Resume a type", "The type is not paused", body=ReasonBody, roles=("admin",))
    async def resume_type(request: ApiRequest, name: TypeNameInPath) -> PauseAnswer:
        """End a type's pause. If it shares its pool with other types, its tasks start again within seconds."""
        body = await read_as(request, ReasonBody, depth)
        state = await command_type(container, name, ResumeType(name=name, reason=body.reason), origin(request))
        return PauseAnswer(name=name, pause=pause_info(state.pause))

    return routes.handlers
