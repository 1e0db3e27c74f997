"""Values as text for people. Nothing here writes a control character: what tasks and servers say is hostile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from ..instants import from_milliseconds, iso

_FORMAT_CHARACTERS = (
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
"""Characters that reorder, hide or break text: bidirectional controls, line separators, invisible ones, surrogates."""
_UNSAFE = re.compile(f"[\x00-\x1f\x7f-\x9f{_FORMAT_CHARACTERS}]")
_UNSAFE_LINES = re.compile(f"[\x00-\x09\x0b-\x1f\x7f-\x9f{_FORMAT_CHARACTERS}]")
NONE = "-"
STYLES = {
    "FINISHED": "green",
    "FAILED": "red",
    "CANCELLED": "dim",
    "PROCESSING": "cyan",
    "WAITING": "yellow",
    "online": "green",
    "offline": "red",
    "maintenance": "yellow",
    "open": "red",
    "half-open": "yellow",
    "delivered": "green",
    "failed": "red",
    "waiting": "yellow",
    "ok": "green",
    "degraded": "yellow",
    "critical": "red",
    "warning": "yellow",
}
"""Colour of a word that is a state."""


class Styled(NamedTuple):
    """A text with a style of rich."""

    text: str
    style: str = ""


def plain(value: object, *, lines: bool = False) -> str:
    """Return a value as text without control characters: each is shown as an escape, such as `\\x1b`.

    `lines`: line feeds stay.
    """
    return (_UNSAFE_LINES if lines else _UNSAFE).sub(_escape, str(value))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0])
    return named or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    )


def json_line(value: bytes | msgspec.Raw) -> str:
    """Return a JSON text as one line: the same value, with control characters written as escapes of JSON."""
    text = msgspec.json.format(bytes(value), indent=-1).decode(errors="replace")
    return _UNSAFE.sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))


def state(value: object) -> Styled:
    """Return a state in its colour."""
    return Styled(plain(value), STYLES.get(str(value), ""))


def instant(value: object) -> datetime | None:
    """Return an instant of the API: milliseconds since the epoch, or ISO 8601. None for anything else."""
    try:
        if isinstance(value, bool):
            return None
        if isinstance(value, int | float):
            return from_milliseconds(int(value))
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            return found.astimezone(UTC) if found.tzinfo else None
    except (ValueError, OverflowError):
        pass
    return None


def when(value: object, now: datetime, *, exact: bool = False) -> str:
    """Return how long ago an instant of the API was, or how far away it is: `5m ago`, `in 2h`. `exact`: ISO 8601."""
    at = instant(value)
    if at is None:
        return NONE
    if exact:
        return iso(at)
    apart = now - at
    if apart < timedelta(0):
        return f"in {_largest(-apart)}" if apart < timedelta(seconds=-1) else "now"
    return f"{_largest(apart)} ago" if apart >= timedelta(seconds=1) else "now"


def _largest(apart: timedelta) -> str:
    seconds = int(apart.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def clock_time(value: object) -> str:
    """Return an instant of the API as local date and time with milliseconds."""
    at = instant(value)
    return NONE if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def duration(given: timedelta | float | None) -> str:
    """Return a duration, or seconds, in its two largest units: `850ms`, `12.3s`, `5m 3s`, `2h 5m`, `3d 4h`."""
    if given is None:
        return NONE
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes}m" if minutes else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h" if hours else f"{days}d"


def between(start: object, end: object, now: datetime) -> str:
    """Return the time from one instant of the API to another, or to now."""
    first, last = instant(start), instant(end) or now
    return NONE if first is None else duration(max(last - first, timedelta(0)))


def size(count: object) -> str:
    """Return bytes in units of 1,024."""
    if not isinstance(count, int | float):
        return NONE
    left = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if left < 1024:
            return f"{left:.0f} {unit}" if unit == "B" or left >= 100 else f"{left:.1f} {unit}"
        left /= 1024
    return f"{left:.1f} TiB"


def number(value: object, digits: int = 0) -> str:
    """Return a number with separators of thousands."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else plain(value)
    return f"{value:,.{digits}f}"


def words(values: Iterable[object] | None) -> str:
    """Return a list as text."""
    return ", ".join(plain(value) for value in values or ()) or NONE


def pairs(given: Mapping[str, object] | None) -> str:
    """Return `a=1, b=2` for an object."""
    return ", ".join(f"{plain(name)}={plain(value)}" for name, value in (given or {}).items()) or NONE


def shown(value: Any) -> str:
    """Return any value of the API: JSON for what is no text, `-` for null."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return json_line(msgspec.json.encode(value))
