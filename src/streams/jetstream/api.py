"""JetStream's API: requests about streams and consumers, in JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from ...errors import StoreUnavailable
from ..client.connection import REQUEST_TIMEOUT_SECONDS, Connection

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014
CONSUMER_NOT_MADE = 10012
CONSUMER_NOT_UNIQUE = 10100


class ApiError(StoreUnavailable):
    """JetStream refused an API call. `code` is NATS' own `err_code`."""

    def __init__(self, subject: str, code: int, description: str) -> None:
        self.code = code
        self.description = description
        super().__init__(f"{subject}: {description} ({code})")


async def api(
    connection: Connection, name: str, body: Any = None, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
) -> dict[str, Any]:
    """Call `$JS.API.<name>` and return the answer. Raises ApiError for a refusal."""
    payload = msgspec.json.encode(body) if body is not None else b""
    message = await connection.request(f"$JS.API.{name}", payload, timeout_seconds=timeout_seconds)
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    if error := answer.get("error"):
        raise ApiError(name, error.get("err_code", 0), error.get("description", ""))
    return answer
