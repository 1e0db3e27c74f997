"""The dialects of servers, as admins name them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ...backends.dialects import DIALECTS
from ...errors import InvalidInput

DialectName = Annotated[str, Meta(max_length=64, extra_json_schema={"enum": sorted(DIALECTS)})]


def read_dialect(name: str | None) -> str:
    """Return the name of a dialect, empty for none. Raises InvalidInput for one that does not exist."""
    if name is not None and name not in DIALECTS:
        raise InvalidInput(f"must be one of {', '.join(sorted(DIALECTS))}, or null", "$.dialect")
    return name or ""
