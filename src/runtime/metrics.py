"""The Prometheus metrics. Names are `taskstream_…`; durations are in seconds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

M = TypeVar("M", bound=MetricWrapperBase)

MEDIA_TYPE = "text/plain; version=0.0.4"
"""The one format that is served, whatever a client accepts; every Prometheus reads it. The server adds the charset."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter; Prometheus uses none
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
_FAMILY = re.compile(r"(?m)^(?=# HELP )")
_HEAD = re.compile(r"# HELP .*\n# TYPE .*\n")

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG_SECONDS = (*_SECONDS, 900, 3_600, 21_600, 86_400)

build_info = Gauge(
    "taskstream_build_info", "1; the version is in the labels", ["version", "python", "nats"], registry=REGISTRY
)
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
task_start_seconds = Histogram(
    "taskstream_task_start_seconds",
    "Time from the submission of a task to the start of its first attempt",
    ["pool"],
    buckets=_LONG_SECONDS,
    registry=REGISTRY,
)
task_end_seconds = Histogram(
    "taskstream_task_end_seconds",
    "Time from the submission of a task to its end",
    ["pool"],
    buckets=_LONG_SECONDS,
    registry=REGISTRY,
)
ended = Counter(
    "taskstream_tasks_ended",
    "Ends of tasks by status and, of failed ones, by kind of failure",
    ["pool", "status", "kind"],
    registry=REGISTRY,
)
dead_letters = Gauge("taskstream_dead_letters", "Dead letters; 10,000: as many or more", registry=REGISTRY)
attempts = Counter("taskstream_attempts", "Attempts by outcome", ["server", "outcome", "dialect"], registry=REGISTRY)
attempts_reported = Counter(
    "taskstream_attempts_reported",
    "Outcomes of attempts that a server had accepted: reported by callback or puller, or overdue",
    ["server", "outcome", "dialect"],
    registry=REGISTRY,
)
attempt_seconds = Histogram(
    "taskstream_attempt_seconds", "Time a server took for an attempt", ["server"], buckets=_SECONDS, registry=REGISTRY
)
running = Gauge("taskstream_attempts_running", "Attempts that take a slot now", ["server"], registry=REGISTRY)
slots = Gauge("taskstream_slots", "Slots of the servers of this worker by state", ["state"], registry=REGISTRY)
pool_free_slots = Gauge(
    "taskstream_pool_free_slots", "Slots of this worker's servers that are free for a pool", ["pool"], registry=REGISTRY
)
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
server_online = Gauge(
    "taskstream_server_online", "1 while a server of this worker is online, else 0", ["server"], registry=REGISTRY
)
server_maintenance = Gauge(
    "taskstream_server_maintenance", "1 while a server of this worker is in maintenance", ["server"], registry=REGISTRY
)
server_circuit = Gauge(
    "taskstream_server_circuit",
    "State of the circuit breaker of a server of this worker: 1 for the present one, else 0",
    ["server", "state"],
    registry=REGISTRY,
)
servers_removed = Counter(
    "taskstream_servers_removed",
    "Removals of servers: offline (for too long), cleanup, deleted (by an admin)",
    ["reason"],
    registry=REGISTRY,
)
servers_restored = Counter("taskstream_servers_restored", "Removed servers that were restored", registry=REGISTRY)
scheduler_lag = Gauge(
    "taskstream_scheduler_lag_events",
    "Events of the log that the scheduler's last report to this process does not reflect",
    registry=REGISTRY,
)
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
stream_messages = Gauge("taskstream_stream_messages", "Messages of a stream in NATS", ["stream"], registry=REGISTRY)
stream_bytes = Gauge("taskstream_stream_bytes", "Bytes of a stream in NATS", ["stream"], registry=REGISTRY)
disk_free = Gauge(
    "taskstream_disk_free_bytes", "Bytes free on the disk of a folder: data, index", ["folder"], registry=REGISTRY
)
disk_size = Gauge("taskstream_disk_size_bytes", "Bytes of that disk", ["folder"], registry=REGISTRY)
nats_connected = Gauge(
    "taskstream_nats_connected", "1 while this process is connected to NATS, else 0", registry=REGISTRY
)
clock_difference = Gauge(
    "taskstream_clock_difference_seconds",
    "How far NATS' clock is ahead of that of this process; 0 if the time of a request explains it",
    registry=REGISTRY,
)
alarms = Gauge(
    "taskstream_alarms", "Alarms of the service by kind, as `GET /api/alarms` lists them", ["kind"], registry=REGISTRY
)
processes_missing = Gauge(
    "taskstream_processes_missing", "Other processes of the same `taskstream up` that do not run now", registry=REGISTRY
)
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
files_swept = Counter(
    "taskstream_files_swept", "Files deleted because their end had come", ["reason"], registry=REGISTRY
)
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
webhook_oldest_waiting = Gauge(
    "taskstream_webhook_oldest_waiting_seconds",
    "Age of the oldest webhook delivery that waits; 0: none waits",
    registry=REGISTRY,
)
webhooks_disabled = Counter(
    "taskstream_webhooks_disabled", "Webhooks disabled because their receivers answered 410", registry=REGISTRY
)
schedule_runs = Counter(
    "taskstream_schedule_runs",
    "Runs of schedules by outcome: submitted, failed, missed",
    ["outcome"],
    registry=REGISTRY,
)
webhooks_paused = Gauge("taskstream_webhooks_paused", "Webhooks whose receivers asked for a pause", registry=REGISTRY)
webhook_lag_seconds = Histogram(
    "taskstream_webhook_lag_seconds",
    "Time from an event to its delivery",
    buckets=_LONG_SECONDS,
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


def _begin_at_zero() -> None:
    """Export the counters whose labels are known: `increase()` does not see a first event that makes its series."""
    known: dict[Counter, tuple[str, ...]] = {
        servers_removed: ("offline", "cleanup", "deleted"),
        schedule_runs: ("submitted", "failed", "missed"),
        webhook_tries: ("delivered", "retried", "paused", "failed", "gone"),
    }
    for counter, values in known.items():
        for value in values:
            labelled(counter, value)


_begin_at_zero()


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
