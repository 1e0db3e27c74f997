"""Routes without a token: the front page, health and metrics."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any, Literal

from litestar import MediaType, Response, Router, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from ...container import Container
from ...errors import StoreError
from ...index.indexer import IndexStatus
from ...runtime import metrics
from ...streams.storage import Space
from ...streams.topology.server_checks import clock_difference_ms
from ..auth.access import ApiRequest, bearer_token
from ..auth.authenticator import Unauthenticated
from ..middleware import headers_of
from ..schemas.legacy_queue import QueueHealth
from ..schemas.system import Front, Index, Liveness, NatsHealth, Ready, Storage
from ..scrape import is_connected, metrics_text, projection_lag, server_states


async def readiness(container: Container, version: str) -> Ready:
    """Return the state of everything that a request depends on."""
    connected = is_connected(container)
    warnings = [*container.server_checks.warnings(), *unreadable(container)]
    storage: Storage | None = None
    lag = 0
    index: IndexStatus | None = None
    difference: float | None = None
    status: Literal["ok", "degraded", "unavailable", "draining"] = "ok"
    try:
        space = await container.space.measure()
        storage = storage_of(space, accepting=container.space.is_accepting)
        if (warning := container.space.warning()) is not None:
            warnings.append(warning)
        if not storage.accepting:
            status = "unavailable" if container.space.is_refused else "degraded"
        difference = await clock_difference_ms(container.reading)
        lag = await projection_lag(container)
        if container.indexer.is_running:
            index = await container.indexer.status()
            if index.holds_start:
                status = "unavailable"
            if index.warning:
                warnings.append(index.warning)
    except StoreError:
        status = "unavailable"
        warnings.append("NATS does not answer; nothing acknowledged is lost, new tasks are refused until it does")
    if missing := container.siblings.missing:
        status = "degraded" if status == "ok" else status
        warnings.append(f"not running now: {', '.join(missing)}; `taskstream up` starts them, its log says why")
    if not connected:
        status = "unavailable"
    if container.draining:
        status = "draining"
    if crowded := container.submissions.stored.nearly_full:
        warnings.append(
            f"{'an owner has' if crowded == 1 else f'{crowded} owners have'} used more than 80 % of the quota of "
            "stored bytes (`quota.nearly-full` in the log); raise `stored` of their limits, or set "
            "TASKSTREAM_TASK_RETENTION"
        )
    return Ready(
        status=status,
        version=version,
        nats=NatsHealth(
            connected=connected,
            version=container.server_checks.version,
            durability=container.server_checks.durability,
            clock_difference_ms=round(difference, 1) if difference is not None else None,
        ),
        storage=storage,
        projection_lag_events=lag,
        index=index and Index(state=index.state, lag_events=index.lag_events, percent=index.percent),
        servers=server_states(container),
        halted=halted_of(container),
        warnings=warnings,
    )


def storage_of(space: Space, *, accepting: bool) -> Storage:
    return Storage(
        used_bytes=space.used_bytes,
        limit_bytes=space.limit_bytes,
        free_bytes=space.free_bytes,
        percent=space.percent,
        limited_by=space.limited_by,
        reserve_bytes=space.reserve_bytes,
        accepting=accepting,
    )


def halted_of(container: Container) -> dict[str, str]:
    """Return the services that have stopped for good, of all processes of this `up`, by name, each with the reason."""
    return container.siblings.halted | container.services.halted


def unreadable(container: Container) -> list[str]:
    """Return a warning for each service, server or type that this process leaves out because of an unreadable event."""
    halted = [f"the service {name} has stopped here: {why}" for name, why in halted_of(container).items()]
    left_out = [f"{name} is left out here: {why}" for name, why in container.fleet.unreadable.items()]
    return [f"{text}; run the version that wrote the event" for text in (*halted, *left_out)]


def system_router(container: Container, version: str, *, has_console: bool = False) -> Router:
    """Return the routes. `has_console`: the front page sends browsers to the console."""
    to_console = ResponseSpec(None, description="A browser is sent to the console", generate_examples=False)

    @get(
        "/",
        summary="Front page",
        response_description="The service, its version, and links",
        responses={303: to_console},
    )
    async def front(request: ApiRequest) -> Response[Front]:
        """Return the name and version of the service, and where its documentation, health and console are.

        A request that accepts `text/html`, as those of browsers do, is sent to the console.
        """
        headers = {"Vary": "Accept"}
        if has_console and b"text/html" in headers_of(request.scope).get(b"accept", b""):
            # Relative, so a path prefix of a proxy stays.
            to: Response[Any] = Response(
                b"", media_type=MediaType.TEXT, status_code=303, headers={**headers, "Location": "console/"}
            )
            return to
        return Response(Front(version=version), headers=headers)

    @get("/health/live", summary="Is the process alive?", response_description="The process is alive")
    async def live() -> Liveness:
        """Answer as long as the process runs."""
        return Liveness()

    @get("/api/health", summary="Does the service answer?", response_description="It answers")
    async def health() -> QueueHealth:
        """Answer as long as the process runs. For older clients of the queue surface."""
        return QueueHealth()

    unready = ResponseSpec(Ready, description="Requests cannot be served now", generate_examples=False)

    @get(
        "/health/ready",
        responses={503: unready},
        response_description="Requests can be served",
        summary="Can requests be served?",
    )
    async def ready() -> Response[Ready]:
        """Return whether the store answers and has space, and warnings about settings and storage.

        503 while requests cannot be served, or while this process shuts down and requests should go to another. A
        process that starts is also a 503 until its index of tasks is current, for a minute at most. While
        the store takes no new work, `degraded` is a 200: reads, reports of servers and cancellations are served.
        """
        state = await readiness(container, version)
        return Response(state, status_code=200 if state.status in ("ok", "degraded") else 503)

    metrics_token = container.settings.metrics_token

    @get("/metrics", media_type=MediaType.TEXT, response_description="The metrics", summary="Prometheus metrics")
    async def metrics_page(request: ApiRequest) -> Response[str]:
        """Return the metrics in Prometheus' text format.

        With `TASKSTREAM_METRICS_TOKEN` set, the header `Authorization: Bearer <that token>` is required.
        """
        if metrics_token and not compare_digest(bearer_token(request.scope).encode(), metrics_token.encode()):
            raise Unauthenticated("the token is not the one of TASKSTREAM_METRICS_TOKEN")
        siblings = await container.siblings.pages()
        return Response(metrics.merged([await metrics_text(container), *siblings]), media_type=metrics.MEDIA_TYPE)

    routes: list[HTTPRouteHandler] = [front, live, health, ready, metrics_page]
    return Router(path="/", route_handlers=routes, tags=["System"])
