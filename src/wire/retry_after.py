"""The `Retry-After` header."""

from __future__ import annotations

import email.utils
from datetime import datetime, timedelta


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Return the pause a `Retry-After` header asks for: seconds or a date (RFC 9110, 10.2.3); None for neither."""
    if not value:
        return None
    try:
        if value.strip().isdigit():
            return timedelta(seconds=int(value))
        return max(email.utils.parsedate_to_datetime(value) - now, timedelta(0))
    except (ValueError, TypeError, OverflowError):
        return None
