"""The spellings of Replicate's paths, as one.

The clients append `/predictions` or `/v1/predictions` to the same setting, so a user may set the base with `/v1` or
without it. `QUERY` (a method of its own) searches models; routes know no such method.
"""

from __future__ import annotations

from typing import Any

ROOT = "/replicate/"
BASE = "/replicate/v1"
SEARCH = f"{BASE}/models/search"


def with_one_spelling(scope: Any) -> Any:
    """Return the scope of a request under ROOT with the path and the method that its route has."""
    rest = scope["path"].removeprefix(ROOT)
    while rest.startswith("v1/"):
        rest = rest[3:]
    path = f"{BASE}/{rest}"
    if scope["method"] == "QUERY" and path.rstrip("/") == f"{BASE}/models":
        return {**scope, "path": SEARCH, "method": "POST"}
    return {**scope, "path": path}
