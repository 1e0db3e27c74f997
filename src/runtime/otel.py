"""Spans by OpenTelemetry's SDK. Imported only if its variables ask for traces."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from ..wire.trace import TraceContext
from .spans import TraceSpan, Tracing

log = structlog.get_logger(__name__)

CLOSE_SECONDS = 3.0
"""How long the end of a process waits for the last spans to be exported."""
ROOT = Context()
"""Nothing: neither a parent nor what a library has set."""


class ExportedSpan:
    """A span of the SDK, as `TraceSpan` describes it."""

    __slots__ = ("_context", "_span")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._context: TraceContext | None = None

    @property
    def context(self) -> TraceContext:
        if self._context is None:
            found = self._span.get_span_context()
            parent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags & TraceFlags.SAMPLED:02x}"
            self._context = TraceContext(parent, found.trace_state.to_header())
        return self._context

    def as_parent(self) -> Context:
        return trace.set_span_in_context(self._span, ROOT)

    def set_outcome(self, outcome: str, *, failed: bool = False) -> None:
        self._span.set_attribute("taskstream.outcome", outcome)
        if failed:
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        if self._span.is_recording():  # the SDK warns of a second end
            self._span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.set_outcome(kind.__name__, failed=True)
        self.end()


class Exported(Tracing):
    """Spans exported by OTLP over HTTP, as OTEL_EXPORTER_OTLP_…, OTEL_BSP_… and OTEL_TRACES_SAMPLER say."""

    def __init__(self, release: str, process: str = "") -> None:
        named = {SERVICE_NAME: "taskstream", SERVICE_VERSION: release}
        if process:
            named["service.instance.id"] = process
        resource = Resource.create({**named, **OTELResourceDetector().detect().attributes})
        # Without shutdown_on_exit: it would wait for a collector that hangs.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("taskstream", release)

    def submission(self, caller: TraceContext, *, sent: str, is_batch: bool = False) -> ExportedSpan:
        attributes: dict[str, AttributeValue] = {"messaging.operation.type": "send", "messaging.message.id": sent}
        name = "submit batch" if is_batch else "submit task"
        return self._begin(name, SpanKind.PRODUCER, _remote(caller), attributes)

    def attempt(
        self, submitted: TraceContext, *, task_id: str, task_type: str, pool: str, attempt: int
    ) -> ExportedSpan:
        attributes: dict[str, AttributeValue] = {
            "messaging.operation.type": "process",
            "messaging.destination.name": pool,
            "messaging.message.id": task_id,
            "taskstream.task.type": task_type,
            "taskstream.attempt": attempt,
        }
        return self._begin("attempt task", SpanKind.CONSUMER, _remote(submitted), attributes, is_linked=True)

    def call(self, attempt: TraceSpan, *, server_id: str, dialect: str) -> ExportedSpan:
        assert isinstance(attempt, ExportedSpan)
        attributes = {"taskstream.server": server_id, "taskstream.dialect": dialect}
        return ExportedSpan(
            self._tracer.start_span("call server", attempt.as_parent(), kind=SpanKind.CLIENT, attributes=attributes)
        )

    def delivery(self, submitted: TraceContext, *, delivery_id: str, event: str) -> ExportedSpan:
        attributes: dict[str, AttributeValue] = {"messaging.message.id": delivery_id, "taskstream.event": event}
        return self._begin("deliver webhook", SpanKind.CLIENT, _remote(submitted), attributes)

    async def close(self) -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            loop.call_soon_threadsafe(ended.set)

        # A thread of its own, which nothing joins at the end of the process.
        threading.Thread(target=shut_down, name="tracing-close", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await ended.wait()
        except TimeoutError:
            log.warning("tracing.spans-lost", reason=f"the collector did not answer within {CLOSE_SECONDS:g} s")

    def _begin(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        attributes: dict[str, AttributeValue],
        *,
        is_linked: bool = False,
    ) -> ExportedSpan:
        context = ROOT if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), ROOT)
        links = [Link(parent)] if is_linked and parent is not None else None
        attributes["messaging.system"] = "taskstream"
        return ExportedSpan(self._tracer.start_span(name, context, kind=kind, attributes=attributes, links=links))


def _remote(context: TraceContext) -> SpanContext | None:
    """Return what a valid `traceparent` and `tracestate` say; None if there is none."""
    if not context.parent:
        return None
    _, trace_id, span_id, flags = context.parent.split("-")
    state = TraceState.from_header([context.state]) if context.state else None
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)
