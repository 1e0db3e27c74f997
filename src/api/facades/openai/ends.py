"""What the end of a task is to a client of OpenAI's API: the server's answer, or an error with a status."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from msgspec import Raw

from ....container import Container
from ....events.envelope import NULL
from ....events.task import FailureKind, StoredResult, TaskCancelled, TaskEvent, TaskFailed, TaskSucceeded
from .errors import SHOULD_RETRY, OpenAIError, passed_on

STATUSES: dict[FailureKind, int] = {
    "rejected": 400,
    "failed": 500,
    "busy": 503,
    "error": 502,
    "unreachable": 502,
    "timeout": 504,
    "bad_answer": 502,
    "worker_lost": 502,
    "expired": 504,
    "deadline": 504,
    "parent_failed": 500,
}
"""Of failures for which there is no answer of a server."""
OURS = frozenset({401, 403, 407})
"""Statuses with which a server refuses this service, not its client: the client's own token is good."""
FINAL = {SHOULD_RETRY: "false"}
"""The service has tried it as often as its type says."""
_fields = msgspec.json.Decoder(dict[str, Raw])

Ending = TaskSucceeded | TaskFailed | TaskCancelled


def ending(event: TaskEvent) -> Ending | None:
    """Return an event if it ends its task."""
    return event if isinstance(event, TaskSucceeded | TaskFailed | TaskCancelled) else None


async def data_of(container: Container, stored: StoredResult, user: str) -> bytes:
    """Return what a server answered, JSON. Raises NotFound past its retention, TooManyReads, StoreUnavailable."""
    whole = bytes(stored.inline)
    if stored.object_name is not None:
        async with container.results.opened(stored.object_name, user) as parts:
            whole = b"".join([part async for part in parts])
    return bytes(_fields.decode(whole).get("data", NULL))


def error_of(end: TaskFailed | TaskCancelled) -> OpenAIError:
    """Return the error that the end of a task is."""
    if isinstance(end, TaskCancelled):
        return OpenAIError(409, f"the task was cancelled: {end.reason}", code="cancelled", headers=FINAL)
    answer = end.answer
    if answer is not None and answer.status in OURS:
        return OpenAIError(502, end.error, kind="upstream_error", headers=FINAL)
    if answer is None or not 400 <= answer.status < 600:
        return OpenAIError(STATUSES[end.kind], end.error, code=end.kind, headers=FINAL)
    body = bytes(answer.body) if answer.body != NULL else b""
    return passed_on(answer.status, body, end.error, FINAL)


def fields_of(data: bytes) -> dict[str, Any]:
    """Return the fields of an answer; none if it is no object."""
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        found = msgspec.json.decode(data)
        return found if isinstance(found, dict) else {}
    return {}


def chunk_of(data: bytes) -> bytes:
    """Return a whole completion as the one part of a stream, for servers that do not stream."""
    whole = fields_of(data)
    choices = whole.get("choices")
    found = []
    for choice in choices if isinstance(choices, list) else []:
        is_chat = isinstance(choice, dict) and "message" in choice
        others = {name: value for name, value in choice.items() if name != "message"} if is_chat else choice
        found.append({"index": 0, "delta": choice["message"], **others} if is_chat else others)
    is_chat = whole.get("object") == "chat.completion"
    shown = {**whole, "choices": found, **({"object": "chat.completion.chunk"} if is_chat else {})}
    return msgspec.json.encode(shown)
