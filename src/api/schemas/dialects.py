"""The dialects of servers, as admins name them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ...backends.dialects import DIALECTS
from ...commands.server import AUTO
from ...errors import InvalidInput

DialectName = Annotated[str, Meta(max_length=64, extra_json_schema={"enum": sorted(DIALECTS)})]

ServerDialectName = Annotated[str, Meta(max_length=64, extra_json_schema={"enum": sorted({*DIALECTS, AUTO})})]


def read_dialect(name: str | None) -> str:
    """Return the name of a dialect, empty for none. Raises InvalidInput for one that does not exist."""
    return _read(name, set(DIALECTS))


def read_server_dialect(name: str | None) -> str:
    """Return the same of a server, whose dialect may be left to detection."""
    return _read(name, {*DIALECTS, AUTO})


def _read(name: str | None, known: set[str]) -> str:
    if name is not None and name not in known:
        raise InvalidInput(f"must be one of {', '.join(sorted(known))}, or null", "$.dialect")
    return name or ""
