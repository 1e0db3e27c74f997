"""Conversions between instants and numbers or text, in integers: no float loses a millisecond.

A float of seconds has 53 bits. From 2038 on that is too few for `int(seconds * 1000)` to return the millisecond that
went in. All instants are in UTC, and later ones give numbers that are not smaller.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MILLISECOND = 253_402_300_799_999
"""The last one of the year 9999, the last year of `datetime`."""
RELATIVE_PATTERN = r"^-?[0-9]{1,9}[smhdw]$"
DURATION_PATTERN = r"^[0-9]{1,9}(?:\.[0-9]{1,6})?[smhdw]?$"
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhdw]?)", re.ASCII)
_RELATIVE = re.compile(r"-?([0-9]{1,9})([smhdw])", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


def milliseconds(instant: datetime) -> int:
    """Return whole milliseconds since the epoch, rounded down."""
    return (instant - EPOCH) // _MILLISECOND


def optional_milliseconds(instant: datetime | None) -> int | None:
    """Return whole milliseconds since the epoch, None for None."""
    return milliseconds(instant) if instant is not None else None


def microseconds(instant: datetime) -> int:
    """Return whole microseconds since the epoch."""
    return (instant - EPOCH) // _MICROSECOND


def whole_seconds(instant: datetime) -> int:
    """Return whole seconds since the epoch, rounded down."""
    return (instant - EPOCH) // _SECOND


def epoch_seconds(instant: datetime) -> float:
    """Return seconds since the epoch, to compare and to compute rates with; exact to 2 microseconds before 2500."""
    return (instant - EPOCH) / _SECOND


def from_milliseconds(number: int) -> datetime:
    """Return the instant so many milliseconds after the epoch. Raises OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(milliseconds=number)


def from_microseconds(number: int) -> datetime:
    """Return the instant so many microseconds after the epoch. Raises OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(microseconds=number)


def from_seconds(number: float) -> datetime:
    """Return the instant so many seconds after the epoch, to the nearest microsecond.

    Raises OverflowError outside the years 1 to 9999, and ValueError for what is not a number.
    """
    return EPOCH + timedelta(seconds=number)


def from_nanoseconds(number: int) -> datetime:
    """Return the instant so many nanoseconds after the epoch, rounded down to a microsecond."""
    return EPOCH + timedelta(microseconds=number // 1000)


def nanoseconds(duration: timedelta) -> int:
    """Return the nanoseconds of a duration, as NATS takes them."""
    return duration // _MICROSECOND * 1000


def iso(instant: datetime) -> str:
    """Return ISO 8601 text in UTC, with milliseconds (rounded down) and a `Z`; `instant` must be in UTC."""
    return instant.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_nats_time(text: str) -> datetime:
    """Return an RFC 3339 time in UTC with up to nine digits after the point, rounded down to a microsecond."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")


def parse_duration(given: float | str) -> timedelta:
    """Return a duration: a number of seconds, or text of one, or as in `90s`, `1.5h`, `2d`. Raises ValueError."""
    if not isinstance(given, str):
        return timedelta(seconds=given)
    found = _DURATION.fullmatch(given)
    if found is None:
        raise ValueError("not a duration")
    try:
        return float(found[1]) * _UNITS[found[2] or "s"]
    except OverflowError:
        raise ValueError("longer than any duration") from None


def parse_instant(given: int | str, now: datetime) -> datetime:
    """Return the instant that a client writes in a filter, in UTC.

    `1764460800000` is milliseconds since the epoch, also as text; `2026-01-31T12:00:00Z` is ISO 8601 with an offset;
    `30m` and `-30m` are 30 minutes before `now`, with the units s, m, h, d and w. What lies before 1970 is 1970. Raises
    ValueError for anything else, and for instants after the year 9999.
    """
    if isinstance(given, str):
        if found := _RELATIVE.fullmatch(given):
            count, unit = int(found[1]), _UNITS[found[2]]
            return EPOCH if count > (now - EPOCH) // unit else now - count * unit
        if not _NUMBER.fullmatch(given):
            return max(_parse_iso(given), EPOCH)
        given = int(given)
    if not 0 <= given <= LAST_MILLISECOND:
        raise ValueError("not an instant from 1970 to 9999")
    return from_milliseconds(given)


def _parse_iso(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("no offset")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("not in the years 1 to 9999") from None
