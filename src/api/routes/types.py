"""Task types: what their payloads must look like, and how their tasks are tried. Admins write, all may read."""

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
)
from ...container import Container
from ...errors import InvalidInput, NotFound
from ...events.envelope import NULL
from ...events.limits import Limits
from ...events.task_type import TypeDefined
from ...submission.body import compile_schema
from ..auth.access import ApiRequest, actor, requires
from ..bodies import described, read_as, schema_of
from ..middleware.edge import request_id
from ..openapi.examples import PAUSE_EXAMPLES, TYPE_EXAMPLES
from ..parameters import Cursor, TypeLimit, TypeNameInPath, page_of
from ..problems import answers
from ..schemas.owners import check_burst
from ..schemas.pools import PauseAnswer, PauseBody, pause_info
from ..schemas.types import TypeBody, TypeDone, TypeName, TypePage, TypeSummary, type_summary


class Types:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self.container = container

    async def put(self, request: ApiRequest, name: str) -> TypeSummary:
        container = self.container
        _check_name(name)
        body = await read_as(request, TypeBody, container.settings.max_json_depth)
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
        handled = await container.commands.types.handle(
            name, DefineType(definition=definition), by=actor(request.user), cause=request_id(request.scope)
        )
        await container.fleet.reached(handled.known.sequence)
        return type_summary(name, handled.known.state, container.settings)

    async def get(self, name: str) -> TypeSummary:
        state = (await self.container.commands.types.load(name)).state
        if state.definition is None and name != DEFAULT_TYPE:
            raise NotFound("type", name)
        return type_summary(name, state, self.container.settings)

    async def page(self, limit: int, cursor: str | None) -> TypePage:
        fleet = self.container.fleet
        await fleet.catch_up(self.container.reading)
        states = {state.definition.name: state for state in fleet.types() if state.definition}
        states.setdefault(DEFAULT_TYPE, fleet.type_state(DEFAULT_TYPE))
        shown, following = page_of(states, limit, cursor)
        return TypePage(
            types=[type_summary(name, states[name], self.container.settings) for name in shown],
            next_cursor=following,
        )

    async def delete(self, request: ApiRequest, name: str) -> TypeDone:
        handled = await self.container.commands.types.handle(
            name, DeleteType(name=name), by=actor(request.user), cause=request_id(request.scope)
        )
        await self.container.fleet.reached(handled.known.sequence)
        return TypeDone(name=name)

    async def pause(self, request: ApiRequest, name: str) -> PauseAnswer:
        body = await read_as(request, PauseBody, self.container.settings.max_json_depth)
        return await self._pause(request, name, PauseType(name=name, reason=body.reason))

    async def resume(self, request: ApiRequest, name: str) -> PauseAnswer:
        body = await read_as(request, PauseBody, self.container.settings.max_json_depth)
        return await self._pause(request, name, ResumeType(name=name, reason=body.reason))

    async def _pause(self, request: ApiRequest, name: str, command: TypeCommand) -> PauseAnswer:
        handled = await self.container.commands.types.handle(
            name, command, by=actor(request.user), cause=request_id(request.scope)
        )
        await self.container.fleet.reached(handled.known.sequence)
        return PauseAnswer(name=name, pause=pause_info(handled.known.state.pause))


def _check_name(name: str) -> None:
    try:
        msgspec.convert(name, TypeName)
    except msgspec.ValidationError:
        raise InvalidInput(
            "a type's name is 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit",
            "name",
        ) from None


def _own_pool(name: str) -> str:
    """Return the pool of a type that names none: one of its own."""
    return DEFAULT_POOL if name == DEFAULT_TYPE else name


def _limits(body: TypeBody) -> Limits | None:
    check_burst(body.per_second, body.burst)
    limits = Limits(concurrency=body.concurrency, per_second=body.per_second, burst=body.burst)
    return limits if limits.is_any else None


def _duration(seconds: float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds is not None else None


def type_router(container: Container) -> Router:
    """Return the routes."""
    types = Types(container)
    intervention = partial(
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
        response_description="The type as it is now",
        summary="Define a type",
    )
    async def put_type(request: ApiRequest, name: TypeNameInPath) -> TypeSummary:
        """Define a type, or replace its settings. Tasks already submitted keep those they were submitted with."""
        return await types.put(request, name)

    @get(
        "/",
        responses=answers(400, 401, 403, 503),
        response_description="A page of types, by name",
        summary="List types",
    )
    async def list_types(limit: TypeLimit = 1000, cursor: Cursor = None) -> TypePage:
        """List the types by name; `default` is always there."""
        return await types.page(limit, cursor)

    @get(
        "/{name:str}",
        responses=answers(400, 401, 403, 404, 503),
        response_description="The type's settings",
        summary="Read a type",
    )
    async def get_type(name: TypeNameInPath) -> TypeSummary:
        """Return a type's settings, with the service's own where it has none."""
        return await types.get(name)

    @delete(
        "/{name:str}",
        status_code=200,
        opt=requires("admin"),
        responses=answers(400, 401, 403, 404, 409, 503),
        response_description="The type is gone",
        summary="Delete a type",
    )
    async def delete_type(request: ApiRequest, name: TypeNameInPath) -> TypeDone:
        """Delete a type's settings. Its tasks go on; new ones of this name are treated like `default`."""
        return await types.delete(request, name)

    @intervention("/{name:str}/pause", response_description="The type is paused", summary="Pause a type")
    async def pause_type(request: ApiRequest, name: TypeNameInPath) -> PauseAnswer:
        """Let the tasks of a type wait; new ones are accepted, what runs goes on, and others of its pool do, too."""
        return await types.pause(request, name)

    @intervention("/{name:str}/resume", response_description="The type is not paused", summary="Resume a type")
    async def resume_type(request: ApiRequest, name: TypeNameInPath) -> PauseAnswer:
        """End a type's pause. Where it shares its pool with others, its tasks come back within some seconds."""
        return await types.resume(request, name)

    return Router(
        path="/types",
        route_handlers=[put_type, list_types, get_type, delete_type, pause_type, resume_type],
        tags=["Types"],
    )
