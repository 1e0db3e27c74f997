"""The call of a route's function without Litestar's handling of parameters and responses.

Litestar finds the route and runs its middleware. Then it would make a model of the parameters, three copies of the
headers and a response object: a quarter of the CPU of a submission. `DirectCall` takes that place for all routes, and
leaves to Litestar what it does not know: requests with a query, OPTIONS, and functions that need more than the request,
parts of the path, and headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from ..streams.results import Results
from .auth.access import ApiRequest
from .bodies import answer_json
from .middleware import headers_of


class Called(NamedTuple):
    """How the function of a route is called."""

    headers: tuple[tuple[bytes, str], ...]
    """Headers that it takes as arguments, and the names of these."""
    is_direct: bool
    """False: Litestar must call it."""


class DirectCall:
    """ASGI middleware of a route, the last one: it calls the function of the route and answers what that returns."""

    def __init__(self, app: ASGIApp, results: Results) -> None:
        self._app = app
        self._results = results
        self._called: dict[HTTPRouteHandler, Called] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = cast(HTTPRouteHandler, scope["route_handler"])
        called = self._called.get(handler)
        if called is None:
            called = self._called[handler] = called_directly(handler, scope["path_params"])
        if not called.is_direct or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        request: ApiRequest = Request(scope, receive, send)
        arguments: dict[str, str] = dict(scope["path_params"])
        if called.headers:
            given = headers_of(scope)
            for name, argument in called.headers:
                if (value := given.get(name)) is not None:
                    arguments[argument] = value.decode("latin-1")
        content = await handler.fn(request=request, **arguments)
        if isinstance(content, Struct):
            await answer_json(content, self._results, scope, receive, send)
        else:
            respond = await handler.to_response(app=scope["litestar_app"], data=content, request=request)
            await respond(scope, receive, send)


def called_directly(handler: HTTPRouteHandler, in_path: Mapping[str, Any]) -> Called:
    """Return how a function is called. `in_path`: the parameters in the path of its route, by name."""
    model = handler.create_kwargs_model(dict(in_path))
    headers = {each.field_name: each.field_alias for each in model.expected_header_params}
    # Without a query, the function's own defaults are what Litestar would give it.
    annotations = handler.parsed_fn_signature.parameters
    is_direct = (
        not handler.resolve_dependencies().keys() & annotations.keys()
        and not handler.has_sync_callable
        and "request" in annotations
        and not any(each.is_required for each in (*model.expected_query_params, *model.expected_header_params))
        and all(annotations[name].is_subclass_of(str) for name in in_path if name in annotations)
        and annotations.keys() >= set(in_path)
    )
    return Called(tuple(sorted((alias.lower().encode(), name) for name, alias in headers.items())), is_direct)
