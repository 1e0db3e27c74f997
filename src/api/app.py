"""The ASGI application: all routes, their authentication, and the middleware around them."""

from __future__ import annotations

import time
from functools import cache
from importlib.metadata import version

from litestar import Litestar, MediaType, Router, get
from litestar.config.cors import CORSConfig
from litestar.middleware import DefineMiddleware
from litestar.routes import HTTPRoute

from ..container import Container
from .auth.access import Authentication
from .auth.authenticator import Authenticator
from .auth.stream_tokens import StreamTokens
from .bodies import json_response
from .legacy.queue import queue_router
from .middleware import METHODS, Conditional, RequestMiddleware
from .openapi.description import describe
from .problems import on_error
from .query import KnownParameters
from .routes.batches import batch_router
from .routes.bulk import bulk_router
from .routes.dead_letters import dead_letter_router
from .routes.docs import docs_router
from .routes.events import push_router
from .routes.graphs import graph_router
from .routes.history import history_router
from .routes.owners import owner_router, quota_router
from .routes.pools import pool_router
from .routes.results import result_router
from .routes.schedules import schedule_router
from .routes.servers import server_router
from .routes.statistics import statistics_router
from .routes.system import system_router
from .routes.tasks import task_router
from .routes.types import type_router
from .routes.webhooks import webhook_router
from .routes.websocket import websocket_router
from .routes.why import why_router


def api_routers(container: Container, tokens: StreamTokens) -> list[Router]:
    """Return all routes under `/api`."""
    return [
        task_router(container),
        result_router(container),
        history_router(container),
        graph_router(container),
        why_router(container),
        batch_router(container),
        bulk_router(container),
        dead_letter_router(container),
        statistics_router(container),
        queue_router(container),
        push_router(container, tokens),
        server_router(container),
        type_router(container),
        owner_router(container),
        quota_router(container),
        pool_router(container),
        webhook_router(container),
        schedule_router(container),
    ]


def create_app(container: Container, authenticator: Authenticator) -> RequestMiddleware:
    """Return the application of a started container."""
    release = version("taskstream")
    tokens = StreamTokens(container.token_sealer, time.time)
    api = Router(
        path="/api",
        route_handlers=api_routers(container, tokens),
        middleware=[DefineMiddleware(Authentication, authenticator=authenticator, tokens=tokens), KnownParameters],
        response_class=json_response(container.results),
        security=[{"bearer": []}],
    )
    system = system_router(container, release)
    # Made at the first request, in a thread: it takes about 0.4 s, which would delay every start.
    document = cache(lambda: describe([api, system], release))
    origins = list(container.settings.cors_origins)

    @get("/openapi.json", media_type=MediaType.JSON, sync_to_thread=True)
    def openapi() -> bytes:
        return document()

    app = Litestar(
        route_handlers=[
            api,
            websocket_router(container, authenticator, tokens),
            system,
            docs_router(),
            openapi,
        ],
        exception_handlers={Exception: on_error},
        request_max_body_size=container.settings.max_body,
        cors_config=_cors(origins) if origins else None,
        openapi_config=None,
        debug=False,
        logging_config=None,
    )
    for route in app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if handler.http_methods == {"OPTIONS"}:
                handler.opt[METHODS] = set(route.methods)
    return RequestMiddleware(Conditional(app), container.settings.slow_request)


def create_system_app(container: Container) -> RequestMiddleware:
    """Return the application of a worker process: health and metrics only."""
    return RequestMiddleware(
        Litestar(
            route_handlers=[system_router(container, version("taskstream"))],
            exception_handlers={Exception: on_error},
            openapi_config=None,
            debug=False,
            logging_config=None,
        ),
        container.settings.slow_request,
    )


def _cors(origins: list[str]) -> CORSConfig:
    return CORSConfig(
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        # Any header: clients add their own, and an origin that may send a token may send anything.
        allow_headers=["*"],
        # Browsers take no credentials for an answer to every origin (Fetch, 3.3.5).
        allow_credentials="*" not in origins,
        expose_headers=["X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", "ETag"],
        max_age=600,
    )
