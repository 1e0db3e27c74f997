"""The service inside a test's own process: API and worker on a real nats-server, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from taskstream.api.auth.authenticator import make_token
from taskstream.container import Container, open_container
from taskstream.running import listen, running_api, running_worker
from taskstream.settings import Settings
from testkit.backend import BackendServer

from .waiting import wait_until

SECRET = "a secret of the tests, longer than 32 bytes"
ENDED = ("FINISHED", "FAILED", "CANCELLED")


def quick_settings(**more: Any) -> Settings:
    """Return settings that make retries and checks quick, and let tests' backends be on this machine."""
    values: dict[str, Any] = {
        "jwt_secret": SECRET,
        "allow_private_backends": True,
        "port": 0,
        "retry_base": 0.05,
        "retry_cap": 0.2,
        "health_interval": 0.3,
        "health_retries": 0,
        "health_timeout": 1.0,
        "lease_ttl": 2.0,
        "ack_wait": 3.0,
        "reconcile_interval": 1.0,
        "shutdown_grace": 1.0,
        "circuit_cooldown": 0.5,
    }
    return Settings(**(values | more))


def token(subject: str = "alice", *roles: str, lifetime_seconds: int = 3600) -> str:
    return make_token(SECRET, subject, roles or ("user",), lifetime_seconds, time.time())


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
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.call("POST", path, body, **more)

    async def put(self, path: str, body: Any = None, **more: Any) -> Answer:
        return await self.call("PUT", path, body, **more)

    async def delete(self, path: str, **more: Any) -> Answer:
        return await self.call("DELETE", path, **more)

    async def submit(self, body: Any, **more: Any) -> str:
        """Submit a task and return its id."""
        answer = await self.post("/api/task", body, **more)
        assert answer.status == 200, answer
        return str(answer["taskId"])

    async def details(self, task_id: str) -> dict[str, Any]:
        answer = await self.get(f"/api/task/{task_id}")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer["taskDetails"]
        return found

    async def ended(self, task_id: str) -> dict[str, Any]:
        """Wait for a task's end and return its details."""

        async def look() -> dict[str, Any] | None:
            details = await self.details(task_id)
            return details if details["status"] in ENDED else None

        found = await wait_until(look, f"the end of {task_id}")
        assert found is not None
        return found

    async def reaches(self, task_id: str, status: str) -> dict[str, Any]:
        """Wait for a task to have a status and return its details."""

        async def look() -> dict[str, Any] | None:
            details = await self.details(task_id)
            return details if details["status"] == status else None

        found = await wait_until(look, f"{task_id} to be {status}")
        assert found is not None
        return found

    async def history(self, task_id: str) -> list[dict[str, Any]]:
        """Return a task's events: `type` and fields of each, oldest first."""
        answer = await self.get(f"/api/task/{task_id}/events")
        assert answer.status == 200, answer
        return [entry["event"] for entry in answer["events"]]

    async def register(self, backend: BackendServer, server_id: str, *, online: bool = True, **more: Any) -> None:
        """Register a backend and wait until it is online."""
        answer = await self.post("/api/servers", backend.registration(server_id, **more))
        assert answer.status == 200, answer
        if online:
            await self.server_is(server_id, "online")

    async def server_is(self, server_id: str, status: str) -> None:
        async def look() -> bool:
            answer = await self.get(f"/api/servers/{server_id}")
            return answer.status == 200 and answer["status"] == status

        await wait_until(look, f"server {server_id} to be {status}")


class Service:
    """A running service and clients for it."""

    def __init__(self, container: Container, session: aiohttp.ClientSession) -> None:
        self.container = container
        self.url = container.settings.callback_base
        self._session = session
        self.admin = self.client("root", "admin")
        self.alice = self.client("alice")
        self.bob = self.client("bob")
        self.auditor = self.client("eve", "auditor")
        self.anonymous = Client(session, self.url, None)

    def client(self, subject: str, *roles: str) -> Client:
        return Client(self._session, self.url, token(subject, *roles))


@contextlib.asynccontextmanager
async def running_service(nats_url: str, *, worker: bool = True, **more: Any) -> AsyncIterator[Service]:
    """Run API and (unless told otherwise) worker on a nats-server, on a free port."""
    async with contextlib.AsyncExitStack() as stack:
        settings, sock = stack.enter_context(listen(quick_settings(nats_url=nats_url, **more)))
        container = await stack.enter_async_context(await open_container(settings, nats_url, durability="always"))
        if worker:
            await stack.enter_async_context(running_worker(container))
        await stack.enter_async_context(running_api(container, sock))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Service(container, session)
