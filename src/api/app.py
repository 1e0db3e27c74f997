"""The ASGI application: both contracts' routes, who may call them, and how errors look."""

from __future__ import annotations

from importlib.metadata import version

from litestar import Litestar, MediaType, Router, get
from litestar.config.cors import CORSConfig
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, Contact, License, SecurityScheme, Tag
from litestar.serialization import encode_json

from ..core import Core
from .access import Authentication
from .auth import Authenticator
from .edge import Edge
from .problems import on_error
from .servers import server_router
from .system import docs_router, system_router
from .tasks import task_router
from .types import type_router

DESCRIPTION = """Long tasks over plain HTTP, kept safe in an event log.

Submit a task, and it is on disk when you are answered. It goes to a registered server that is healthy, has room and can
do it; what fails is tried again; every step is an event you can read back. Errors are problem documents (RFC 9457) that
also carry `error`. Every `/api` route needs `Authorization: Bearer <JWT>`.
"""


def create_app(core: Core, authenticator: Authenticator) -> Edge:
    """Return the application over a started core."""
    release = version("taskstream")
    api = Router(
        path="/api",
        route_handlers=[task_router(core), server_router(core), type_router(core)],
        middleware=[DefineMiddleware(Authentication, authenticator=authenticator)],
        security=[{"bearer": []}],
    )
    origins = list(core.settings.cors_origins)

    @get("/openapi.json", media_type=MediaType.JSON, include_in_schema=False, sync_to_thread=False)
    def openapi() -> bytes:
        return document

    app = Litestar(
        route_handlers=[api, system_router(core, release), docs_router(), openapi],
        exception_handlers={Exception: on_error},
        request_max_body_size=core.settings.max_body,
        cors_config=_cors(origins) if origins else None,
        openapi_config=_description(release),
        debug=False,
        logging_config=None,
    )
    document = encode_json(app.openapi_schema.to_schema())
    return Edge(app)


def create_system_app(core: Core) -> Edge:
    """Return the application of a worker: health and metrics, nothing else."""
    return Edge(
        Litestar(
            route_handlers=[system_router(core, version("taskstream"))],
            exception_handlers={Exception: on_error},
            openapi_config=None,
            logging_config=None,
        )
    )


def _cors(origins: list[str]) -> CORSConfig:
    return CORSConfig(
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"],
        expose_headers=["X-Request-Id", "Retry-After"],
        max_age=600,
    )


def _description(release: str) -> OpenAPIConfig:
    bearer = SecurityScheme(
        type="http",
        scheme="bearer",
        bearer_format="JWT",
        description="Claims `sub`, `roles` (admin, user, service, auditor), `iat`, `exp`",
    )
    return OpenAPIConfig(
        title="Taskstream",
        version=release,
        description=DESCRIPTION,
        license=License(name="MIT", identifier="MIT"),
        contact=Contact(name="Taskstream maintainers"),
        components=Components(security_schemes={"bearer": bearer}),
        path="/_openapi",
        render_plugins=[],
        tags=[
            Tag(name="Tasks", description="Submit, follow, cancel, retry, replay"),
            Tag(name="Servers", description="The fleet: admins only"),
            Tag(name="Types", description="What payloads look like and how tasks are tried"),
            Tag(name="System", description="Health and metrics"),
        ],
    )
