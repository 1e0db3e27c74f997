"""The way of a request past Litestar's router, straight to the function of its route.

Litestar declares the routes, checks their parameters and describes them. On the way of a request it does more: eight
nested calls, three copies of the headers, a model of the parameters, and a response object. `Dispatch` does what our
routes need, for all of them, a third of a submission's cost. What it does not know goes to Litestar: unknown paths and
methods, paths that must be normalised first, OPTIONS, requests of other origins where CORS is on, and WebSockets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Send
from msgspec import Struct

from ..streams.results import Results
from .auth.access import ROLES_NEEDED, ApiRequest
from .bodies import answer_json
from .middleware import ANSWERED, headers_of
from .problems import on_error

ENDPOINT = "taskstream.endpoint"
"""Key of the endpoint of a request in its scope."""
_PLAIN_HOST = re.compile(rb"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
"""A `Host` that needs no closer look. Litestar refuses malformed ones."""

Node = dict[str | None, Any]
"""A place in a path: what may follow, None for a parameter. Beneath METHODS, the endpoints by method."""
METHODS = "/"
"""No segment of a path has a slash."""


class Endpoint(NamedTuple):
    """A method of a route."""

    route: HTTPRoute
    handler: HTTPRouteHandler
    parameters: tuple[str, ...]
    """Names of the parameters in the path, in order."""
    headers: tuple[tuple[bytes, str], ...]
    """Headers that the handler takes as arguments, and the names of these."""
    is_direct: bool
    """True if the handler can be called without Litestar, as long as there is no query."""


class Dispatch:
    """ASGI application of all routes of an app that require roles; it leaves every other request to the app."""

    def __init__(self, app: Litestar, results: Results, checks: Callable[[ASGIApp], ASGIApp]) -> None:
        """`checks`: wraps the call of a handler into the middleware of these routes."""
        self._app = app
        self._results = results
        self._has_cors = app.cors_config is not None
        self._checked = checks(self._call)
        self._root: Node = {}
        self._fixed: dict[str, Mapping[str, Endpoint]] = {}
        """Of paths without parameters: most requests need one look-up."""
        for endpoint, method in endpoints(app):
            node = self._root
            for segment in endpoint.route.path_components:
                node = node.setdefault(segment if isinstance(segment, str) else None, {})
            methods = node.setdefault(METHODS, {})
            methods[method] = endpoint
            if not endpoint.parameters:
                self._fixed[endpoint.route.path] = methods

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, values = found
        scope["app"] = scope["litestar_app"] = self._app
        scope["route_handler"] = endpoint.handler
        scope["path_template"] = endpoint.route.path_format
        scope["path_params"] = values
        scope[ENDPOINT] = endpoint
        try:
            await self._checked(scope, receive, send)
        except Exception as error:
            if ANSWERED in scope:
                raise  # the HTTP server closes the connection: the client must not take the answer for complete
            request: ApiRequest = Request(scope, receive, send)
            await on_error(request, error).to_asgi_response(app=None, request=request)(scope, receive, send)

    def _find(self, scope: dict[str, Any]) -> tuple[Endpoint, dict[str, str]] | None:
        """Return the endpoint of a request, with the parameters in its path; None: Litestar must look."""
        headers = headers_of(scope)
        if _PLAIN_HOST.fullmatch(headers.get(b"host", b"-")) is None or (self._has_cors and b"origin" in headers):
            return None
        methods = self._fixed.get(scope["path"])
        values: list[str] = []
        if methods is None:
            node: Node | None = self._root
            first, *segments = scope["path"].split("/")
            if first:
                return None
            for segment in segments:
                if not segment or node is None:
                    return None
                if segment in node:
                    node = node[segment]
                else:
                    node = node.get(None)
                    values.append(segment)
            methods = node.get(METHODS, {}) if node else {}
        endpoint: Endpoint | None = methods.get(scope["method"])
        return None if endpoint is None else (endpoint, dict(zip(endpoint.parameters, values, strict=True)))

    async def _call(self, scope: Any, receive: Receive, send: Send) -> None:
        endpoint: Endpoint = scope[ENDPOINT]
        if not endpoint.is_direct or scope["query_string"]:
            await endpoint.route.handle(scope, receive, send)
            return
        request: ApiRequest = Request(scope, receive, send)
        arguments: dict[str, str] = dict(scope["path_params"])
        if endpoint.headers:
            given = headers_of(scope)
            for name, argument in endpoint.headers:
                if (value := given.get(name)) is not None:
                    arguments[argument] = value.decode("latin-1")
        content = await endpoint.handler.fn(request=request, **arguments)
        if isinstance(content, Struct):
            await answer_json(content, self._results, scope, receive, send)
        else:
            respond = await endpoint.handler.to_response(app=self._app, data=content, request=request)
            await respond(scope, receive, send)


def endpoints(app: Litestar) -> Iterator[tuple[Endpoint, str]]:
    """Yield the endpoints of an app that require roles, each with its method."""
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if ROLES_NEEDED in handler.opt:
                for method in handler.http_methods:
                    yield _endpoint(cast(HTTPRoute, route), handler), str(method)


def _endpoint(route: HTTPRoute, handler: HTTPRouteHandler) -> Endpoint:
    in_path = tuple(part.name for part in route.path_components if not isinstance(part, str))
    model = handler.create_kwargs_model(route.path_parameters)
    headers = {each.field_name: each.field_alias for each in model.expected_header_params}
    # Without a query, the handler's own defaults are what Litestar would give it.
    annotations = handler.parsed_fn_signature.parameters
    is_direct = (
        not handler.resolve_dependencies().keys() & annotations.keys()
        and not handler.has_sync_callable
        and "request" in annotations
        and not any(each.is_required for each in (*model.expected_query_params, *model.expected_header_params))
        and all(annotations[name].is_subclass_of(str) for name in in_path if name in annotations)
        and annotations.keys() >= set(in_path)
    )
    return Endpoint(
        route=route,
        handler=handler,
        parameters=in_path,
        headers=tuple(sorted((alias.lower().encode(), name) for name, alias in headers.items())),
        is_direct=is_direct,
    )
