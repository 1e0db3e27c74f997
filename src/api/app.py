"""The ASGI application: both contracts' routes, who may call them, and how errors look."""

from __future__ import annotations

import time
from functools import cache
from importlib.metadata import version

from litestar import Litestar, MediaType, Router, get
from litestar.config.cors import CORSConfig
from litestar.middleware import DefineMiddleware

from ..container import Core
from .auth.access import Authentication
from .auth.authenticator import Authenticator
from .auth.stream_tokens import StreamTokens
from .json_response import JsonAnswer
from .legacy.model_headers import MODEL_HEADERS
from .legacy.queue import queue_router
from .middleware.conditional import Conditional
from .middleware.edge import Edge
from .openapi.description import describe
from .problems import on_error
from .routes.batches import batch_router
from .routes.bulk import bulk_router
from .routes.dead_letters import dead_letter_router
from .routes.deliveries import delivery_router
from .routes.docs import docs_router
from .routes.events import push_router
from .routes.maintenance import maintenance_router
from .routes.owners import owner_router
from .routes.pools import pool_router
from .routes.schedules import schedule_router
from .routes.servers import server_router
from .routes.system import system_router
from .routes.tasks import task_router
from .routes.types import type_router
from .routes.webhooks import webhook_router
from .routes.websocket import websocket_router
from .routes.why import why_router

CALLERS_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "X-Request-Id",
)


def create_app(core: Core, authenticator: Authenticator) -> Edge:
    """Return the application over a started core."""
    release = version("taskstream")
    tokens = StreamTokens(core.sealer, time.time)
    api = Router(
        path="/api",
        route_handlers=[
            task_router(core),
            why_router(core),
            batch_router(core),
            bulk_router(core),
            dead_letter_router(core),
            queue_router(core),
            push_router(core, tokens),
            server_router(core),
            maintenance_router(core),
            type_router(core),
            owner_router(core),
            pool_router(core),
            webhook_router(core),
            schedule_router(core),
            delivery_router(core),
        ],
        middleware=[DefineMiddleware(Authentication, authenticator=authenticator, tokens=tokens)],
        response_class=JsonAnswer,
        security=[{"bearer": []}],
    )
    system = system_router(core, release)
    # Made when first asked for, in a thread: it takes some 0.4 s, by which every start would be later.
    document = cache(lambda: describe([api, system], release))
    origins = list(core.settings.cors_origins)

    @get("/openapi.json", media_type=MediaType.JSON, sync_to_thread=True)
    def openapi() -> bytes:
        return document()

    return Edge(
        Conditional(
            Litestar(
                route_handlers=[api, websocket_router(core, authenticator, tokens), system, docs_router(), openapi],
                exception_handlers={Exception: on_error},
                request_max_body_size=core.settings.max_body,
                cors_config=_cors(origins) if origins else None,
                openapi_config=None,
                debug=False,
                logging_config=None,
            )
        )
    )


def create_system_app(core: Core) -> Edge:
    """Return the application of a worker: health and metrics, nothing else."""
    return Edge(
        Litestar(
            route_handlers=[system_router(core, version("taskstream"))],
            exception_handlers={Exception: on_error},
            openapi_config=None,
            debug=False,
            logging_config=None,
        )
    )


def _cors(origins: list[str]) -> CORSConfig:
    return CORSConfig(
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        allow_headers=[*CALLERS_HEADERS, *MODEL_HEADERS],
        expose_headers=["X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy", "ETag"],
        max_age=600,
    )
