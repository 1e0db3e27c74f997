"""Cog's predictions: what a model's schema says of its output, and what a prediction says of an attempt. Pure.

    {"id": "…", "status": "succeeded", "output": …, "logs": "…", "metrics": {"predict_time": 1.2}}
    {"id": "…", "status": "failed", "error": "…", "logs": "…", "metrics": {…}}
    {"id": "…", "status": "canceled", …}     {"id": "…", "status": "starting" or "processing", …}

Files come as data URIs, anywhere in the output. Each becomes a file of the result.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any, Literal, TypeAlias, TypeGuard

import msgspec
from msgspec import Raw, Struct

from ...events.envelope import NULL
from ...events.task_type import Accepts
from .contents import as_json, file_of
from .dialect import Answer, BadAnswer, Completed, Failed, FailedByBackend, File, Final, Update
from .reasons import shortened
from .results import seen
from .task_update import LONGEST_LINE, LONGEST_MESSAGE, NAN_IN_DATA, wrapped

LARGEST_SCHEMA = 4 * 1024 * 1024
"""Bytes. A model with a larger schema is called without knowing what it can do."""
MOST_FILES = 100
"""Files of one result: its event names each. Further ones stay data URIs."""
MOST_LINES = 500
"""Lines of a log that comes whole."""
LONGEST_LOG = 128 * 1024
"""Characters of a log that comes whole: one report may have 256 KiB."""
MOST_METRICS = 64
MOST_APPENDED = 100
"""Values of one metric that is appended to."""
LARGEST_METRIC = 1_000
"""Bytes of JSON of one value."""
CANCELED = "the server cancelled the prediction"

Status: TypeAlias = Literal["starting", "processing", "succeeded", "failed", "canceled"]

_DATA_URI = re.compile(r"data:(?P<type>[^;,]{0,130})(?:;[^;,]{0,100}){0,5};base64,")
_LINE_ENDS = re.compile(r"[\r\n]+")
_BLAME = re.compile(r"(Prediction failed: )+")
"""Cog puts this before the error of a model, sometimes twice."""
_encode = msgspec.json.Encoder().encode


class Model(Struct, frozen=True, kw_only=True):
    """What the schema of a model says."""

    is_known: bool = False
    """The server has shown a schema, so it checks inputs by it."""
    streams: bool = False
    concatenates: bool = False
    """Its output is a text in pieces."""


class Prediction(Struct, kw_only=True):
    """A prediction, or a snapshot of one."""

    status: Status
    output: Raw = NULL
    error: Any = None
    logs: Any = None
    metrics: Raw = NULL


_prediction = msgspec.json.Decoder(Prediction).decode


def read_model(schema: bytes) -> Model:
    """Return what the answer to `GET /openapi.json` says; an answer that is no schema says nothing."""
    if len(schema) > LARGEST_SCHEMA:
        return Model()
    try:
        content = as_json(schema).content
    except BadAnswer:
        return Model()
    predict = _at(content, "paths", "/predictions", "post")
    if not isinstance(predict, dict):
        return Model()
    output = _at(content, "components", "schemas", "Output")
    return Model(
        is_known=isinstance(_at(content, "components", "schemas", "Input"), dict),
        streams=predict.get("x-cog-streaming") is True,
        concatenates=isinstance(output, dict) and output.get("x-cog-array-display") == "concatenate",
    )


def _at(content: Any, *path: str) -> Any:
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def read_prediction(text: bytes) -> Prediction:
    """Return a prediction. Raises BadAnswer."""
    found = as_json(text)
    try:
        prediction = _prediction(found.text)
        if found.marked is not None and bytes(_prediction(found.marked).output) != bytes(prediction.output):
            raise BadAnswer(NAN_IN_DATA)
    except msgspec.ValidationError:
        status = found.content.get("status") if isinstance(found.content, dict) else None
        said = f"its status is {shortened(status, 40)!r}" if isinstance(status, str) else "it has no status"
        raise BadAnswer(f"is not a prediction: {said}") from None
    return prediction


class Verdict(Struct, frozen=True, kw_only=True):
    """What the end of a prediction means for the attempt."""

    task_id: str
    server_id: str
    concatenates: bool
    """As the model's schema says."""
    accepts: Accepts

    def of(self, prediction: Prediction, elapsed_ms: int) -> Answer:
        """Return the answer of a prediction that has ended. Raises BadAnswer."""
        match prediction.status:
            case "succeeded":
                return self._completed(prediction, elapsed_ms)
            case "failed":
                return self._failed(prediction, elapsed_ms)
            case "canceled":
                return Failed(kind="error", error=CANCELED)
            case _:
                raise BadAnswer("is a prediction that has not ended")

    def whole(self, prediction: Prediction, elapsed_ms: int) -> Answer | Final:
        """Return the answer of a prediction whose logs and metrics were not seen before. Raises BadAnswer."""
        answer = self.of(prediction, elapsed_ms)
        update = last_update(prediction)
        return answer if update is None else Final(update=update, answer=answer)

    def _completed(self, prediction: Prediction, elapsed_ms: int) -> Completed:
        data, file, files = with_files(self.task_id, bytes(self._output(prediction)))
        if file is not None and self.accepts == "json":
            raise BadAnswer(f"is {file.media_type}; the task's type accepts JSON only")
        metadata = {**seen(self.server_id, "FINISHED", elapsed_ms), **_measured(prediction)}
        return Completed(wrapped(self.task_id, data, **metadata), file=file, files=files)

    def _output(self, prediction: Prediction) -> Raw:
        return _concatenated(prediction.output) if self.concatenates else prediction.output

    def _failed(self, prediction: Prediction, elapsed_ms: int) -> FailedByBackend:
        error = prediction.error if isinstance(prediction.error, str) else ""
        reason = shortened(_BLAME.sub("", error, count=1).strip(), LONGEST_MESSAGE) or "the server reports failure"
        metadata = {**seen(self.server_id, "FAILED", elapsed_ms), **_measured(prediction), "message": reason}
        return FailedByBackend(wrapped(self.task_id, bytes(self._output(prediction)), **metadata), reason)


def _measured(prediction: Prediction) -> dict[str, Any]:
    """Return the metadata of a result that Cog knows: the time in the model, and its metrics."""
    metrics = msgspec.json.decode(prediction.metrics)
    if not isinstance(metrics, dict) or not metrics:
        return {}
    seconds = metrics.get("predict_time")
    times = {"model_time": round(seconds * 1000)} if _is_number(seconds) else {}
    return {**times, "custom_data": prediction.metrics}


def _concatenated(output: Raw) -> Raw:
    """Return pieces of text as one text; any other output as it is."""
    pieces = msgspec.json.decode(output)
    if isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces):
        return Raw(_encode("".join(pieces)))
    return output


def with_files(task_id: str, output: bytes) -> tuple[bytes, File | None, tuple[File, ...]]:
    """Return an output as data, with a reference in the place of each file; the file that it is; the files in it.

    An output without files is returned as it is.
    """
    if b'"data:' not in output:
        return output, None, ()
    content = msgspec.json.decode(output)
    path = f"/api/task/{task_id}/result/file"
    if isinstance(content, str) and (file := read_data_uri(content)) is not None:
        return _encode(_reference(path, file)), file, ()
    files: list[File] = []

    def replaced(part: Any) -> Any:
        match part:
            case str() if len(files) < MOST_FILES and (file := read_data_uri(part)) is not None:
                files.append(file)
                return _reference(f"{path}/{len(files) - 1}", file)
            case list():
                return [replaced(each) for each in part]
            case dict():
                return {name: replaced(each) for name, each in part.items()}
            case _:
                return part

    content = replaced(content)
    return _encode(content) if files else output, None, tuple(files)


def _reference(path: str, file: File) -> dict[str, Any]:
    return {"$ref": path, "mediaType": file.media_type, "bytes": len(file.content)}


def read_data_uri(text: str) -> File | None:
    """Return the file in a data URI (RFC 2397) that is base64, None for any other text."""
    found = _DATA_URI.match(text)
    if found is None:
        return None
    try:
        content = base64.b64decode(text[found.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return file_of(found["type"].strip().lower(), content)


# Progress


def last_update(prediction: Prediction) -> Update | None:
    """Return the log and the metrics of a prediction as progress; None without either."""
    logs = prediction.logs if isinstance(prediction.logs, str) else ""
    lines, notes = log_lines(logs)
    metrics = prediction.metrics if bytes(prediction.metrics).strip() not in (b"null", b"{}") else NULL
    if not lines and metrics == NULL:
        return None
    return Update(lines=lines, custom_data=metrics, notes=notes)


def log_lines(log: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the last lines of a log, and a note if some are left out."""
    lines = split_lines(log[-LONGEST_LOG:])
    kept = tuple(lines[-MOST_LINES:])
    is_cut = len(log) > LONGEST_LOG or len(lines) > MOST_LINES
    return kept, ("the first lines of the log were left out",) if is_cut else ()


def split_lines(log: str) -> list[str]:
    """Return the lines of a log that are not empty. A progress bar ends its lines with a carriage return."""
    return [shortened(line, LONGEST_LINE) for line in _LINE_ENDS.split(log) if line.strip()]


def piece_of_output(chunk: Any) -> str:
    """Return a piece of output as text: other JSON on a line of its own. A file is not shown: the result has it."""
    if isinstance(chunk, str):
        return "" if _DATA_URI.match(chunk) else chunk
    return "" if chunk is None or _has_file(chunk) else f"{_encode(chunk).decode()}\n"


def _has_file(content: Any) -> bool:
    match content:
        case str():
            return _DATA_URI.match(content) is not None
        case list():
            return any(map(_has_file, content))
        case dict():
            return any(map(_has_file, content.values()))
        case _:
            return False


class Metrics:
    """The metrics of a prediction as its events change them. What is too large for progress comes with the result."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def change(self, name: Any, value: Any, mode: Any) -> Raw | None:
        """Change a metric; return all of them, None if nothing changed."""
        if not isinstance(name, str) or len(name) > LARGEST_METRIC or len(_encode(value)) > LARGEST_METRIC:
            return None
        known = self._values.get(name)
        if name not in self._values and len(self._values) >= MOST_METRICS:
            return None
        match mode:
            case "increment" if _is_number(value) and (known is None or _is_number(known)):
                self._values[name] = (known or 0) + value
            case "append" if known is None or isinstance(known, list):
                self._values[name] = [*(known or []), value][-MOST_APPENDED:]
            case "replace" if value is None:
                self._values.pop(name, None)
            case "replace":
                self._values[name] = value
            case _:
                return None
        return Raw(_encode(self._values))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
