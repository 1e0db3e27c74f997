"""Headers of calls to servers that a registration may not set."""

HEADERS_IN_USE = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect",
        "host", "idempotency-key", "keep-alive", "range", "te", "traceparent", "tracestate", "trailer",
        "transfer-encoding", "upgrade", "user-agent", "x-request-id",
    }
)  # fmt: skip
"""Another value would break calls."""


def is_in_use(name: str) -> bool:
    """Return True if calls use a header for a purpose of their own. `name`: in lower case."""
    return name in HEADERS_IN_USE or name.startswith(("x-ai-", "proxy-", "sec-"))
