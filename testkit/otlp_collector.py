"""A collector of OpenTelemetry's spans: takes OTLP over HTTP, and keeps what it received."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from .http_server import HttpServer
from .waiting import wait_until


class ReceivedSpan(NamedTuple):
    """A span as it was exported."""

    name: str
    kind: str
    process: str
    """`service.instance.id` of its resource."""
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: it has none."""
    state: str
    """`tracestate`."""
    links: tuple[tuple[str, str], ...]
    """Trace id and span id of each."""
    attributes: dict[str, Any]
    is_error: bool
    began: int
    ended: int
    """Nanoseconds since the epoch."""

    @property
    def traceparent(self) -> str:
        """What its receiver should have got."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class OtlpCollector(HttpServer):
    """Keeps the spans that it gets; answers nothing until `let_go` is set, which it is at first."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[ReceivedSpan] = []
        self.requests = 0
        self.let_go = asyncio.Event()
        self.let_go.set()

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/traces", self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests += 1
        await self.let_go.wait()
        assert request.content_type == "application/x-protobuf"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_received(span, named) for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, name: str) -> list[ReceivedSpan]:
        """Return the spans with a name, in the order in which they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began)

    async def has(self, **counts: int) -> None:
        """Wait until it has at least so many spans of these names; `_` stands for a space."""

        def are_there() -> bool:
            return all(len(self.named(name.replace("_", " "))) >= count for name, count in counts.items())

        await wait_until(are_there, f"the spans {counts}")


def _received(span: SpanMessage, named: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        process=str(named.get("service.instance.id", "")),
        service=str(named.get("service.name", "")),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        state=span.trace_state,
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_attributes(span.attributes),
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
    )


def _attributes(given: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in given}
