"""What in a payload chooses the server of a task: the model it names. Pure.

A payload is the body of a request of the OpenAI family, or a line of its batches with that body in `body`.
"""

from __future__ import annotations

from typing import Any

from ..events.server import LONGEST_MODEL


def model_in(payload: Any) -> str:
    """Return the model that a payload names; empty if it names none, or one that no server could be known to serve."""
    name = _body(payload).get("model")
    return name if isinstance(name, str) and len(name) <= LONGEST_MODEL and name.isprintable() else ""


def _body(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict):
        return {}
    body = payload.get("body")
    return body if isinstance(body, dict) and "url" in payload else payload
