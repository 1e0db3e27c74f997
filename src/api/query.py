"""Query parameters of a request, checked against those that its route declares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args
from urllib.parse import parse_qsl

from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from ..errors import InvalidInput
from ..wire.validation_errors import nearest
from .routing import IGNORES_UNKNOWN_PARAMETERS

NAMED_PARAMETERS = "named_parameters"
"""Key in the `opt` of a route: beginnings of parameters whose names clients choose, as in `label.region=eu`."""
_WHOLE = re.compile(r"-?[0-9]{1,20}", re.ASCII)


class KnownParameters:
    """ASGI middleware: refuse a query parameter that the route does not declare, or that is given too often.

    A typing error in a filter would select everything. Routes with IGNORES_UNKNOWN_PARAMETERS are left alone. A request
    without a query costs one comparison.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._declared: dict[HTTPRouteHandler, Mapping[str, type]] = {}

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
        counts = Counter(name for name, _ in given)
        for name, text in given:
            kind = declared.get(name)
            named = next((each for each in handler.opt.get(NAMED_PARAMETERS, ()) if name.startswith(each)), None)
            if named is not None and name != named:
                kind = str
            if kind is None:
                known = [*declared, *(f"{each}<name>" for each in handler.opt.get(NAMED_PARAMETERS, ()))]
                raise InvalidInput(f"unknown query parameter `{name}`{nearest(name, known)}", name)
            if counts[name] > 1 and kind is not list:
                raise InvalidInput("is given more than once; send one value", name)
            if kind is int and not _WHOLE.fullmatch(text):  # Litestar takes `2.0`, `1e1`, and `null` for no value
                raise InvalidInput("must be a whole number", name)


def declared_parameters(handler: HTTPRouteHandler, in_path: Mapping[str, Any]) -> Mapping[str, type]:
    """Return the query parameters of a route: list for one that may be given several times, int, and str for others."""
    expected = handler.create_kwargs_model(dict(in_path)).expected_query_params
    fields: dict[str, Any] = dict(handler.parsed_fn_signature.parameters)
    for provided in handler.resolve_dependencies().values():
        fields |= provided.parsed_fn_signature.parameters

    def kind(parameter: Any) -> type:
        if parameter.is_sequence:
            return list
        annotation = fields[parameter.field_name].annotation if parameter.field_name in fields else str
        return int if int in (annotation, *get_args(annotation)) else str

    return {each.field_alias: kind(each) for each in sorted(expected, key=lambda each: each.field_alias)}
