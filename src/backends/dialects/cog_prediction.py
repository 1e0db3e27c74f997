"""Cog's predictions: what a model's schema says of its output, and what a prediction says of an attempt. Pure.

    {"id": "…", "status": "succeeded", "output": …, "logs": "…", "metrics": {"predict_time": 1.2}}
    {"id": "…", "status": "failed", "error": "…", "logs": "…", "metrics": {…}}
    {"id": "…", "status": "canceled", …}     {"id": "…", "status": "starting" or "processing", …}

Files come as data URIs, anywhere in the output. Each becomes a file of the result.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from ...events.envelope import NULL
from ...events.task_type import Accepts
from .contents import as_json, file_of
from .dialect import Answer, BadAnswer, Completed, Failed, FailedByBackend, File
from .reasons import shortened
from .results import seen
from .task_update import LONGEST_MESSAGE, NAN_IN_DATA, wrapped

LARGEST_SCHEMA = 4 * 1024 * 1024
"""Bytes. A model with a larger schema is called without knowing what it can do."""
MOST_FILES = 100
"""Files of one result: its event names each. Further ones stay data URIs."""
CANCELED = "the server cancelled the prediction"

LONGEST_SECONDS = 1e9
"""In a model: a longer time is none."""

Status: TypeAlias = Literal["starting", "processing", "succeeded", "failed", "canceled"]

_DATA_URI = re.compile(r"data:(?P<type>[^;,]{0,130})(?:;[^;,]{0,100}){0,5};base64,")
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
    id: Any = None
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
        return self.failed(prediction, reason, elapsed_ms)

    def failed(self, prediction: Prediction, reason: str, elapsed_ms: int) -> FailedByBackend:
        """Return the failure of a task whose prediction has ended, for this reason."""
        metadata = {**seen(self.server_id, "FAILED", elapsed_ms), **_measured(prediction), "message": reason}
        return FailedByBackend(wrapped(self.task_id, bytes(self._output(prediction)), **metadata), reason)


def _measured(prediction: Prediction) -> dict[str, Any]:
    """Return the metadata of a result that Cog knows: the time in the model, and its metrics."""
    metrics = msgspec.json.decode(prediction.metrics)
    if not isinstance(metrics, dict) or not metrics:
        return {}
    seconds = metrics.get("predict_time")
    times = {}
    if isinstance(seconds, float) and 0 <= seconds <= LONGEST_SECONDS:
        times["model_time"] = round(seconds * 1000)
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
    try:
        return _with_files(task_id, output)
    except RecursionError:
        raise BadAnswer("is nested too deep to be searched for files") from None


def _with_files(task_id: str, output: bytes) -> tuple[bytes, File | None, tuple[File, ...]]:
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


def is_data_uri(text: str) -> bool:
    """Return True for a text that begins like a base64 data URI."""
    return _DATA_URI.match(text) is not None


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
