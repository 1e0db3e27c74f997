"""The two clients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from .calls.batches import AsyncBatches, Batches, Item, submit_batch
from .calls.call import Async, Sync, call
from .calls.files import AsyncFiles, Files
from .calls.keys import AsyncKeys, Keys
from .calls.results import AsyncResults, Results
from .calls.schedules import AsyncSchedules, Schedules
from .calls.servers import AsyncServers, AsyncTypes, Servers, Types
from .calls.tasks import AsyncTasks, RunCalls, Tasks
from .calls.webhooks import AsyncWebhooks, Webhooks
from .core import Core
from .credentials import Token
from .drivers import Awaited, Blocking
from .errors import BadSettings
from .flow import Flow
from .models import Me, SubmittedBatch, convert
from .retries import Retries

if TYPE_CHECKING:
    from typing_extensions import Self

TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 300.0
URL = "TASKSTREAM_URL"
TOKENS = ("TASKSTREAM_TOKEN", "TASKSTREAM_API_KEY")

try:
    VERSION = version("taskstream-client")
except PackageNotFoundError:  # imported from its folder
    VERSION = "0"


def core_of(
    url: str | None,
    token: Token | None,
    timeout: float,
    patience: float,
    retries: Retries | None,
    **more: Any,
) -> Core:
    """Return the core of a client; what is not given comes from the environment. Raises BadSettings."""
    given = url or os.environ.get(URL)
    if not given:
        raise BadSettings(f"no URL of the service: set {URL}, or pass `url`")
    if token is None:
        token = next((found for name in TOKENS if (found := os.environ.get(name, "").strip())), None)
    agent = f"taskstream-client-python/{VERSION}"
    return Core(
        given, token, timeout=timeout, patience=patience, retries=retries or Retries(), user_agent=agent, **more
    )


class ClientCalls(RunCalls):
    """What a client can do itself; its attributes have the rest, by subject."""

    @call
    def batch(
        self, items: Iterable[Item], *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> Flow[SubmittedBatch]:
        """Submit many tasks: see `batches.submit`."""
        return (yield from submit_batch(self._core, items, idempotency_key, timeout))

    @call
    def me(self) -> Flow[Me]:
        """Return what the client's token is good for."""
        return convert((yield from self._core.ask("GET", "/api/me")), Me)

    @call
    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        repeatable: bool | None = None,
    ) -> Flow[Any]:
        """Make any other request of the API, such as `request("GET", "/api/stats")`, and return its JSON.

        It has the client's token, retries and errors. `repeatable`: it may be sent twice; default: all but POST.
        """
        if not path.startswith("/"):
            raise ValueError(f"a path begins with a slash: {path!r}")
        may_repeat = method.upper() != "POST" if repeatable is None else repeatable
        asked = self._core.ask(
            method.upper(), path, query=query, body=body, headers=headers, timeout=timeout, repeatable=may_repeat
        )
        return (yield from asked)


class Client(ClientCalls, Sync):
    """A client whose calls block. Use it as a context manager, or call `close`; threads may share it.

    Args:
        url: Of the service; default: `TASKSTREAM_URL`.
        token: A JWT or an API key, or a function that returns one: it is called again before its token expires, and
            once if the service refuses it. Default: `TASKSTREAM_TOKEN`, else `TASKSTREAM_API_KEY`.
        timeout: Seconds for one call with its retries.
        patience: Seconds for which waits and streams outlast an outage of the service.
        retries: How often and after which pauses requests are sent again.
        http: An httpx.Client of yours: with a proxy, certificates, limits. You close it.
    """

    def __init__(
        self,
        url: str | None = None,
        token: Token | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
        retries: Retries | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        core = core_of(url, token, timeout, patience, retries)
        self._connect(core, Blocking(core.url, http))

    def _connect(self, core: Core, driver: Blocking) -> None:
        super().__init__(core, driver)
        self.tasks = Tasks(core, driver)
        self.batches = Batches(core, driver)
        self.results = Results(core, driver)
        self.schedules = Schedules(core, driver)
        self.webhooks = Webhooks(core, driver)
        self.servers = Servers(core, driver)
        self.types = Types(core, driver)
        self.files = Files(core, driver)
        self.keys = Keys(core, driver)

    @classmethod
    def over(cls, core: Core, driver: Blocking) -> Self:
        """Return a client of other parts, such as a fake's."""
        client = cls.__new__(cls)
        client._connect(core, driver)  # noqa: SLF001 - its own
        return client

    def close(self) -> None:
        """Close the connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(ClientCalls, Async):
    """A client whose calls are awaited. Use it as an asynchronous context manager.

    Args:
        url: Of the service; default: `TASKSTREAM_URL`.
        token: A JWT or an API key, or a function, also an asynchronous one, that returns one: it is called again
            before its token expires, and once if the service refuses it. Default: `TASKSTREAM_TOKEN`, else
            `TASKSTREAM_API_KEY`.
        timeout: Seconds for one call with its retries.
        patience: Seconds for which waits and streams outlast an outage of the service.
        retries: How often and after which pauses requests are sent again.
        http: An httpx.AsyncClient of yours: with a proxy, certificates, limits. You close it.
    """

    def __init__(
        self,
        url: str | None = None,
        token: Token | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
        retries: Retries | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        core = core_of(url, token, timeout, patience, retries)
        self._connect(core, Awaited(core.url, http))

    def _connect(self, core: Core, driver: Awaited) -> None:
        super().__init__(core, driver)
        self.tasks = AsyncTasks(core, driver)
        self.batches = AsyncBatches(core, driver)
        self.results = AsyncResults(core, driver)
        self.schedules = AsyncSchedules(core, driver)
        self.webhooks = AsyncWebhooks(core, driver)
        self.servers = AsyncServers(core, driver)
        self.types = AsyncTypes(core, driver)
        self.files = AsyncFiles(core, driver)
        self.keys = AsyncKeys(core, driver)

    @classmethod
    def over(cls, core: Core, driver: Awaited) -> Self:
        """Return a client of other parts, such as a fake's."""
        client = cls.__new__(cls)
        client._connect(core, driver)  # noqa: SLF001 - its own
        return client

    async def close(self) -> None:
        """Close the connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()
