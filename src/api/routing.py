"""Declarations of routes: the path, the roles, the body, and the answers that the API document lists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy, deepcopy
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import msgspec
from litestar import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, Reference, RequestBody, Schema
from litestar.utils.path import join_paths
from msgspec import Struct

from .auth.access import TAKES, TakesStreamTokens, requires
from .openapi.description import schema_of
from .openapi.examples import BODY_EXAMPLES
from .problems import MEANINGS, MEDIA_TYPE, Problem

ALWAYS = frozenset({400, 401, 403, 429, 503})
"""Errors that every route may answer."""
WITH_BODY = frozenset({413, 415})
WITH_NAME = frozenset({404})
"""Errors of a route whose path names something."""
IGNORES_UNKNOWN_PARAMETERS = "ignores_unknown_parameters"
"""Key in the `opt` of a route whose older clients add query parameters of their own, as in `?t=<ms>`."""


class RouteHandler(HTTPRouteHandler):
    """A handler whose copies share what never changes.

    Litestar copies every route of a router. Deep copies took a third of the time in which the API starts.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> RouteHandler:
        copied = memo[id(self)] = copy(self)
        copied.owner = deepcopy(self.owner, memo)
        return copied


class Routes:
    """The routes of one capability. Success is always a 200.

    A route may answer the errors in ALWAYS, WITH_BODY and WITH_NAME, and those in its `fails`, without those in its
    `never`. `roles`: the caller needs one of them; empty: any role of the API will do. `opt`: of each route.
    """

    def __init__(
        self, path: str, tag: str, *, roles: Collection[str] = (), opt: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._opt = opt
        self._path = path
        self._tag = tag
        self._roles = roles
        self.handlers: list[RouteHandler] = []
        """The routes declared so far. Routers of their own would cost each start of the service a copy more."""
        self.get = partial(self._declare, HttpMethod.GET)
        self.post = partial(self._declare, HttpMethod.POST)
        self.put = partial(self._declare, HttpMethod.PUT)
        self.patch = partial(self._declare, HttpMethod.PATCH)
        self.delete = partial(self._declare, HttpMethod.DELETE)

    def _declare(
        self,
        method: HttpMethod,
        path: str,
        summary: str,
        answer: str,
        *,
        body: type[Struct] | Schema | None = None,
        examples: Mapping[str, Example] | None = None,
        needs_body: bool = False,
        roles: Collection[str] = (),
        fails: Collection[int] = (),
        never: Collection[int] = (),
        takes: str | TakesStreamTokens | None = None,
        opt: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> Callable[[Callable[..., Any]], RouteHandler]:
        """Return the decorator of a handler, which becomes a route. The handler reads its own body.

        `answer`: what a 200 carries, in words. `needs_body`: an empty body is refused, although every field of it is
        optional. `takes`: which tokens will do beside a JWT in the header. `options`: of Litestar.
        """
        errors = ALWAYS | (WITH_BODY if body else set()) | (WITH_NAME if "{" in path else set())
        if body is not None:
            options["operation_class"] = _operation(body, examples, needs_body=needs_body)
        decorate = RouteHandler(
            join_paths([self._path, path]),
            http_method=[method],
            status_code=200,
            tags=[self._tag],
            opt={
                **self._opt,
                **opt,
                **requires(*(roles or self._roles)),
                TAKES: takes,
            },
            summary=summary,
            response_description=answer,
            responses={status: _error(status) for status in sorted((errors | set(fails)) - set(never))},
            **options,
        )

        def add(handler: Callable[..., Any]) -> RouteHandler:
            decorate(handler)
            self.handlers.append(decorate)
            return decorate

        return add


@cache
def _error(status: int) -> ResponseSpec:
    return ResponseSpec(Problem, description=MEANINGS[status], media_type=MEDIA_TYPE, generate_examples=False)


def _operation(
    body: type[Struct] | Schema, examples: Mapping[str, Example] | None, *, needs_body: bool
) -> type[Operation]:
    """Return the operation class of a handler that reads its own body."""
    if isinstance(body, Schema):
        schema: Schema | Reference = body
        needs_body = True
    else:
        schema = schema_of(body)
        examples = BODY_EXAMPLES[body.__name__]
        needs_body = needs_body or any(field.required for field in msgspec.structs.fields(body))
    media = OpenAPIMediaType(schema=schema, examples=examples)  # type: ignore[arg-type]
    described = RequestBody(content={"application/json": media}, required=needs_body)

    class Described(Operation):
        def __init__(self, **fields: Any) -> None:
            super().__init__(**fields | {"request_body": described})

    return Described
