"""A task as a prediction of Replicate's API. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..events.task import FacadeRequest
from ..events.task_type import TypeDefined
from ..instants import iso
from ..projections.task_reader import TaskDetail
from ..projections.task_view import Status, TaskView
from .model_versions import is_iterator, model_name, version_id

PredictionStatus = Literal["starting", "processing", "succeeded", "failed", "canceled"]
STATUSES: dict[Status, PredictionStatus] = {
    "WAITING": "starting",
    "PROCESSING": "processing",
    "FINISHED": "succeeded",
    "FAILED": "failed",
    "CANCELLED": "canceled",
}
"""No others: python 1.0.7 takes only these five, and its waits end only with the last three."""
PREFIX = "/replicate/v1"
HIDDEN = "hidden"
"""Version of a model that has none any more."""
BAR = 10
"""Characters of a progress bar."""
LONGEST_LOGS = 256 * 1024
"""Characters; the last ones of longer logs."""
_FILE_PATH = re.compile(r"/api/task/[^/]+/result/file(?:/([0-9]{1,3}))?", re.ASCII)
_FILE_KEYS = {"$ref", "mediaType", "bytes"}


class ReportPart(NamedTuple):
    """What one event of an attempt adds to the logs and the output."""

    sequence: int
    lines: tuple[str, ...]
    output: str
    progress: float | None


class PredictionLinks(Struct, kw_only=True):
    """Where a client finds more. Absolute URLs."""

    get: str
    cancel: str
    web: str
    stream: str | UnsetType = UNSET


class ReplicatePrediction(Struct, kw_only=True):
    """A prediction, with the fields that clients require."""

    id: str
    model: str
    version: str
    input: Any
    logs: str
    output: Any
    error: str | None
    status: PredictionStatus
    created_at: str
    started_at: str | None
    completed_at: str | None
    metrics: dict[str, float]
    urls: PredictionLinks
    source: Literal["api"] = "api"
    data_removed: bool = False
    """True: the result is not here; it is past its retention, or too large for a list."""
    deadline: str | UnsetType = UNSET
    deployment: str | UnsetType = UNSET
    webhook: str | UnsetType = UNSET
    webhook_events_filter: list[str] | UnsetType = UNSET


FileUrl = Callable[[int | None], str]
"""Returns the URL of a result's file: its number, None for the file that the whole result is."""


class PredictionFacts(NamedTuple):
    """What is known of a prediction beside its task."""

    definition: TypeDefined | None
    """Of its type; None: it is not defined any more."""
    reports: Sequence[ReportPart]
    data: Raw | None
    """The result's `data`, or of a running attempt the last one reported; None: there is none, or it was not read."""
    has_unread: bool = False
    """The result was not read: it is too large for a list, or gone."""


def prediction_of(
    detail: TaskDetail, seen: PredictionFacts, base: str, file_url: FileUrl, stream: str | None
) -> ReplicatePrediction:
    """Return a task as a prediction. `base`: of its URLs. `stream`: that of its stream."""
    view, facade = detail.view, detail.facade or FacadeRequest(name="replicate")
    here = f"{base}{PREFIX}/predictions/{detail.ref.id}"
    plan = view.plan
    status = STATUSES[view.status]
    started = view.started_at if status != "starting" else None
    return ReplicatePrediction(
        id=detail.ref.id,
        model=_model(view, facade, seen.definition),
        version=facade.metadata.get("version") or (version_id(seen.definition) if seen.definition else HIDDEN),
        input=detail.payload,
        logs=logs_of(seen.reports, view),
        output=output_of(view.status, seen, file_url),
        error=view.error if status == "failed" else None,
        status=status,
        created_at=iso(view.created_at),
        started_at=iso(started) if started else None,
        completed_at=iso(view.ended_at) if view.ended_at else None,
        metrics=_metrics(view),
        urls=PredictionLinks(
            get=here,
            cancel=f"{here}/cancel",
            web=f"{base}/console/#/tasks/{detail.ref.id}",
            stream=stream if stream is not None else UNSET,
        ),
        data_removed=seen.has_unread,
        deadline=iso(plan.ends_by) if plan and plan.ends_by else UNSET,
        deployment=facade.model if facade.endpoint == "deployments" else UNSET,
        webhook=facade.webhook or UNSET,
        webhook_events_filter=list(facade.webhook_events) or UNSET,
    )


def starting(prediction: ReplicatePrediction) -> ReplicatePrediction:
    """Return a prediction as one that has not begun.

    A client that asked to wait takes every other status for the end, and the output then for the whole.
    """
    prediction.status = "starting"
    prediction.output = prediction.started_at = None
    return prediction


def _model(view: TaskView, facade: FacadeRequest, definition: TypeDefined | None) -> str:
    if facade.name == "replicate" and facade.model:
        return facade.model
    return str(model_name(definition)) if definition is not None else f"taskstream/{view.task_type}"


def _metrics(view: TaskView) -> dict[str, float]:
    if view.ended_at is None:
        return {}
    metrics = {"total_time": _seconds(view.created_at, view.ended_at)}
    if view.started_at is not None:
        metrics["predict_time"] = _seconds(view.started_at, view.ended_at)
    return metrics


def _seconds(since: datetime, until: datetime) -> float:
    return max(0.0, round((until - since).total_seconds(), 3))


# Logs


def progress_line(percent: float) -> str:
    """Return a percentage as a line of `tqdm`, which clients read progress from."""
    whole = max(0, min(100, int(percent)))
    bar = "█" * (whole * BAR // 100)
    return f"{whole:3d}%|{bar:<{BAR}}| {whole}/100"


def logs_of(reports: Sequence[ReportPart], view: TaskView) -> str:
    """Return the log of an attempt: its lines, then its progress, if it reported any."""
    lines = [line for report in reports for line in report.lines]
    known = [report.progress for report in reports if report.progress is not None]
    if known:
        latest = view.progress if view.progress is not None else known[-1]
        lines.append(progress_line(latest))
    text = "\n".join(lines)
    return text if len(text) <= LONGEST_LOGS else text[-LONGEST_LOGS:].partition("\n")[2]


# Output


def output_of(status: Status, seen: PredictionFacts, file_url: FileUrl) -> Any:
    """Return the output of a prediction: JSON, None if there is none yet.

    An iterator's is a list to which parts are only added, so a client that polls misses none.
    """
    if is_iterator(seen.definition):
        return _parts_of(status, seen, file_url)
    if status not in ("FINISHED", "FAILED") or seen.data is None:
        return None
    return with_urls(seen.data, file_url)


def _parts_of(status: Status, seen: PredictionFacts, file_url: FileUrl) -> list[Any] | None:
    data = msgspec.json.decode(with_urls(seen.data, file_url)) if seen.data is not None else None
    if isinstance(data, list):
        return data
    pieces = [report.output for report in seen.reports if report.output]
    if status == "FINISHED" and data is not None:
        if not isinstance(data, str):
            return pieces or [data]
        whole = "".join(pieces)
        if not data.startswith(whole):
            return [data]
        return [*pieces, data[len(whole) :]] if len(data) > len(whole) else pieces
    return pieces or None


def with_urls(data: Raw, file_url: FileUrl) -> Raw:
    """Return data with a URL in the place of each of the result's files."""
    if b'"$ref"' not in bytes(data):
        return data
    return Raw(msgspec.json.encode(_replaced(msgspec.json.decode(data), file_url)))


def _replaced(value: Any, file_url: FileUrl) -> Any:
    match value:
        case {"$ref": str(path), "mediaType": str()} if value.keys() == _FILE_KEYS and (
            found := _FILE_PATH.fullmatch(path)
        ):
            return file_url(int(found[1]) if found[1] is not None else None)
        case dict():
            return {name: _replaced(each, file_url) for name, each in value.items()}
        case list():
            return [_replaced(each, file_url) for each in value]
        case _:
            return value
