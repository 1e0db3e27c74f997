"""Query parameters of a request, checked against those that its route declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from ..errors import InvalidInput
from ..wire.validation_errors import nearest
from .routing import IGNORES_UNKNOWN_PARAMETERS


class KnownParameters:
    """ASGI middleware: refuse a query parameter that the route does not declare, or that is given too often.

    A typing error in a filter would select everything. Routes with IGNORES_UNKNOWN_PARAMETERS are left alone. A request
    without a query costs one comparison.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._declared: dict[HTTPRouteHandler, Mapping[str, bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"] and scope.get("method") != "OPTIONS":
            handler: Any = scope["route_handler"]
            if not handler.opt.get(IGNORES_UNKNOWN_PARAMETERS):
                self._check(scope, handler)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, handler: HTTPRouteHandler) -> None:
        declared = self._declared.get(handler)
        if declared is None:
            declared = self._declared[handler] = declared_parameters(handler, scope["path_params"])
        given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="replace")
        for name, count in Counter(name for name, _ in given).items():
            if name not in declared:
                raise InvalidInput(f"unknown query parameter `{name}`{nearest(name, declared)}", name)
            if count > 1 and not declared[name]:
                raise InvalidInput("is given more than once; send one value", name)


def declared_parameters(handler: HTTPRouteHandler, in_path: Mapping[str, Any]) -> Mapping[str, bool]:
    """Return the query parameters of a route; True for one that may be given several times."""
    expected = handler.create_kwargs_model(dict(in_path)).expected_query_params
    return {each.field_alias: each.is_sequence for each in sorted(expected, key=lambda each: each.field_alias)}
