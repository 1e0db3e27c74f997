"""Field types that many bodies share: names, labels, durations and instants as clients send and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta

from ..errors import InvalidInput
from ..instants import (
    DURATION_PATTERN,
    LAST_MILLISECOND,
    RELATIVE_PATTERN,
    from_milliseconds,
    parse_duration,
    parse_instant,
)

# Python lets `$` match before a final line feed; ECMA 262 does not. `(?!\n)` refuses it in both.
NAME_PATTERN = r"^[^\x00-\x1f\x7f]+$(?!\n)"
SERVER_ID_PATTERN = r"^(?!(?:\.{1,2}|cleanup)$)[^\x00-\x1f\x7f/]+$(?!\n)"
TYPE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
POOL_NAME_PATTERN = r"^[A-Za-z0-9_-]+$(?!\n)"
TASK_ID_PATTERN = r"^[0-9A-Za-z]{26}~[A-Za-z0-9_=-]{1,36}$(?!\n)"
ID_PREFIX_PATTERN = r"^[0-9A-Za-z]{1,26}(?:~[A-Za-z0-9_=-]{0,36})?$(?!\n)"
BATCH_ID_PATTERN = r"^[0-9A-HJKMNP-TV-Z]{24}00~[A-Za-z0-9_=-]{1,36}$(?!\n)"
HEADER_NAME_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$(?!\n)"
"""RFC 9110, 5.6.2."""
HEADER_VALUE_PATTERN = r"^[!-~](?:[ -~]*[!-~])?$(?!\n)"
JSON_PATH_PATTERN = r"^\$(?:\.[^.\[\]\x00-\x1f\x7f]+|\[[0-9]{1,6}\])+$(?!\n)"
"""A path in JSON: names after dots, and places in lists, from 0, in brackets."""
MODEL_NAME_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9._:@+-]|/(?!/|$))*$(?!\n)"
INDEXED_PATTERN = r"^\$(?:\.[A-Za-z0-9_-]{1,64}){1,8}$(?!\n)"
"""A path to a searchable field of a payload."""
PATTERNS = {
    NAME_PATTERN: "text without control characters",
    SERVER_ID_PATTERN: "text without control characters and slashes; `.`, `..` and `cleanup` are reserved",
    TYPE_NAME_PATTERN: "letters, digits, dots, dashes and underscores, beginning with a letter or digit",
    POOL_NAME_PATTERN: "letters, digits, dashes and underscores",
    TASK_ID_PATTERN: "the id of a task, unchanged from the answer to its submission",
    ID_PREFIX_PATTERN: "the id of a task, or its beginning",
    BATCH_ID_PATTERN: "the id of a batch, unchanged from the answer to its submission",
    HEADER_NAME_PATTERN: "the name of a header, as in X-API-Key",
    HEADER_VALUE_PATTERN: "printable ASCII text without spaces around it",
    MODEL_NAME_PATTERN: "letters, digits, `.`, `_`, `:`, `@`, `+`, `-` and single slashes, as in acme/flux",
    INDEXED_PATTERN: "a path of at most 8 keys of letters, digits, dashes and underscores, as in $.order.customer",
    JSON_PATH_PATTERN: "a path, as in $.model.loaded or $.workers[0]",
}
"""What each pattern requires, in words: completes "must be …"."""

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN)]
ServerName = Annotated[str, Meta(min_length=1, max_length=128, pattern=SERVER_ID_PATTERN)]
"""An id that is a segment of a path, where `cleanup` and dots mean something else."""
DurationSeconds = Annotated[float, Meta(ge=0.001, le=7 * 86_400, extra={"unit": "seconds"})]
"""Seconds, from a millisecond to a week."""
Instant = (
    Annotated[int, Meta(ge=0, le=LAST_MILLISECOND, extra={"unit": "milliseconds since the epoch"})]
    | Annotated[datetime, Meta(tz=True)]
)
"""Milliseconds since the epoch, or ISO 8601 text with an offset."""
_FILTER_TEXT = "ISO 8601 text with an offset, as in 2026-01-31T12:00:00Z, or a time ago, as in 90s, 30m, 1h, 2d, 1w"
FilterInstant = (
    Annotated[int, Meta(ge=0, le=LAST_MILLISECOND, extra={"unit": "milliseconds since the epoch"})]
    | Annotated[
        str,
        Meta(
            max_length=64,
            extra_json_schema={"anyOf": [{"format": "date-time"}, {"pattern": RELATIVE_PATTERN}]},
            extra={"words": _FILTER_TEXT},
        ),
    ]
)
"""An instant in a filter, in lists and in commands alike."""
LONGEST_RUN = timedelta(days=366)
_DURATION_TEXT = "text as in 90s, 5m, 1.5h, 2d; up to 366 days"
FilterDuration = (
    Annotated[float, Meta(ge=0, le=LONGEST_RUN.total_seconds(), extra={"unit": "seconds"})]
    | Annotated[str, Meta(max_length=32, pattern=DURATION_PATTERN, extra={"words": _DURATION_TEXT})]
)
"""A duration in a filter, in lists and in commands alike."""
Labels = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]], Meta(max_length=32)
]


def instant(given: int | datetime | None, path: str) -> datetime | None:
    """Return an `Instant` of a client in UTC, None for None. Raises InvalidInput if UTC has no year for it.

    `path`: where it was given, as in `$.runAt`.
    """
    if isinstance(given, int):
        return from_milliseconds(given)
    try:
        return given.astimezone(UTC) if given is not None else None
    except OverflowError:
        raise InvalidInput(f"must lie in the years 1 to 9999 in UTC; given: {given}", path) from None


def filter_instant(given: int | str | None, now: datetime, path: str) -> datetime | None:
    """Return a `FilterInstant` of a client in UTC, None for None. Raises InvalidInput.

    `path`: where it was given, as in `$.filter.createdAfter`.
    """
    if given is None:
        return None
    try:
        return parse_instant(given, now)
    except ValueError:
        hint = "; write `+` as %2B in a URL" if isinstance(given, str) and " " in given else ""
        words = f"must be a whole number of milliseconds since the epoch, {_FILTER_TEXT}{hint}"
        raise InvalidInput(words, path) from None


def filter_duration(given: float | str | None, path: str) -> timedelta | None:
    """Return a `FilterDuration` of a client, None for None. Raises InvalidInput.

    `path`: where it was given, as in `$.filter.minRun`.
    """
    if given is None:
        return None
    try:
        found = parse_duration(given)
    except ValueError:
        found = None
    if found is None or found > LONGEST_RUN:
        raise InvalidInput(f"must be a number of seconds, or {_DURATION_TEXT}", path)
    return found
