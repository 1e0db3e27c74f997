"""The headers that follow a request from its caller through this service to servers and receivers of webhooks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

_TRACEPARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_MEMBER = re.compile(
    r"(?P<key>[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
MOST_MEMBERS = 32
"""Of a `tracestate`, by the standard."""
LONGEST_STATE = 512
"""Characters of a `tracestate` that are passed on: as many as the standard asks for."""
LARGE_MEMBER = 128
"""Characters from which on a member of a longer one is dropped first."""
SAMPLED = 0x01
"""The one flag of version 00; others are sent as 0."""


class TraceContext(Struct, frozen=True):
    """A place in a trace, as W3C Trace Context sends it."""

    parent: str = ""
    """`traceparent`; empty: the caller sent none that is valid."""
    state: str = ""
    """`tracestate`; empty without a `traceparent`."""


NO_CONTEXT = TraceContext()


class Trace(Struct, frozen=True):
    """The request that something is done for."""

    request_id: str = ""
    """Empty: no request, a schedule began it."""
    context: TraceContext = NO_CONTEXT

    def headers(self) -> dict[str, str]:
        """Return the headers to send along."""
        context = self.context
        named = {"X-Request-Id": self.request_id, "traceparent": context.parent, "tracestate": context.state}
        return {name: value for name, value in named.items() if value}


def read_context(parents: Sequence[bytes], states: Sequence[bytes]) -> TraceContext:
    """Return the trace context of a request's headers `traceparent` and `tracestate`; an invalid one is ignored."""
    parent = read_traceparent(parents)
    return TraceContext(parent, read_tracestate(states)) if parent else NO_CONTEXT


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


def read_tracestate(values: Sequence[bytes]) -> str:
    """Return the `tracestate` of a request's headers of that name, without spaces and shortened to LONGEST_STATE.

    An empty string if any member is invalid, a key comes twice, or there are more than MOST_MEMBERS. W3C Trace Context
    (level 2), 3.3: of one that is too long, large members are dropped first, then the last ones.
    """
    text = b",".join(values).decode("latin-1")
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {match["key"] for match in found if match is not None}
    if len(members) > MOST_MEMBERS or len(keys) != len(members):
        return ""
    if len(",".join(members)) > LONGEST_STATE:
        members = [member for member in members if len(member) <= LARGE_MEMBER]
    while len(",".join(members)) > LONGEST_STATE:
        members.pop()
    return ",".join(members)
