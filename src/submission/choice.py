"""What in a payload chooses the server of a task: the model it names, and the session it belongs to. Pure.

A payload is the body of a request of the OpenAI family, or a line of its batches with that body in `body`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from ..events.server import LONGEST_MODEL

SESSION_FIELDS = ("prompt_cache_key", "session_id", "user")
"""Fields that name a session; the first that is text counts."""
_canonical = msgspec.json.Encoder(order="deterministic").encode


def model_in(payload: Any) -> str:
    """Return the model that a payload names; empty if it names none, or one that no server could be known to serve."""
    name = _body(payload).get("model")
    return name if isinstance(name, str) and len(name) <= LONGEST_MODEL and name.isprintable() else ""


def session_in(payload: Any, owner: str) -> str:
    """Return a digest that the tasks of a session of an owner share; empty if a payload belongs to none.

    A session is named by a field, or is a conversation: tasks whose messages begin alike, up to the first of the user.
    Servers keep what they computed for that beginning, and answer sooner.
    """
    body = _body(payload)
    named: Any = next((value for name in SESSION_FIELDS if isinstance(value := body.get(name), str) and value), None)
    if named is None:
        named = _beginning(body.get("messages"))
    return "" if named is None else hashlib.sha256(_canonical([owner, named])).hexdigest()[:16]


def _beginning(messages: Any) -> list[Any] | None:
    """Return the messages up to the first of the user; None if there is none."""
    if not isinstance(messages, list):
        return None
    for place, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return messages[: place + 1]
    return None


def _body(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict):
        return {}
    body = payload.get("body")
    return body if isinstance(body, dict) and "url" in payload else payload
