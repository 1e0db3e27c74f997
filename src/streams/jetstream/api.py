"""JetStream's API: requests about streams and consumers, in JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from ...errors import Conflict, StoreFull, StoreUnavailable
from ..client.connection import REQUEST_TIMEOUT_SECONDS, Connection

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014
CONSUMER_NOT_MADE = 10012
CONSUMER_NOT_UNIQUE = 10100
REPEATABLE = ("INFO", "STREAM.INFO.", "STREAM.MSG.GET.", "CONSUMER.INFO.", "CONSUMER.CREATE.")
"""Calls that may be made twice: the second one changes nothing more."""
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
"""Lost race: 10071 on one node, also 10164 on several."""
STORAGE_FULL = frozenset({10023, 10047, 10077, 10122})
"""Insufficient resources; insufficient storage; stream store failed (also disk full); maximum bytes."""


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
    answer = await connection.request(
        f"$JS.API.{name}", payload, timeout_seconds=timeout_seconds, repeats=name.startswith(REPEATABLE)
    )
    return decode_answer(name, answer)


def decode_answer(name: str, message: Msg) -> dict[str, Any]:
    """Return an answer of JetStream. Raises ApiError for a refusal, StoreUnavailable if it is not JSON."""
    try:
        answer: dict[str, Any] = msgspec.json.decode(message.data)
    except msgspec.MsgspecError:
        raise StoreUnavailable(f"{name}: {message.data.decode(errors='replace')}") from None
    if error := answer.get("error"):
        raise ApiError(name, error.get("err_code", 0), error.get("description", ""))
    return answer


async def find_stream(connection: Connection, stream: str) -> dict[str, Any] | None:
    """Return a stream's `config` and `state` as in STREAM.INFO, None if there is no such stream."""
    try:
        return await api(connection, f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
        return None


class _Error(Struct):
    err_code: int = 0
    description: str = ""


class _PubAck(Struct):
    seq: int = 0
    error: _Error | None = None


_ack_decoder = msgspec.json.Decoder(_PubAck)


def stored_sequence(answer: Msg, what: str) -> int:
    """Return the sequence at which JetStream stored a message. `what` names the message in errors.

    Raises Conflict if its guard failed, StoreFull, or StoreUnavailable for another refusal: it is not stored.
    """
    ack = _ack_decoder.decode(answer.data)
    if ack.error is None:
        return ack.seq
    code, reason = ack.error.err_code, ack.error.description
    if code in WRONG_LAST_SEQUENCE:
        raise Conflict(f"{what}: {reason}")
    if code in STORAGE_FULL:
        raise StoreFull(f"NATS' storage is full: {reason} ({code})")
    raise StoreUnavailable(f"NATS refused {what}: {reason} ({code})")
