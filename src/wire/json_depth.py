"""How deep a JSON document is nested.

What is kept must decode wherever it is read. Decoders stop at about 1,000 levels, and at fewer the deeper the call
stack they are used in.
"""

from __future__ import annotations

from typing import Any


def deeper_than(most: int, body: bytes, content: Any) -> bool:
    """Tell whether `content`, decoded from `body`, has more than `most` levels."""
    # Each level has a bracket: with few brackets there is nothing to measure.
    return body.count(b"{") + body.count(b"[") > most and depth(content) > most


def depth(content: Any) -> int:
    """Return how many levels of objects and arrays there are, 0 for a scalar."""
    level = 0
    current = [content]
    while containers := [value for value in current if isinstance(value, dict | list)]:
        level += 1
        current = [child for value in containers for child in (value.values() if isinstance(value, dict) else value)]
    return level
