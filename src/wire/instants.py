"""Instants as text."""

from __future__ import annotations

from datetime import datetime


def iso(instant: datetime) -> str:
    """Return ISO 8601 in UTC, with milliseconds and a `Z`."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"
