"""All routes of the service, as the application has them: nothing is listed by hand."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple
from unittest.mock import MagicMock

from litestar.routes import HTTPRoute

from taskstream.api.app import routed_app
from taskstream.api.auth.access import ROLES_NEEDED, TAKES, TakesStreamTokens
from taskstream.api.auth.narrowing import NARROWS
from taskstream.api.auth.roles import ROLES
from taskstream.api.query import declared_parameters

from .service import quick_settings

WEBSOCKET = "WEBSOCKET"


class AnyRoute(NamedTuple):
    """A route of the application, with the marks that decide who may call it."""

    method: str
    """WEBSOCKET: it is no HTTP route."""
    path: str
    """As in `/api/task/{task_id}`."""
    roles: frozenset[str]
    """The caller needs one of these."""
    takes: str | TakesStreamTokens | None
    narrows: str | None
    """How it keeps an API key to tasks of the key's types; None: it refuses such a key."""
    parameters: tuple[str, ...]
    """Names in its path."""
    query: tuple[str, ...]
    """Names of the query parameters that it declares."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@cache
def all_routes() -> tuple[AnyRoute, ...]:
    """Return every route, HTTP and WebSocket, in the order of the application."""
    container = MagicMock(settings=quick_settings())  # routes are declared, and none is called
    found = []
    for route in routed_app(container, MagicMock()).routes:
        handlers: Any = route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]  # type: ignore[union-attr]
        for handler in handlers:
            for method in sorted(getattr(handler, "http_methods", {WEBSOCKET})):
                if method == "OPTIONS":
                    continue
                found.append(
                    AnyRoute(
                        str(method),
                        route.path_format,
                        frozenset(handler.opt.get(ROLES_NEEDED) or ROLES),
                        handler.opt.get(TAKES),
                        handler.opt.get(NARROWS),
                        tuple(route.path_parameters),
                        () if method == WEBSOCKET else tuple(declared_parameters(handler, route.path_parameters)),
                    )
                )
    return tuple(found)


def examples(document: dict[str, Any], route: AnyRoute) -> list[Any]:
    """Return the examples of a route's body in the API's description."""
    operation = document["paths"].get(route.path, {}).get(route.method.lower(), {})
    return [
        example["value"]
        for media in operation.get("requestBody", {}).get("content", {}).values()
        for example in media.get("examples", {}).values()
    ]


def first_example(document: dict[str, Any], route: AnyRoute) -> Any:
    """Return the first example of a route's body; None: it has none."""
    return next(iter(examples(document, route)), None)
