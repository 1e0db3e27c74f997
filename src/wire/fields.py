"""What the shapes of the task surface have in common: names, durations and instants as clients know them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

from ..errors import InvalidInput

# `$` alone would let a line feed follow: so does Python read it, though ECMA 262 does not.
NAME_PATTERN = r"^[^\x00-\x1f\x7f]+$(?!\n)"
SERVER_ID_PATTERN = r"^(?!(?:\.{1,2}|cleanup)$)[^\x00-\x1f\x7f/]+$(?!\n)"
TYPE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
POOL_NAME_PATTERN = r"^[A-Za-z0-9_-]+$(?!\n)"
TASK_ID_PATTERN = r"^[0-9A-Za-z]{26}~[A-Za-z0-9_=-]{1,36}$(?!\n)"
BATCH_ID_PATTERN = r"^[0-9A-HJKMNP-TV-Z]{24}00~[A-Za-z0-9_=-]{1,36}$(?!\n)"
PATTERNS = {
    NAME_PATTERN: "text without control characters",
    SERVER_ID_PATTERN: "text without control characters and slashes that is not `.`, `..` or `cleanup`",
    TYPE_NAME_PATTERN: "letters, digits, dots, dashes and underscores, the first a letter or digit",
    POOL_NAME_PATTERN: "letters, digits, dashes and underscores",
    TASK_ID_PATTERN: "the id of a task, as the answer to its submission gave it",
    BATCH_ID_PATTERN: "the id of a batch, as the answer to its submission gave it",
}
"""What each pattern means, for those whose text does not match."""

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN)]
ServerName = Annotated[str, Meta(min_length=1, max_length=128, pattern=SERVER_ID_PATTERN)]
"""An id that a path can carry: `cleanup` and dots mean something else there."""
DurationSeconds = Annotated[float, Meta(ge=0.001, le=7 * 86_400)]
"""A millisecond to a week."""
Instant = Annotated[int, Meta(ge=0, le=253_402_300_799_999)] | Annotated[datetime, Meta(tz=True)]
"""Milliseconds since the epoch, or ISO 8601 text with an offset."""
Labels = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]], Meta(max_length=32)
]


def instant(given: int | datetime | None, path: str) -> datetime | None:
    """Return what a client gave as an `Instant`, in UTC. Raises InvalidInput for one that UTC has no year for.

    `path`: where it was given, as in `$.runAt`.
    """
    if isinstance(given, int):
        return datetime.fromtimestamp(given / 1000, UTC)
    try:
        return given.astimezone(UTC) if given is not None else None
    except OverflowError:
        raise InvalidInput(f"{given} is outside of the years 1 to 9999 in UTC", path) from None


def milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def optional_milliseconds(instant: datetime | None) -> int | None:
    return milliseconds(instant) if instant else None
