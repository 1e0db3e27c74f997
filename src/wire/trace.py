"""The headers that follow a request from its caller through this service to servers and receivers of webhooks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

_TRACEPARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
SAMPLED = 0x01
"""The one flag of version 00; others are sent as 0."""


class Trace(Struct, frozen=True):
    """The request that something is done for."""

    request_id: str = ""
    """Empty: no request, a schedule began it."""
    traceparent: str = ""
    """Empty: the caller sent none that is valid."""

    def headers(self) -> dict[str, str]:
        """Return the headers to send along."""
        named = {"X-Request-Id": self.request_id, "traceparent": self.traceparent}
        return {name: value for name, value in named.items() if value}


def read_traceparent(values: Sequence[bytes]) -> str:
    """Return the valid `traceparent` among a request's headers of that name, as version 00; else an empty string.

    W3C Trace Context, 3.2: one header; version 00 has exactly four fields, a later one at least these four; ff is no
    version, and zeros are no ids.
    """
    if len(values) != 1 or (found := _TRACEPARENT.fullmatch(values[0].strip(b" \t"))) is None:
        return ""
    version, trace, parent, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None) or not trace.strip(b"0") or not parent.strip(b"0"):
        return ""
    return f"00-{trace.decode()}-{parent.decode()}-{int(flags, 16) & SAMPLED:02x}"
