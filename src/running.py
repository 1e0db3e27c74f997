"""The processes of the service: the API, a worker, or both on an embedded NATS."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import structlog
import uvicorn
from msgspec.structs import replace

from .api.app import create_app, create_system_app
from .api.auth.authenticator import Authenticator
from .api.connections import ConnectionLimits, Connections, HttpConnection, WebSocketConnection, limits_of
from .api.middleware import RequestMiddleware
from .container import Container, open_container
from .nats_server.cluster import EmbeddedCluster, check_size
from .nats_server.server import EmbeddedNats
from .runtime.descriptors import raise_descriptor_limit
from .settings import InvalidSettings, Settings
from .streams.client.access import check_none_given
from .streams.storage import Restart
from .vault.key_file import ensure_key_file
from .workers.worker import Worker

log = structlog.get_logger(__name__)

RESTART_PAUSE_SECONDS = 0.5
CLUSTER_REPLICAS = 3
"""Copies of every stream on an embedded cluster: one server may be away."""
REQUESTS_GRACE_SECONDS = 10
BACKLOG = 2048
UNREAD_MILLISECONDS = 60_000
YOUNG_OBJECTS = 20_000
"""New objects between two collections of the youngest generation; Python's default is 700."""


async def run_all(given: Settings) -> None:
    """Run API and worker until a signal, on the NATS of the settings or an embedded one."""
    check_settings(given)
    if given.nats_url is None:
        given = for_embedded(given)
    elif given.cluster > 1:
        raise InvalidSettings("--cluster starts embedded NATS servers, but TASKSTREAM_NATS_URL is set: unset one")
    with listen(given) as (settings, sock):
        async with AsyncExitStack() as stack:
            nats_url = settings.nats_url
            if nats_url is None:
                nodes, url = await stack.enter_async_context(embedded_nats(settings))
                with_key = ensure_key_file(settings)  # NATS holds the lock of the data folder
                container = await stack.enter_async_context(await open_container(with_key, url, durability="always"))
                container.space.restarts(restart_of(nodes))
            else:
                container = await stack.enter_async_context(await open_container(settings, nats_url))
            await stack.enter_async_context(running_worker(container))
            server = await stack.enter_async_context(running_api(container, sock))
            tune_collector()
            stop = stop_signal()
            announce(settings)
            await stop.wait()
            await drain(container, server)


async def run_api(given: Settings) -> None:
    """Run the API alone until a signal."""
    check_settings(given)
    with listen(given) as (settings, sock):
        async with (
            await open_container(settings, _required_url(settings)) as container,
            running_api(container, sock) as server,
        ):
            tune_collector()
            stop = stop_signal()
            announce(settings)
            await stop.wait()
            await drain(container, server)


async def run_worker(settings: Settings) -> None:
    """Run a worker alone until a signal."""
    if settings.public_url is None:
        log.warning(
            "worker.public-url-unset",
            callback_base=settings.callback_base,
            action="set TASKSTREAM_PUBLIC_URL to the API's address: callback servers report to it",
        )
    async with AsyncExitStack() as stack:
        container = await stack.enter_async_context(await open_container(settings, _required_url(settings)))
        if settings.metrics_port is not None:  # first, so that it answers until the last call has ended
            _, sock = stack.enter_context(listen(replace(settings, port=settings.metrics_port)))
            limits = limits_of(settings, raise_descriptor_limit())
            await stack.enter_async_context(serving(create_system_app(container), sock, limits))
        stop = stop_signal()
        await stack.enter_async_context(running_worker(container))
        tune_collector()
        await stop.wait()
        container.draining = True


def check_settings(settings: Settings) -> None:
    """Raise InvalidSettings before anything is started; and let this process, and NATS, open all files they may."""
    Authenticator.from_settings(settings)
    limits_of(settings, raise_descriptor_limit())


def _required_url(settings: Settings) -> str:
    if settings.nats_url is None:
        raise InvalidSettings("no NATS server: set --nats-url or TASKSTREAM_NATS_URL (`taskstream up` starts its own)")
    return settings.nats_url


def announce(settings: Settings) -> None:
    log.info(
        "ready", url=f"http://{settings.host}:{settings.port}", docs=f"http://{settings.host}:{settings.port}/docs"
    )


@contextlib.contextmanager
def listen(settings: Settings) -> Iterator[tuple[Settings, socket.socket]]:
    """Open the listening socket; yield it with the settings that name its real port (0 picks a free one)."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        sock = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while ")[0]
        raise InvalidSettings(
            f"cannot listen on {settings.host}:{settings.port}: {reason}: set another --host or --port, "
            "or end the program that listens there"
        ) from None
    with sock:
        # Accepted sockets inherit it; asyncio does not set it on them, and every answer would wait 40 ms for an ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Inherited too: a client that has stopped reading a stream is disconnected (Linux).
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)
        yield replace(settings, port=sock.getsockname()[1]), sock


def for_embedded(settings: Settings) -> Settings:
    """Return the settings for an embedded NATS. Raises InvalidSettings for settings of an external one."""
    check_none_given(settings)
    if settings.cluster == 1:
        if settings.replicas > 1:
            raise InvalidSettings(f"{settings.replicas} replicas need {settings.replicas} NATS servers: set --cluster")
        return settings
    if settings.replicas > settings.cluster:
        raise InvalidSettings(
            f"{settings.replicas} replicas need {settings.replicas} NATS servers, but --cluster is {settings.cluster}"
        )
    return replace(settings, replicas=max(settings.replicas, CLUSTER_REPLICAS))


@contextlib.asynccontextmanager
async def embedded_nats(settings: Settings) -> AsyncIterator[tuple[Sequence[EmbeddedNats], str]]:
    """Run an embedded NATS and yield its servers and its URL; one that dies is restarted on the same port and store."""
    folder = Path(settings.data_dir)
    check_size(folder, settings.cluster)
    async with AsyncExitStack() as stack:
        nodes = []
        if settings.cluster == 1:
            nats = await stack.enter_async_context(EmbeddedNats(folder, max_storage=settings.max_storage))
            nodes, url = [nats], nats.url
        else:
            cluster = EmbeddedCluster(folder, settings.cluster, max_storage=settings.max_storage)
            await stack.enter_async_context(cluster)
            nodes, url = cluster.nodes, cluster.url
        restarters = [asyncio.create_task(_keep_running(node), name="nats-restarter") for node in nodes]
        try:
            yield nodes, url
        finally:
            for task in restarters:
                task.cancel()
            await asyncio.wait(restarters)


def restart_of(nodes: Sequence[EmbeddedNats]) -> Restart:
    """Return the restart of those servers that are out of space; `embedded_nats` starts what has ended."""

    def are_out_of_space() -> bool:
        return any(node.is_out_of_space() for node in nodes)

    async def restart() -> None:
        for node in nodes:
            await node.end()

    return Restart(are_out_of_space, restart)


async def _keep_running(nats: EmbeddedNats) -> None:
    while True:
        await nats.exited.wait()
        log.error("nats.died", url=nats.address, action="restarting it")
        try:
            await nats.start()
        except Exception:
            log.exception("nats.restart-failed")
            await asyncio.sleep(RESTART_PAUSE_SECONDS)


@contextlib.asynccontextmanager
async def running_worker(container: Container) -> AsyncIterator[Worker]:
    worker = Worker(container)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@contextlib.asynccontextmanager
async def running_api(container: Container, sock: socket.socket) -> AsyncIterator[Server]:
    limits = limits_of(container.settings, raise_descriptor_limit())
    authenticator = Authenticator.from_settings(container.settings)
    container.start_index()
    try:
        async with serving(create_app(container, authenticator), sock, limits) as server:
            yield server
            container.feeds.hub.end()  # open streams would delay the end of the server
    finally:
        await authenticator.close()


async def drain(container: Container, server: Server) -> None:
    """Report `draining` in `/health/ready`, and go on answering for `settings.drain` seconds, so balancers notice."""
    container.draining = True
    seconds = container.settings.drain
    if seconds:
        log.info("draining", seconds=seconds)
        server.close_after_answers()
        await asyncio.sleep(seconds)


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals alone."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.connections = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def close_after_answers(self) -> None:
        """From now on close every connection after its next answer, and say so in that answer."""
        closing = (b"connection", b"close")
        self.config.encoded_headers.append(closing)  # uvicorn derives its default headers from these once a second
        self.server_state.default_headers.append(closing)


def server_config(app: RequestMiddleware, connections: Connections) -> uvicorn.Config:
    """Return the configuration of uvicorn for an application."""
    return uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], functools.partial(HttpConnection, connections)),
        loop="none",
        lifespan="off",
        ws=cast(type[asyncio.Protocol], functools.partial(WebSocketConnection, connections)),
        ws_max_size=64 * 1024,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=connections.limits.idle_seconds,
        timeout_graceful_shutdown=REQUESTS_GRACE_SECONDS,
    )


@contextlib.asynccontextmanager
async def serving(app: RequestMiddleware, sock: socket.socket, limits: ConnectionLimits) -> AsyncIterator[Server]:
    """Serve an application; at the end accept no new request, and finish those in progress."""
    connections = Connections(limits)
    server = Server(server_config(app, connections), connections)
    task = asyncio.create_task(server.serve([sock]), name="http")
    sweeper = asyncio.create_task(connections.run(), name="http-connections")
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield server
    finally:
        server.should_exit = True
        await task
        sweeper.cancel()


def tune_collector() -> None:
    """Exempt all present objects from garbage collection, and collect new ones less often.

    Objects from the start live until the process ends. Scanning them took a fifth of the CPU under load, up to 70 ms
    at a time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        log.info("stopping")
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop
