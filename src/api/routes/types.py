"""Routes of task types: the schema of their payloads, their retries and limits. Admins write, everybody reads."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import msgspec
from litestar import Router, delete, get, post, put
from msgspec import Raw

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
from ...errors import InvalidInput, NotFound
from ...events.envelope import NULL
from ...events.limits import Limits
from ...events.task_type import TypeDefined
from ...submission.body import compile_schema
from ..auth.access import ApiRequest, Origin, origin, requires
from ..bodies import described, read_as, schema_of
from ..openapi.examples import PAUSE_EXAMPLES, TYPE_EXAMPLES
from ..parameters import Cursor, TypeLimit, TypeNameInPath, page_of
from ..problems import answers
from ..schemas.owners import check_burst
from ..schemas.pools import PauseAnswer, PauseBody, pause_info
from ..schemas.types import TypeBody, TypeDone, TypeName, TypePage, TypeSummary, type_summary


async def define_type(container: Container, name: str, body: TypeBody, signed: Origin) -> TypeState:
    """Define a type or replace its settings, and return its new state. Raises InvalidInput."""
    if body.schema is not None:
        compile_schema(body.schema)
    definition = TypeDefined(
        name=name,
        pool=body.pool if isinstance(body.pool, str) else _own_pool(name),
        payload_schema=Raw(msgspec.json.encode(body.schema)) if body.schema is not None else NULL,
        attempts=body.attempts,
        backoff_base=_duration(body.backoff_base),
        backoff_cap=_duration(body.backoff_cap),
        timeout=_duration(body.timeout),
        priority=body.priority,
        description=body.description,
        limits=_limits(body),
        key_concurrency=body.key_concurrency,
        on_conflict=body.on_conflict,
    )
    return await command_type(container, name, DefineType(definition=definition), signed)


async def command_type(container: Container, name: str, command: TypeCommand, signed: Origin) -> TypeState:
    """Give a command, wait until this process has read its events, and return the type's new state."""
    handled = await container.commands.types.handle(name, command, **signed)
    await container.fleet.reached(handled.known.sequence)
    return handled.known.state


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


def type_router(container: Container) -> Router:
    """Return the routes."""
    depth = container.settings.max_json_depth
    command = partial(
        post,
        status_code=200,
        opt=requires("admin"),
        operation_class=described(schema_of(PauseBody), PAUSE_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 404, 413, 415, 503),
    )

    @put(
        "/{name:str}",
        status_code=200,
        opt=requires("admin"),
        operation_class=described(schema_of(TypeBody), TYPE_EXAMPLES, required=False),
        responses=answers(400, 401, 403, 413, 415, 503),
        response_description="The type's settings",
        summary="Define a type",
    )
    async def put_type(request: ApiRequest, name: TypeNameInPath) -> TypeSummary:
        """Define a type, or replace its settings. Tasks already submitted keep their settings."""
        _check_name(name)
        body = await read_as(request, TypeBody, depth)
        return type_summary(name, await define_type(container, name, body, origin(request)), container.settings)

    @get(
        "/",
        responses=answers(400, 401, 403, 503),
        response_description="A page of types, by name",
        summary="List types",
    )
    async def list_types(limit: TypeLimit = 1000, cursor: Cursor = None) -> TypePage:
        """List the types by name; `default` always exists."""
        fleet = container.fleet
        await fleet.catch_up(container.reading)
        states = {state.definition.name: state for state in fleet.types() if state.definition}
        states.setdefault(DEFAULT_TYPE, fleet.type_state(DEFAULT_TYPE))
        shown, following = page_of(states, limit, cursor)
        return TypePage(
            types=[type_summary(name, states[name], container.settings) for name in shown], next_cursor=following
        )

    @get(
        "/{name:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The type's settings",
        summary="Read a type",
    )
    async def get_type(name: TypeNameInPath) -> TypeSummary:
        """Return a type's settings; where it has none, those of the service."""
        state = (await container.commands.types.load(name)).state
        if state.definition is None and name != DEFAULT_TYPE:
            raise NotFound("type", name)
        return type_summary(name, state, container.settings)

    @delete(
        "/{name:str}",
        status_code=200,
        opt=requires("admin"),
        responses=answers(400, 401, 403, 404, 409, 503),
        response_description="The type is deleted",
        summary="Delete a type",
    )
    async def delete_type(request: ApiRequest, name: TypeNameInPath) -> TypeDone:
        """Delete a type's settings. Its tasks go on; new tasks of this type are treated like `default`."""
        await command_type(container, name, DeleteType(name=name), origin(request))
        return TypeDone(name=name)

    @command("/{name:str}/pause", response_description="The type is paused", summary="Pause a type")
    async def pause_type(request: ApiRequest, name: TypeNameInPath) -> PauseAnswer:
        """Keep the tasks of a type waiting. New ones are accepted; running tasks and other types of the pool go on."""
        body = await read_as(request, PauseBody, depth)
        state = await command_type(container, name, PauseType(name=name, reason=body.reason), origin(request))
        return PauseAnswer(name=name, pause=pause_info(state.pause))

    @command("/{name:str}/resume", response_description="The type is not paused", summary="Resume a type")
    async def resume_type(request: ApiRequest, name: TypeNameInPath) -> PauseAnswer:
        """End a type's pause. If it shares its pool with other types, its tasks start again within seconds."""
        body = await read_as(request, PauseBody, depth)
        state = await command_type(container, name, ResumeType(name=name, reason=body.reason), origin(request))
        return PauseAnswer(name=name, pause=pause_info(state.pause))

    return Router(
        path="/types",
        route_handlers=[put_type, list_types, get_type, delete_type, pause_type, resume_type],
        tags=["Types"],
    )
