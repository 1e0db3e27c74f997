"""The service inside a test's own process: API and worker on a real nats-server, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import aiohttp

from taskstream.api.auth.authenticator import make_token
from taskstream.api.connections import Connections
from taskstream.container import Container, open_container
from taskstream.running import running_api, running_worker
from taskstream.runtime.process import listen
from taskstream.settings import Settings

from .memory import memory
from .waiting import wait_until

SECRET = "a secret of the tests, longer than 32 bytes"
SEAL_KEY = "c2VhbCBrZXkgb2YgdGhlIHRlc3RzLCAzMiBieXRlcy4="
ENDED = ("FINISHED", "FAILED", "CANCELLED")


def quick_settings(**more: Any) -> Settings:
    """Return settings with short retries and checks, which allow backends on this machine.

    What must not lapse on a busy machine (health checks, leases, acknowledgements) has seconds, and no request is slow.
    """
    values: dict[str, Any] = {
        "jwt_secret": SECRET,
        "seal_keys": (SEAL_KEY,),
        "allow_private_backends": True,
        "webhook_allow": ("127.0.0.1/32",),
        "port": 0,
        "retry_base": 0.05,
        "retry_cap": 0.2,
        "health_interval": 0.3,
        "health_retries": 0,
        "health_timeout": 10.0,
        "lease_ttl": 5.0,
        "ack_wait": 6.0,
        "reconcile_interval": 1.0,
        "shutdown_grace": 1.0,
        "circuit_cooldown": 0.5,
        "slow_request": 600.0,
    }
    return Settings(**(values | more))


def token(subject: str = "alice", *roles: str, lifetime_seconds: int = 3600) -> str:
    """Return a bearer token signed with the secret of the tests, by default one of a user."""
    return make_token(SECRET, subject, roles or ("user",), lifetime_seconds, time.time())


class Registrable(Protocol):
    """A server of a test."""

    def registration(self, server_id: str, **more: Any) -> dict[str, Any]: ...


class Answer:
    """An HTTP answer: `status`, `headers`, and the JSON body."""

    def __init__(self, status: int, headers: Any, body: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __getitem__(self, key: str) -> Any:
        return self.body[key]

    def __repr__(self) -> str:
        return f"<{self.status} {self.body}>"


class Client:
    """Speaks to a service as one user."""

    def __init__(self, session: aiohttp.ClientSession, url: str, bearer: str | None) -> None:
        self.session = session
        self.url = url
        self.bearer = bearer

    async def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Make a request; a `bytes` body goes as it is, any other as JSON."""
        sent = dict(headers or {})
        if self.bearer:
            sent.setdefault("Authorization", f"Bearer {self.bearer}")
        content = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        async with self.session.request(method, self.url + path, headers=sent, **content) as response:
            is_json = "json" in response.headers.get("Content-Type", "")
            return Answer(
                response.status,
                response.headers,
                await (response.json(content_type=None) if is_json else response.text()),
            )

    async def get(self, path: str, **more: Any) -> Answer:
        """Make a GET request."""
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        """Make a POST request with a JSON body."""
        return await self.call("POST", path, body, **more)

    async def put(self, path: str, body: Any = None, **more: Any) -> Answer:
        """Make a PUT request with a JSON body."""
        return await self.call("PUT", path, body, **more)

    async def delete(self, path: str, **more: Any) -> Answer:
        """Make a DELETE request."""
        return await self.call("DELETE", path, **more)

    async def done(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Make a request and return the body. Raises AssertionError unless it is answered with 200."""
        answer = await self.call(method, path, body, **more)
        assert answer.status == 200, f"{method} {path} was answered {answer}"
        return answer.body

    async def refusal(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str | None]:
        """Make a request; return the status of the answer and the JSON path in it, None if there is none."""
        answer = await self.call(method, path, body, **more)
        return answer.status, answer.body.get("path")

    async def until(self, path: str, holds: Callable[[Any], object], description: str) -> Any:
        """Read a path until the body fulfils a condition; return the body."""

        async def look() -> Any:
            body = await self.done("GET", path)
            return body if holds(body) else None

        return await wait_until(look, description)

    async def submit(self, body: Any, **more: Any) -> str:
        """Submit a task and return its id."""
        return str((await self.done("POST", "/api/task", body, **more))["taskId"])

    async def details(self, task_id: str) -> dict[str, Any]:
        """Return a task as the API shows it."""
        found: dict[str, Any] = (await self.done("GET", f"/api/task/{task_id}"))["taskDetails"]
        return found

    async def ended(self, task_id: str) -> dict[str, Any]:
        """Wait for a task's end and return its details."""
        return await self.reaches(task_id, *ENDED)

    async def reaches(self, task_id: str, *statuses: str) -> dict[str, Any]:
        """Wait for a task to have one of the statuses and return its details."""
        wanted = f"{task_id} to be {' or '.join(statuses)}"
        found = await self.until(f"/api/task/{task_id}", lambda task: task["taskDetails"]["status"] in statuses, wanted)
        details: dict[str, Any] = found["taskDetails"]
        return details

    async def pages(self, path: str, key: str, query: str = "") -> list[list[dict[str, Any]]]:
        """Return all pages of a list: the entries under `key` of each."""
        found: list[list[dict[str, Any]]] = []
        cursor = ""
        while cursor is not None:
            page = await self.done("GET", f"{path}?{query}{cursor and f'&cursor={cursor}'}")
            found.append(page[key])
            cursor = page["nextCursor"]
        return found

    async def listed(self, path: str, key: str, query: str = "limit=200") -> list[dict[str, Any]]:
        """Return all entries of a list, by default in pages of 200."""
        return [entry for page in await self.pages(path, key, query) for entry in page]

    async def tasks(self) -> list[dict[str, Any]]:
        """Return all tasks of the user."""
        return await self.listed("/api/tasks", "tasks")

    async def recorded(self, task_id: str) -> list[dict[str, Any]]:
        """Return a task's events as recorded, oldest first: `sequence`, `at`, `by` and `event` of each."""
        found: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            page = await self.done("GET", f"/api/task/{task_id}/events?limit=1000&after={after}")
            found += page["events"]
            after = page["nextAfter"]
        return found

    async def history(self, task_id: str) -> list[dict[str, Any]]:
        """Return a task's events: `type` and fields of each, oldest first."""
        return [entry["event"] for entry in await self.recorded(task_id)]

    async def register(self, backend: Registrable, server_id: str, *, online: bool = True, **more: Any) -> None:
        """Register a backend and wait until it is online."""
        await self.done("POST", "/api/servers", backend.registration(server_id, **more))
        if online:
            await self.server_is(server_id, "online")

    async def server_is(self, server_id: str, status: str) -> None:
        """Wait for a server, registered or not, to have a status."""

        async def look() -> bool:
            answer = await self.get(f"/api/servers/{server_id}")
            return answer.status == 200 and answer["status"] == status

        await wait_until(look, f"server {server_id} to be {status}")


class ServiceClients:
    """Clients of a service, by its URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url
        self.admin = self.client("root", "admin")
        self.alice = self.client("alice")
        self.bob = self.client("bob")
        self.auditor = self.client("eve", "auditor")
        self.anonymous = Client(session, url, None)

    def client(self, subject: str, *roles: str) -> Client:
        """Return a client of a user, by default without further roles."""
        return self.bearing(token(subject, *roles))

    def bearing(self, bearer: str) -> Client:
        """Return a client with a bearer token."""
        return Client(self._session, self.url, bearer)


class Service(ServiceClients):
    """A service that runs in this process, and clients of it."""

    def __init__(self, container: Container, session: aiohttp.ClientSession, connections: Connections) -> None:
        super().__init__(session, container.settings.callback_base)
        self.container = container
        self.connections = connections


@contextlib.asynccontextmanager
async def running_service(nats_url: str, *, worker: bool = True, **more: Any) -> AsyncIterator[Service]:
    """Run an API, and by default a worker, on a nats-server; listen on a free port."""
    async with contextlib.AsyncExitStack() as stack:
        more.setdefault("index_dir", stack.enter_context(tempfile.TemporaryDirectory(prefix="index-", dir=memory())))
        settings, sock = stack.enter_context(listen(quick_settings(nats_url=nats_url, **more)))
        container = await stack.enter_async_context(await open_container(settings, nats_url, durability="always"))
        if worker:
            await stack.enter_async_context(running_worker(container))
        server = await stack.enter_async_context(running_api(container, sock))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Service(container, session, server.connections)
