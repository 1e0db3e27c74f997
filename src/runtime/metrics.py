"""The Prometheus metrics. Names are `taskstream_…`; durations are in seconds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

M = TypeVar("M", bound=MetricWrapperBase)

REGISTRY = CollectorRegistry()
_FAMILY = re.compile(r"(?m)^(?=# HELP )")
_HEAD = re.compile(r"# HELP .*\n# TYPE .*\n")

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

requests = Counter("taskstream_http_requests", "Requests answered", ["method", "route", "status"], registry=REGISTRY)
request_seconds = Histogram(
    "taskstream_http_request_seconds", "Time to answer a request", ["route"], buckets=_SECONDS, registry=REGISTRY
)
connections = Gauge("taskstream_http_connections", "Open connections of clients", registry=REGISTRY)
connections_refused = Counter(
    "taskstream_http_connections_refused",
    "Connections refused or closed because they exceeded a limit",
    ["reason"],
    registry=REGISTRY,
)
submitted = Counter("taskstream_tasks_submitted", "Tasks accepted", ["pool", "priority"], registry=REGISTRY)
attempts = Counter("taskstream_attempts", "Attempts by outcome", ["server", "outcome"], registry=REGISTRY)
attempt_seconds = Histogram(
    "taskstream_attempt_seconds", "Time a server took for an attempt", ["server"], buckets=_SECONDS, registry=REGISTRY
)
running = Gauge("taskstream_attempts_running", "Attempts that take a slot now", ["server"], registry=REGISTRY)
queue_returns = Counter("taskstream_queue_returns", "Queue messages nak'ed unplaced", ["reason"], registry=REGISTRY)
queue_depth = Gauge(
    "taskstream_queue_depth",
    "All waiting tasks, by what they wait for first. Every process has the same numbers: aggregate with max",
    ["pool", "priority", "reason"],
    registry=REGISTRY,
)
oldest_waiting = Gauge(
    "taskstream_oldest_waiting_seconds",
    "How long the oldest task has waited that could start, likewise",
    ["pool"],
    registry=REGISTRY,
)
queue_depth_age = Gauge(
    "taskstream_queue_depth_age_seconds",
    "Age of the numbers of the queue's depth; +Inf: no scheduler has reported to this process",
    registry=REGISTRY,
)
servers = Gauge("taskstream_servers", "Registered servers by state", ["state"], registry=REGISTRY)
servers_removed = Counter(
    "taskstream_servers_removed",
    "Removals of servers: offline (for too long), cleanup, deleted (by an admin)",
    ["reason"],
    registry=REGISTRY,
)
servers_restored = Counter("taskstream_servers_restored", "Removed servers that were restored", registry=REGISTRY)
projection_lag = Gauge(
    "taskstream_projection_lag_events",
    "Events of the log that a projection does not reflect yet",
    ["projection"],
    registry=REGISTRY,
)
index_lag = Gauge(
    "taskstream_index_lag_events",
    "Events of the log that the index of this process does not reflect",
    registry=REGISTRY,
)
index_rows = Gauge("taskstream_index_rows", "Tasks in the index of this process", registry=REGISTRY)
index_flush_seconds = Histogram(
    "taskstream_index_flush_seconds", "Time to store changes of the index", buckets=_SECONDS, registry=REGISTRY
)
index_rebuilds = Counter(
    "taskstream_index_rebuilds",
    "Times that the index of this process was discarded and built again: another format or log, or a damaged file",
    registry=REGISTRY,
)
store_used = Gauge("taskstream_store_used_bytes", "Bytes used of the store's tightest limit", registry=REGISTRY)
store_limit = Gauge("taskstream_store_limit_bytes", "The store's tightest limit; NaN: unknown", registry=REGISTRY)
store_free = Gauge("taskstream_store_free_bytes", "Bytes free under that limit; NaN: unknown", registry=REGISTRY)
store_accepting = Gauge("taskstream_store_accepting", "1 while the store takes new work, else 0", registry=REGISTRY)
service_halted = Gauge(
    "taskstream_service_halted",
    "1 where a background service has stopped because it cannot read an event, else 0",
    ["service"],
    registry=REGISTRY,
)
streams_open = Gauge(
    "taskstream_streams_open", "Open event streams, waiting requests, WebSockets and subscriptions", registry=REGISTRY
)
streams_refused = Counter(
    "taskstream_streams_refused",
    "Streams refused by the limit of a user or of the process",
    ["limit"],
    registry=REGISTRY,
)
results_swept = Counter("taskstream_results_swept", "Large results deleted to which no event refers", registry=REGISTRY)
held = Gauge("taskstream_tasks_held", "Tasks that are held, and so in no queue", registry=REGISTRY)
released = Counter("taskstream_tasks_released", "Held tasks released by the scheduler", registry=REGISTRY)
source_renewals = Counter(
    "taskstream_source_renewals", "Times the sources of the queue were renewed", registry=REGISTRY
)
webhook_tries = Counter(
    "taskstream_webhook_tries",
    "Webhook calls by outcome: delivered, retried, paused (no try was spent), failed (no more tries), gone (410)",
    ["outcome"],
    registry=REGISTRY,
)
webhook_waiting = Gauge("taskstream_webhook_deliveries_waiting", "Webhook deliveries that wait", registry=REGISTRY)
webhooks_paused = Gauge("taskstream_webhooks_paused", "Webhooks whose receivers asked for a pause", registry=REGISTRY)
webhook_lag_seconds = Histogram(
    "taskstream_webhook_lag_seconds",
    "Time from an event to its delivery",
    buckets=(*_SECONDS, 900, 3_600, 21_600, 86_400),
    registry=REGISTRY,
)


restarts = Gauge(
    "taskstream_process_restarts", "Times that `taskstream up` has started this process again", registry=REGISTRY
)


_children: dict[MetricWrapperBase, dict[tuple[str | int, ...], Any]] = {}


def labelled(metric: M, *values: str | int) -> M:
    """Return the child of a metric with these labels. The look-up is cached until `keep` drops the child."""
    children = _children.get(metric)
    if children is None:
        children = _children[metric] = {}
    child: M | None = children.get(values)
    if child is None:
        child = children[values] = metric.labels(*values)
    return child


def keep(metric: MetricWrapperBase, known: Collection[str | int]) -> None:
    """Drop the children of a metric whose first label is not one of the known values: what they count is gone."""
    children = _children.get(metric, {})
    for values in [values for values in children if values[0] not in known]:
        del children[values]
        metric.remove(*values)


class _OfProcess(Collector):
    """The metrics of this process, with its name as a label."""

    def __init__(self, process: str) -> None:
        self._process = process

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "process": self._process}) for sample in family.samples
            ]
            yield family


def page(process: str = "") -> str:
    """Return all metrics in Prometheus' text format, labelled with the name of the process unless it is empty."""
    registry = REGISTRY
    if process:
        registry = CollectorRegistry()
        registry.register(_OfProcess(process))
    return generate_latest(registry).decode()


def merged(pages: Iterable[str]) -> str:
    """Return the pages of several processes as one: the samples of a metric must follow each other."""
    families: dict[str, list[str]] = {}
    for text in pages:
        for part in _FAMILY.split(text):
            if match := _HEAD.match(part):
                families.setdefault(match[0], []).append(part[match.end() :])
    return "".join(head + "".join(samples) for head, samples in families.items())
