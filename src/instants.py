"""Conversions between instants and numbers or text, in integers: no float loses a millisecond.

A float of seconds has 53 bits. From 2038 on that is too few for `int(seconds * 1000)` to return the millisecond that
went in. All instants are in UTC, and later ones give numbers that are not smaller.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MILLISECOND = 253_402_300_799_999
"""The last one of the year 9999, the last year of `datetime`."""
_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


def milliseconds(instant: datetime) -> int:
    """Return whole milliseconds since the epoch, rounded down."""
    return (instant - EPOCH) // _MILLISECOND


def optional_milliseconds(instant: datetime | None) -> int | None:
    """Return whole milliseconds since the epoch, None for None."""
    return milliseconds(instant) if instant is not None else None


def whole_seconds(instant: datetime) -> int:
    """Return whole seconds since the epoch, rounded down."""
    return (instant - EPOCH) // _SECOND


def epoch_seconds(instant: datetime) -> float:
    """Return seconds since the epoch, to compare and to compute rates with; exact to 2 microseconds before 2500."""
    return (instant - EPOCH) / _SECOND


def from_milliseconds(number: int) -> datetime:
    """Return the instant so many milliseconds after the epoch. Raises OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(milliseconds=number)


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
