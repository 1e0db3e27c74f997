"""Wire fixtures: the answers of servers of each dialect. The conformance suite fails for a dialect without one."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from msgspec import Struct

from taskstream.events.server import ServerRegistered


class Wire(Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = {}


class StreamWire(Struct, frozen=True):
    """A streamed answer, in the parts a server would write."""

    content_type: str
    parts: list[bytes]


class WireFixture(ABC):
    """Requests and answers of one dialect."""

    @abstractmethod
    def server(self, url: str) -> ServerRegistered:
        """Return a registration of a server at a URL, with a health address."""

    @abstractmethod
    def payload(self, body: bytes) -> Any:
        """Return the payload of the task in a request's body."""

    @abstractmethod
    def success(self, data: Any) -> Wire: ...

    @abstractmethod
    def failure(self, reason: str) -> Wire:
        """Return an answer that reports the task as failed."""

    @abstractmethod
    def rejection(self, reason: str) -> Wire:
        """Return an answer that refuses the task for good."""

    @abstractmethod
    def busy(self) -> Wire: ...

    @abstractmethod
    def acceptance(self, backend_task_id: str) -> Wire | None:
        """Return an answer that promises a callback; None if the dialect has none."""

    @abstractmethod
    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> StreamWire | None:
        """Return an answer that streams pieces of output, then ends with data or a failure; None if it has none."""

    @abstractmethod
    def healthy(self) -> Wire: ...

    @abstractmethod
    def unhealthy(self) -> Wire: ...


def in_json(content: Any) -> bytes:
    return json.dumps(content).encode()


class TaskstreamWire(WireFixture):
    def server(self, url: str) -> ServerRegistered:
        return ServerRegistered(
            server_id="s1",
            name="",
            provider="",
            predict_url=f"{url}/predict",
            health_url=f"{url}/health",
            callback=True,
        )

    def payload(self, body: bytes) -> Any:
        return json.loads(body)["request"]

    def success(self, data: Any) -> Wire:
        return Wire(200, in_json({"data": data, "metadata": {"status": "FINISHED"}}))

    def failure(self, reason: str) -> Wire:
        return Wire(200, in_json({"data": None, "metadata": {"status": "FAILED", "message": reason}}))

    def rejection(self, reason: str) -> Wire:
        return Wire(422, in_json({"error": reason}))

    def busy(self) -> Wire:
        return Wire(503, headers={"Retry-After": "7"})

    def acceptance(self, backend_task_id: str) -> Wire:
        return Wire(202, in_json({"backend_task_id": backend_task_id, "status": "PROCESSING"}))

    def stream(self, output: list[str], data: Any = None, *, failure: str = "", ends: bool = True) -> StreamWire:
        ending = {"status": "FAILED", "message": failure} if failure else {"data": data, "status": "FINISHED"}
        updates = [*({"output": piece} for piece in output), *([ending] if ends else [])]
        return StreamWire("application/x-ndjson", [in_json(update) + b"\n" for update in updates])

    def healthy(self) -> Wire:
        return Wire(204)

    def unhealthy(self) -> Wire:
        return Wire(503)


FIXTURES: dict[str, WireFixture] = {"taskstream": TaskstreamWire()}
