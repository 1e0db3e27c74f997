"""The service in one process: the API, a worker, or both."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import cast

import structlog
import uvicorn
from msgspec.structs import replace

from .api.app import create_app, create_system_app
from .api.auth.authenticator import Authenticator
from .api.connections import ConnectionLimits, Connections, HttpConnection, WebSocketConnection, limits_of
from .api.exchange import CLOSING
from .api.facades.openai.batches.runner import BatchRunner
from .api.middleware import RequestMiddleware
from .api.operation_runner import OperationRunner
from .api.settings_check import check_settings
from .container import Container, open_container
from .errors import StoreError
from .nats_server.keeping import embedded_nats
from .runtime.descriptors import raise_descriptor_limit
from .runtime.memory import give_back_large_blocks
from .runtime.process import REQUESTS_GRACE_SECONDS, announce, listen, stop_signal
from .settings import InvalidSettings, Settings
from .streams.client.access import for_up
from .vault.key_file import ensure_key_file
from .workers.worker import Worker

log = structlog.get_logger(__name__)

KEYS_SECONDS = 5.0
"""How long the start waits for the API keys."""
YOUNG_OBJECTS = 20_000
"""New objects between two collections of the youngest generation; Python's default is 700."""


async def run_all(given: Settings) -> None:
    """Run API and worker in this process until a signal, on the NATS of the settings or an embedded one."""
    check_settings(given)
    with listen(for_up(given)) as (settings, sock):
        async with AsyncExitStack() as stack:
            if settings.nats_url is None:
                nats = await stack.enter_async_context(embedded_nats(settings))
                with_key = ensure_key_file(settings)  # NATS holds the lock of the data folder
                opened = await open_container(with_key, nats.url, durability="always")
                opened.space.reports(nats.reserve)
                container = await stack.enter_async_context(opened)
            else:
                container = await stack.enter_async_context(await open_container(settings, settings.nats_url))
            await stack.enter_async_context(running_worker(container))
            server = await stack.enter_async_context(running_api(container, sock))
            tune_memory()
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
            tune_memory()
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
        tune_memory()
        await stop.wait()
        container.draining = True


def _required_url(settings: Settings) -> str:
    if settings.nats_url is None:
        raise InvalidSettings("no NATS server: set --nats-url or TASKSTREAM_NATS_URL (`taskstream up` starts its own)")
    return settings.nats_url


@contextlib.asynccontextmanager
async def running_worker(container: Container) -> AsyncIterator[Worker]:
    worker = Worker(container)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.stop()


@contextlib.asynccontextmanager
async def running_api(container: Container, sock: socket.socket) -> AsyncIterator[Server]:
    limits = limits_of(container.settings, raise_descriptor_limit())
    authenticator = Authenticator.from_settings(container.settings)
    container.start_index()
    members = container.membership("api")
    operations, batches = OperationRunner(container, members), BatchRunner(container, members)
    await members.begin()
    container.services.start(members, operations, batches)
    keys = container.start_keys(members)  # after `begin`: who revokes a key asks the members
    with contextlib.suppress(TimeoutError):  # until then keys are refused
        await asyncio.wait_for(keys.is_current.wait(), KEYS_SECONDS)
    try:
        async with serving(create_app(container, authenticator), sock, limits) as server:
            with contextlib.suppress(StoreError):  # a large index is filled while the API serves
                await container.indexer.current()
            yield server
            container.pull_requests.end()
            container.feeds.hub.end()  # open streams would delay the end of the server
    finally:
        await operations.stop()
        await batches.stop()
        await members.leave()
        await authenticator.close()


async def drain(container: Container, server: Server) -> None:
    """Report `draining` in `/health/ready`, and go on answering for `settings.drain` seconds, so balancers notice."""
    container.draining = True
    container.pull_requests.end()
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
        self.config.encoded_headers.append(CLOSING)  # uvicorn derives its default headers from these once a second
        self.server_state.default_headers.append(CLOSING)


def server_config(app: RequestMiddleware, connections: Connections) -> uvicorn.Config:
    """Return the configuration of uvicorn for an application."""
    return uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], partial(HttpConnection, connections)),
        loop="none",
        lifespan="off",
        ws=cast(type[asyncio.Protocol], partial(WebSocketConnection, connections)),
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


def tune_memory() -> None:
    """Exempt all present objects from garbage collection, collect new ones less often, and give back large blocks.

    Objects from the start live until the process ends. Scanning them took a fifth of the CPU under load, up to 70 ms
    at a time.
    """
    give_back_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
