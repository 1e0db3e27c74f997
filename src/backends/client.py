"""The client of backend servers: calls them and checks their health, each in its dialect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import aiohttp
import structlog

from ..clock import utc_now
from ..events.server import ServerRegistered
from ..wire.body_limit import AnswerTooLarge, read_capped
from ..wire.connections import ALONE, ask
from .connection_errors import describe, local_lack
from .detection import Detected, detect
from .dialects import dialect_of
from .dialects.dialect import MOST_MODELS_BYTES, Answer, Call, Dialect, Probe
from .exchanges import OUT_OF_MEMORY, Exchanges, OnUpdate
from .health_expectation import MOST_BYTES, read_health

log = structlog.get_logger(__name__)


class BackendClient:
    """Calls servers, each in its dialect, over one session.

    A health check has a connection of its own. One of a call serves others if its answer has the mark of its attempt.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        max_result_bytes: int,
        health_timeout_seconds: float,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._session = session
        self._max_result_bytes = max_result_bytes
        self._health_timeout_seconds = health_timeout_seconds
        self._now = now

    def begin(self, dialect: Dialect, server: ServerRegistered, call: Call, on_update: OnUpdate) -> Exchanges:
        """Return an attempt to `run`: its progress is passed to `on_update` as it comes."""
        conversation = dialect.converse(server, call)
        return Exchanges(self._session, conversation, server, call, on_update, self._max_result_bytes, self._now)

    async def call(self, dialect: Dialect, server: ServerRegistered, call: Call, on_update: OnUpdate) -> Answer:
        """Make an attempt and return its outcome; never raises for anything the server does."""
        return await self.begin(dialect, server, call, on_update).run()

    async def detect(self, server: ServerRegistered, api_key: str | None) -> Detected:
        """Find out what a server speaks; never raises for anything the server does. `api_key`: the server's own."""
        return await detect(self._session, server, api_key)

    async def probe(self, server: ServerRegistered, api_key: str | None = None) -> Probe:
        """Check a server's health once; never raises for anything the server does.

        `api_key`: the server's own, if its check carries it.
        """
        dialect = dialect_of(server)
        request = dialect.health(server, api_key)
        assert request is not None
        started = time.perf_counter()
        try:
            headers, sent = {**request.headers, **ALONE}, request.body or b""
            async with (
                asyncio.timeout(self._health_timeout_seconds),
                await ask(self._session, request.method, request.url, headers, sent) as response,
            ):
                latency_ms = (time.perf_counter() - started) * 1000
                expected = server.health_expect
                limit = MOST_BYTES if expected is not None and expected.json else dialect.most_health_bytes
                body = await read_capped(response, limit) if limit else b""
        except TimeoutError:
            reason = f"no answer to the health check in {self._health_timeout_seconds:g} s"
            return Probe(well=False, reason=reason, timed_out=True)
        except AnswerTooLarge:
            return Probe(well=False, reason=f"the answer to the health check is larger than {limit} bytes")
        except MemoryError:
            return Probe(well=False, reason=OUT_OF_MEMORY.error, is_ours=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if (lack := local_lack(error)) is not None:
                return Probe(well=False, reason=lack, is_ours=True)
            return Probe(well=False, reason=describe(error))
        if expected is not None:
            return read_health(expected, response.status, body)._replace(latency_ms=latency_ms)
        return dialect.read_health_of(server, response.status, body)._replace(latency_ms=latency_ms)

    async def models(self, server: ServerRegistered, api_key: str | None) -> list[str] | None:
        """Return the names of the models that a server says it serves; None if it does not say. Never raises for it."""
        dialect = dialect_of(server)
        request = dialect.list_models(server, api_key)
        if request is None:
            return None
        try:
            async with (
                asyncio.timeout(self._health_timeout_seconds),
                await ask(self._session, request.method, request.url, {**request.headers, **ALONE}, b"") as response,
            ):
                body = await read_capped(response, MOST_MODELS_BYTES)
        except (TimeoutError, AnswerTooLarge, MemoryError, aiohttp.ClientError, OSError, ValueError) as error:
            log.info("models.not-listed", server=server.server_id, reason=type(error).__name__)
            return None
        return dialect.read_models(response.status, body)
