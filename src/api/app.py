"""The ASGI application: all routes, their authentication, and the middleware around them."""

from __future__ import annotations

import time
from functools import cache
from importlib.metadata import version
from typing import Any

from litestar import Litestar, MediaType, Request, Response, Router, get
from litestar.config.cors import CORSConfig
from litestar.middleware import DefineMiddleware
from litestar.routes import HTTPRoute

from ..container import Container
from .alarm_desk import AlarmDesk
from .auth.access import Authentication
from .auth.api_keys import ApiKeys, KeyUses
from .auth.authenticator import Authenticator
from .auth.narrowing import TypeReach
from .auth.stream_tokens import StreamTokens
from .bodies import json_response
from .direct_calls import DirectCall
from .facades.openai.errors import PREFIX as OPENAI_PREFIX
from .facades.openai.errors import on_openai_error
from .facades.openai.routes import openai_router
from .facades.replicate.errors import on_replicate_error
from .facades.replicate.routes import replicate_router
from .legacy.queue import queue_routes
from .live.streams import LiveStreams
from .log_query import LogPages
from .middleware import METHODS, Conditional, RequestMiddleware
from .openapi.description import describe
from .problems import on_error
from .query import KnownParameters
from .replicate_paths import ROOT as REPLICATE_ROOT
from .routes.alarms import alarm_routes
from .routes.attempt_files import attempt_file_routes
from .routes.attempts import attempt_routes
from .routes.batches import batch_routes
from .routes.bulk import bulk_routes
from .routes.console import console_router
from .routes.dead_letters import dead_letter_routes
from .routes.docs import docs_router
from .routes.events import push_routes
from .routes.files import file_routes
from .routes.graphs import graph_routes
from .routes.history import history_routes
from .routes.keys import key_routes
from .routes.live import live_routes
from .routes.log import log_routes
from .routes.me import me_routes
from .routes.operations import operation_routes
from .routes.owners import owner_routes, quota_routes
from .routes.pools import pool_routes
from .routes.presets import preset_routes
from .routes.processes import process_routes
from .routes.results import result_routes
from .routes.schedules import schedule_routes
from .routes.server_history import server_history_routes
from .routes.servers import server_routes
from .routes.statistics import statistics_routes
from .routes.system import system_router
from .routes.tasks import task_routes
from .routes.trials import trial_routes
from .routes.types import type_routes
from .routes.webhooks import webhook_routes
from .routes.websocket import websocket_router
from .routes.why import why_routes
from .routing import RouteHandler
from .runpod.routes import runpod_router


def api_routes(
    container: Container, tokens: StreamTokens, alarms: AlarmDesk | None = None, keys: ApiKeys | None = None
) -> list[RouteHandler]:
    """Return all routes under `/api`, without that prefix."""
    keys = keys or api_keys_of(container)
    desk = alarms or AlarmDesk(container)
    log_pages = LogPages(container)
    return [
        *task_routes(container),
        *result_routes(container),
        *history_routes(container),
        *graph_routes(container),
        *why_routes(container),
        *batch_routes(container),
        *bulk_routes(container),
        *dead_letter_routes(container),
        *operation_routes(container),
        *file_routes(container),
        *attempt_file_routes(container),
        *statistics_routes(container),
        *alarm_routes(desk),
        *log_routes(log_pages),
        *queue_routes(container),
        *push_routes(container, tokens),
        *live_routes(container, LiveStreams(container, desk, log_pages)),
        *server_routes(container),
        *server_history_routes(container),
        *attempt_routes(container),
        *trial_routes(container),
        *preset_routes(),
        *type_routes(container),
        *owner_routes(container),
        *quota_routes(container),
        *pool_routes(container),
        *webhook_routes(container),
        *schedule_routes(container),
        *me_routes(),
        *key_routes(container, keys),
        *process_routes(container),
    ]


def api_keys_of(container: Container) -> ApiKeys:
    """Return the API keys of a process."""
    return ApiKeys(
        container.key_ring,
        container.buckets.heartbeats,
        TypeReach(container.task_attributes, container.lists),
        must_grant_payloads=container.settings.payload_access == "granted",
    )


def create_app(container: Container, authenticator: Authenticator) -> RequestMiddleware:
    """Return the application of a started container."""
    return RequestMiddleware(Conditional(routed_app(container, authenticator)), container.settings.slow_request)


def routed_app(container: Container, authenticator: Authenticator) -> Litestar:
    """Return the application without the middleware around all routes."""
    release = version("taskstream")
    authenticator.api_keys = keys = api_keys_of(container)
    tokens = StreamTokens(container.token_sealer, time.time, keys)
    alarms = AlarmDesk(container)
    members = container.key_ring.members
    container.services.start(alarms, KeyUses(keys, lambda: len(members.alive("api")) if members else 1))
    api = Router(
        path="/api",
        route_handlers=api_routes(container, tokens, alarms, keys),
        middleware=[
            DefineMiddleware(Authentication, authenticator=authenticator, tokens=tokens),
            KnownParameters,
            lambda app: DirectCall(app, container.results),  # a function: Litestar copies what it is given
        ],
        response_class=json_response(container.results),
        security=[{"bearer": []}],
    )
    system = system_router(container, release, has_console=True)
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
            runpod_router(container, authenticator, tokens),
            openai_router(container, authenticator, tokens),
            replicate_router(container, authenticator, tokens),
            system,
            docs_router(),
            console_router(),
            openapi,
        ],
        exception_handlers={Exception: on_error_by_path},
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
    return app


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


def on_error_by_path(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer with an error in the form that the clients of a path know, also for paths that have no route."""
    path = request.scope["path"]
    if path.startswith(REPLICATE_ROOT):
        return on_replicate_error(request, error)
    return (on_openai_error if path.startswith(OPENAI_PREFIX) else on_error)(request, error)


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
