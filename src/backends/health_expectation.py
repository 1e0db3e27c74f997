"""What a registration expects of the answer to a health check: a status, and values in its JSON. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..events.server import HealthExpectation, Scalar
from .dialects.dialect import Probe

MOST_BYTES = 64 * 1024
"""Bytes of a health answer that are read for its JSON."""
_STEP = re.compile(r"\.([^.\[\]]+)|\[([0-9]+)\]")
_MISSING = object()


def read_health(expected: HealthExpectation, status: int, body: bytes) -> Probe:
    """Return whether an answer is as expected; the reason says what it lacks, and nothing that the server chose."""
    if not (status in expected.status if expected.status else 200 <= status < 300):
        wanted = f", not {' or '.join(map(str, expected.status))}" if expected.status else ""
        return Probe(well=False, reason=f"health check answered {status}{wanted}")
    if expected.json:
        try:
            content = msgspec.json.decode(body)
        except (ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
            return Probe(well=False, reason=f"health check answered {status} without JSON")
        for path, value in expected.json.items():
            if not _is_same(_at(content, path), value):
                wanted = msgspec.json.encode(value).decode()
                return Probe(well=False, reason=f"health check answered {status}, but `{path}` is not {wanted}")
    return Probe(well=True, reason=f"health check answered {status} as expected")


def _at(content: Any, path: str) -> Any:
    """Return the value at a path of JSON_PATH_PATTERN, _MISSING if there is none."""
    for name, place in _STEP.findall(path):
        match content:
            case dict() if name:
                content = content.get(name, _MISSING)
            case list() if place and int(place) < len(content):
                content = content[int(place)]
            case _:
                return _MISSING
    return content


def _is_same(found: Any, wanted: Scalar) -> bool:
    """Return True if two JSON values are equal: 1 is 1.0, but not true."""
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)
