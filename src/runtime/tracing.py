"""Spans of submissions, attempts, calls and deliveries, exported by OpenTelemetry if its variables ask for it.

    submit task ──► attempt task (linked) ──► call server ──► the server, by `traceparent`
                └─► deliver webhook ──► the receiver, likewise

Without these variables nothing of OpenTelemetry is imported, and `start_tracing` returns None. Spans are exported by a
thread, from a queue of bounded length: a collector that fails or hangs loses spans, and delays nothing.
"""

from __future__ import annotations

import structlog

from ..settings import traces_protocol, wants_traces
from .spans import Tracing

log = structlog.get_logger(__name__)


def start_tracing(release: str, process: str = "") -> Tracing | None:
    """Return what begins spans; None if none are wanted. `process`: as in `worker-1`; empty: it runs alone."""
    if not wants_traces():
        return None
    if (protocol := traces_protocol()) not in ("", "http/protobuf"):
        log.warning(
            "tracing.off", reason=f"OTLP by {protocol} is not supported", action="use http/protobuf, to port 4318"
        )
        return None
    try:
        from .otel import Exported  # noqa: PLC0415 - only then
    except ModuleNotFoundError as error:
        log.warning("tracing.off", reason=str(error), action="install taskstream[otel]")
        return None
    return Exported(release, process)
