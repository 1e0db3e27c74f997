"""What the shapes of the task surface have in common: names, durations and instants as clients know them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

# `$` alone would let a line feed follow: so does Python read it, though ECMA 262 does not.
NAME_PATTERN = r"^[^\x00-\x1f\x7f]+$(?!\n)"
SERVER_ID_PATTERN = r"^(?!(?:\.{1,2}|cleanup)$)[^\x00-\x1f\x7f/]+$(?!\n)"
TYPE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
POOL_NAME_PATTERN = r"^[A-Za-z0-9_-]+$(?!\n)"
PATTERNS = {
    NAME_PATTERN: "text without control characters",
    SERVER_ID_PATTERN: "text without control characters and slashes that is not `.`, `..` or `cleanup`",
    TYPE_NAME_PATTERN: "letters, digits, dots, dashes and underscores, the first a letter or digit",
    POOL_NAME_PATTERN: "letters, digits, dashes and underscores",
}
"""What each pattern means, for those whose text does not match."""

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN)]
ServerName = Annotated[str, Meta(min_length=1, max_length=128, pattern=SERVER_ID_PATTERN)]
"""An id that a path can carry: `cleanup` and dots mean something else there."""
DurationSeconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]


def milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def optional_milliseconds(instant: datetime | None) -> int | None:
    return milliseconds(instant) if instant else None
