"""Schemas of what has no body of a route: events, results, messages of streams and webhooks, calls of servers.

Unions have a discriminator, so generated clients know the fields of each kind.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from msgspec import Raw, Struct

from ...backends.dialects.task_update import STATUSES
from ...events.task import TaskEvent

REF = "#/components/schemas/{name}"
STREAM_TYPE = "text/event-stream"
EVENTS = tuple(event.__name__ for event in get_args(TaskEvent))
NOTICES = ("reached", "gap", "reset", "more", "batch")
INSTANT: dict[str, Any] = {"type": "string", "format": "date-time"}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": REF.format(name=name)}


def one_of(by_type: dict[str, str]) -> dict[str, Any]:
    """Return the union of the shapes that a field `type` selects."""
    mapping = {kind: REF.format(name=name) for kind, name in by_type.items()}
    names = dict.fromkeys(by_type.values())
    return {"oneOf": [ref(name) for name in names], "discriminator": {"propertyName": "type", "mapping": mapping}}


def object_of(description: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def event_schemas() -> dict[str, Any]:
    """Return the schema of each event of a task, as clients see it, and `TaskEvent`, their union."""
    _, found = msgspec.json.schema_components(map(_describable, get_args(TaskEvent)), ref_template=REF)
    for name in EVENTS:
        properties = found[name]["properties"]
        for field in ("result", "data"):
            if field in properties:
                properties[field] = {"anyOf": [ref("StoredResult"), ref("LinkedResult"), {"type": "null"}]}
    _name_durations(found)
    found["StoredResult"] = object_of(
        "A result in an event.",
        {"inline": {"description": "Any JSON: a TaskResult, or the data of a progress report."}},
        {
            "size_bytes": {"type": "integer"},
            "file": {"description": "A link to the file that it is."},
            "files": {"description": "Links to the files in it."},
        },
    )
    found["LinkedResult"] = object_of(
        "A result that is too large for an event. Its other field, `$ref`, is the URL to fetch it from.",
        {"bytes": {"type": "integer"}},
    )
    found["TaskEvent"] = one_of({name: name for name in EVENTS})
    return found


def _name_durations(part: Any) -> None:
    """Describe durations in words: the format `duration` of RFC 3339 allows no fractions of seconds, ISO 8601 does."""
    if isinstance(part, dict) and part.get("format") == "duration":
        del part["format"]
        part["description"] = "A duration (ISO 8601), as in `PT0.5S`."
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _name_durations(inner)


def _describable(event: type[Struct]) -> type[Struct]:
    """Return a copy of an event that msgspec can describe: it describes no Raw as a default, and no default here."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(event):
        kind = Any if field.type is Raw or field.name in ("result", "data") else field.type
        # A field that an event was recorded without is left out.
        fields.append((field.name, kind, msgspec.field(default_factory=lambda: None)))
    copy = msgspec.defstruct(event.__name__, fields, kw_only=True, tag=event.__name__, tag_field="type")
    copy.__doc__ = event.__doc__
    return copy


def message_schemas() -> dict[str, Any]:
    """Return the schemas of results, streams, webhooks and calls of servers."""
    milliseconds = {"type": ["number", "null"], "description": "Milliseconds."}
    text = {"type": ["string", "null"]}
    metadata = object_of(
        "What is known of the attempt. Servers may add fields.",
        {"status": {"type": "string", "enum": list(STATUSES)}},
        {
            "server_id": text,
            "progress": {"type": ["number", "null"], "description": "Percent."},
            "message": text,
            "processing_time": milliseconds,
            "model_time": milliseconds,
            "queue_time": milliseconds,
            "custom_data": {"description": "Any JSON."},
        },
    )
    by = object_of("Who did it.", {"kind": {"type": "string"}, "id": {"type": "string"}})
    pushed = {
        "type": {"type": "string", "enum": list(EVENTS)},
        "taskId": {"type": "string"},
        "sequence": {"type": ["integer", "null"], "description": "Null: the log does not have the report yet."},
        "at": INSTANT,
        "by": by,
        "event": ref("TaskEvent"),
    }
    withheld = {
        "type": "object",
        "additionalProperties": {"type": "integer"},
        "description": "For callers from whom bodies are withheld: the fields left out of `event`, and their bytes.",
    }
    state = {
        "type": {"type": "string", "const": "state"},
        "taskId": {"type": "string"},
        "sequence": {"type": "integer"},
        "task": {"anyOf": [ref("TaskDetails"), ref("TaskSummary")]},
    }
    called = {
        "task_id": {"type": "string"},
        "type": {"type": "string"},
        "request": {"description": "The payload as submitted."},
        "async": {"type": "boolean"},
        "attempt": {"type": "integer", "description": "1 for the first try."},
        "deadline": {"type": "integer", "description": "Milliseconds since the epoch."},
    }
    may_report = {
        "callback_url": {"type": "string"},
        "callback_token": {"type": "string"},
        "parents": {"type": "array", "items": {"type": "object"}},
    }
    webhook = {"type": {"type": "string"}, "timestamp": INSTANT, "data": ref("PushedEvent")}
    kinds = {"state": "PushedState", **dict.fromkeys(EVENTS, "PushedEvent"), **dict.fromkeys(NOTICES, "StreamNotice")}
    return {
        "TaskResult": object_of(
            "The outcome of a task; while it runs, its last report.",
            {"data": {"description": "Any JSON; null if there is none."}, "metadata": metadata},
            {"task_id": {"type": "string"}, "backend_task_id": text},
        ),
        "PushedEvent": object_of("Something that happened to a task.", pushed, {"sizes": withheld}),
        "PushedState": object_of("A task as it is when a stream begins.", state),
        "StreamNotice": object_of(
            "About the stream itself. Further fields depend on the type.",
            {"type": {"type": "string", "enum": list(NOTICES)}},
        ),
        "StreamMessage": {**one_of(kinds), "description": "`data` of one server-sent event."},
        "WebhookMessage": object_of("A delivery (Standard Webhooks).", webhook),
        "PredictRequest": object_of("The call of a server.", called, may_report),
    }


WEBHOOKS: dict[str, Any] = {
    "taskEvent": {
        "post": {
            "operationId": "receiveTaskEvent",
            "summary": "Receive an event",
            "description": "Sent to a registered webhook, signed, and repeated until it is answered with a 2xx.",
            "tags": ["Webhooks"],
            "security": [],
            "parameters": [
                {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
                for name, text in (
                    ("webhook-id", "Identifies the delivery; the same at each try"),
                    ("webhook-timestamp", "Seconds since the epoch"),
                    ("webhook-signature", "`v1,` and the base64 of an HMAC-SHA256 over id, timestamp and body"),
                )
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref("WebhookMessage")}}},
            "responses": {
                "2XX": {"description": "Received"},
                "410": {"description": "Disable the webhook"},
                "429": {"description": "Pause"},
            },
        }
    }
}
"""Requests that receivers of webhooks get."""

CALLBACKS: dict[str, Any] = {
    "predict": {
        "{$request.body#/endpoints/predict}": {
            "post": {
                "operationId": "predict",
                "summary": "Run a task",
                "description": "Sent to a server for each attempt, with its API key if it has one.",
                "tags": ["Servers"],
                "security": [],
                "requestBody": {"required": True, "content": {"application/json": {"schema": ref("PredictRequest")}}},
                "responses": {
                    "200": {
                        "description": "The outcome; JSON in another shape becomes its `data`",
                        "content": {"application/json": {"schema": ref("TaskResult")}},
                    },
                    "202": {"description": "Accepted: the server reports with `PUT` of `callback_url`"},
                    "429": {"description": "Busy: the task waits and loses no attempt"},
                },
            }
        }
    }
}
"""Requests that a registered server gets."""
