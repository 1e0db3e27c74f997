"""The OpenAPI 3.1 document of the API, made once from the routes and the shapes of their bodies.

Litestar describes routes and parameters. The schemas are msgspec's own, so the document matches what is decoded.
The strings beneath fields are their descriptions.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, get_args

import msgspec
from litestar import Litestar, Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, Contact, License, Reference, SecurityScheme, Tag
from msgspec import Struct

from ...backends import exchange_body
from ...events.task import TaskEvent
from ...submission.batch_body import BatchItem
from ...submission.body import Submission
from ..auth.stream_tokens import StreamToken
from ..problems import MEANINGS, MEDIA_TYPE, QUOTA_HEADERS, Problem, problem_with
from ..schemas import (
    alarms,
    attempts,
    batches,
    bulk,
    detection,
    files,
    graphs,
    keys,
    legacy_queue,
    log,
    me,
    operations,
    owners,
    pools,
    presets,
    processes,
    schedules,
    servers,
    statistics,
    system,
    tasks,
    trials,
    types,
    webhooks,
    why,
)
from ..schemas.shared import DoneAnswer, ReasonBody
from .examples import FIELD_EXAMPLES, INSTANT_EXAMPLES
from .messages import CALLBACKS, STREAM_TYPE, WEBHOOKS, event_schemas, message_schemas, ref

ABOUT = """Long tasks over plain HTTP, kept safe in an event log.

A submitted task is on disk when the answer arrives. It is sent to a registered server that is healthy, has a free slot
and serves its type. Failed attempts are retried. Every step is an event that you can read.

Every `/api` route except `/api/health` needs `Authorization: Bearer <token>`: a JWT or an API key. Bodies are JSON in
UTF-8, whatever their `Content-Type` says. Times are milliseconds since the epoch, unless they are ISO 8601 strings.
Errors are problem documents (RFC 9457) with the extra field `error`. Each answer has an `X-Request-Id`, which is also
in the service's logs. `Retry-After` of a 503 or 429 says when to retry.
"""
SCHEMA_REF = "#/components/schemas/{name}"
_MODULES = (
    alarms,
    exchange_body,
    attempts,
    batches,
    bulk,
    detection,
    graphs,
    keys,
    legacy_queue,
    log,
    me,
    files,
    operations,
    owners,
    pools,
    presets,
    processes,
    schedules,
    servers,
    statistics,
    system,
    tasks,
    trials,
    types,
    webhooks,
    why,
)
SHAPES: tuple[type[Struct], ...] = (
    *(
        shape
        for module in _MODULES
        for shape in vars(module).values()
        if isinstance(shape, type) and issubclass(shape, Struct) and shape.__module__ == module.__name__
        if not shape.__name__.startswith("_")
    ),
    Submission,
    BatchItem,
    StreamToken,
    ReasonBody,
    DoneAnswer,
    Problem,
)
"""Every shape that is sent or received; the shapes inside them are found from these."""
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def describe(routes: Sequence[Router | HTTPRouteHandler], release: str) -> bytes:
    """Return the document of these routes as JSON."""
    # A separate application: with `openapi_config` Litestar adds pages of its own.
    app = Litestar(route_handlers=routes, openapi_config=_config(release), logging_config=None)
    document = app.openapi_schema.to_schema()
    found = schemas() | event_schemas() | message_schemas()
    found["RecordedEvent"]["properties"]["event"] = {**ref("TaskEvent"), "description": "As recorded."}
    found["TaskDetails"]["properties"]["result"] = _nullable_result(found["TaskDetails"]["properties"]["result"])
    document["webhooks"] = WEBHOOKS
    document["components"]["schemas"] = found
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if operation["tags"] == ["System"]:
                operation["security"] = []
                operation["responses"]["405"] = {
                    "description": MEANINGS[405],
                    "content": {MEDIA_TYPE: {"schema": ref("Problem")}},
                }
            if operation["operationId"] == "registerServer":
                operation["callbacks"] = CALLBACKS
            streamed = operation["responses"].get("200", {}).get("content", {}).get(STREAM_TYPE)
            if streamed and operation["tags"] != ["Queue"]:
                streamed["schema"] = ref("StreamMessage")
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _of_parameter(parameter["schema"])
            for status, answer in operation["responses"].items():
                content = answer.get("content", {})
                _overlapping(content)
                if status == "429":
                    answer["headers"] = QUOTA_HEADERS
                if problem := content.get(MEDIA_TYPE):
                    problem["example"] = msgspec.to_builtins(problem_with(int(status), answer["description"], path))
    sent = _reachable(found, [operation.get("requestBody") for operation in _operations(document)])
    for name, schema in found.items():
        (_without_defaults if name in sent else _all_required)(schema)
    used = _reachable(found, [document["paths"], WEBHOOKS, CALLBACKS])
    document["components"]["schemas"] = {name: schema for name, schema in found.items() if name in used}
    return msgspec.json.encode(_with_booleans(document))


def _with_booleans(node: Any) -> Any:
    """Return a part of the document with the schema that nothing matches as `false`, which Litestar cannot write."""
    if isinstance(node, dict):
        return False if node == {"not": {}} else {name: _with_booleans(value) for name, value in node.items()}
    return [_with_booleans(value) for value in node] if isinstance(node, list | tuple) else node


def _overlapping(content: dict[str, Any]) -> None:
    """Describe an answer of one shape or another by `anyOf`: an object may fit both, which `oneOf` forbids."""
    for kind in content.values():
        if "oneOf" in kind["schema"]:
            kind["schema"]["anyOf"] = kind["schema"].pop("oneOf")


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


def _nullable_result(schema: dict[str, Any]) -> dict[str, Any]:
    texts = {key: schema[key] for key in ("description",) if key in schema}
    return {"anyOf": [ref("TaskResult"), {"type": "null"}], **texts}


def _reachable(found: dict[str, Any], start: Any) -> set[str]:
    """Return the names of the schemas that a part of the document refers to, directly or by others."""
    names: set[str] = set()
    waiting = [start]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name in found and name not in names:
                names.add(name)
                waiting.append(found[name])
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part
    return names


def _without_defaults(schema: dict[str, Any]) -> None:
    """Move the defaults of a body's fields into their descriptions: generators take a field with one for required."""
    for name, field in schema.get("properties", {}).items():
        if "default" in field:
            default = field.pop("default")
            if default not in (None, [], {}, ""):
                text = f"{field.get('description', '')} Default: {msgspec.json.encode(default).decode()}.".strip()
                schema["properties"][name] = {**field, "description": text}


@cache
def _omitting() -> set[str]:
    """Return the names of the shapes whose fields are left out when they have their defaults."""
    shapes: Sequence[type[Struct]] = _with_parts((*SHAPES, *get_args(TaskEvent)))
    return {shape.__name__ for shape in shapes if shape.__struct_config__.omit_defaults}


def _all_required(schema: dict[str, Any]) -> None:
    """Mark the fields of an answer that are always there, and remove their defaults, which no client needs."""
    for name, field in schema.get("properties", {}).items():
        if "default" in field:
            field.pop("default")
            if name not in schema["required"] and schema.get("title") not in _omitting():
                schema["required"].append(name)


def schemas() -> dict[str, Any]:
    """Return the JSON Schema of every shape, by name."""
    _, found = msgspec.json.schema_components(SHAPES, ref_template=SCHEMA_REF)
    for shape in _with_parts(SHAPES):
        properties = found[shape.__name__]["properties"]
        for name, text in field_texts(shape).items():
            # Beside a reference to a shape that has a description, this one says what the shape is for here.
            properties[name] = {**properties[name], "description": text}
        for name, schema in properties.items():
            if (example := _example(shape.__name__, name, schema)) is not None:
                properties[name] = {**schema, "examples": [example]}
    return found


def schema_of(shape: type[Struct]) -> Reference:
    """Return a reference to a shape in the document."""
    return Reference(SCHEMA_REF.format(name=shape.__name__))


def _example(shape: str, name: str, schema: dict[str, Any]) -> Any:
    """Return an example for a field; None if its type says enough. Viewers build whole answers from these."""
    if "$ref" in schema or "$ref" in schema.get("items", ()):
        return None
    kinds = [kind["type"] for kind in schema.get("anyOf", [schema]) if "type" in kind]
    if name.endswith(("At", "Since", "Until", "Heartbeat")) or name in ("at", "since", "until"):
        return next((INSTANT_EXAMPLES[kind] for kind in kinds if kind in INSTANT_EXAMPLES), None)
    example = FIELD_EXAMPLES.get(f"{shape}.{name}", FIELD_EXAMPLES.get(name))
    fits = not kinds or any(isinstance(example, _JSON_TYPES.get(kind, ())) for kind in kinds)
    return example if fits else None


def field_texts(shape: type[Struct]) -> dict[str, str]:
    """Return the strings beneath the fields of a struct, by the fields' names on the wire."""
    names = dict(zip(shape.__struct_fields__, shape.__struct_encode_fields__, strict=True))
    texts: dict[str, str] = {}
    for base in reversed(shape.__mro__):
        if issubclass(base, Struct) and base is not Struct:
            texts |= _strings_beneath(base)
    return {names[field]: text for field, text in texts.items() if field in names}


def _strings_beneath(shape: type[Struct]) -> dict[str, str]:
    definition = ast.parse(textwrap.dedent(inspect.getsource(shape))).body[0]
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = inspect.cleandoc(text)
            case _:
                pass
    return texts


def _with_parts(shapes: Sequence[type[Struct]]) -> list[type[Struct]]:
    """Return these structs and the structs inside their fields."""
    found: dict[type[Struct], None] = {}
    waiting: list[Any] = list(shapes)
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, Struct):
            if kind not in found:
                found[kind] = None
                waiting.extend(field.type for field in msgspec.structs.fields(kind))
        else:
            waiting.extend(getattr(kind, "__args__", ()))
            if hasattr(kind, "__origin__") and not hasattr(kind, "__args__"):
                waiting.append(kind.__origin__)
    return list(found)


def _of_parameter(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema without null, which stands for an absent parameter."""
    kinds = [kind for kind in schema.get("oneOf", ()) if kind != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("oneOf", "description")}
    if "anyOf" in rest:
        return {key: value for key, value in rest.items() if key != "type"}
    return {**kinds[0], **rest} if kinds else rest


def _operation_id(handler: HTTPRouteHandler, *_: object) -> str:
    """Return `submitTask` for `submit_task`."""
    first, *rest = handler.handler_name.rsplit(".", 1)[-1].split("_")
    return first + "".join(part.capitalize() for part in rest)


def _config(release: str) -> OpenAPIConfig:
    bearer = SecurityScheme(
        type="http",
        scheme="bearer",
        bearer_format="JWT",
        description="Claims: `sub` (the user), `roles` (some of admin, user, service, auditor), `iat`, `exp`",
    )
    return OpenAPIConfig(
        title="Taskstream",
        version=release,
        description=ABOUT,
        license=License(name="MIT", identifier="MIT"),
        contact=Contact(name="Taskstream maintainers"),
        components=Components(security_schemes={"bearer": bearer}),
        use_handler_docstrings=True,
        operation_id_creator=_operation_id,
        tags=[
            Tag(name="Tasks", description="Submit, read, cancel, retry, replay"),
            Tag(name="Batches", description="Many tasks submitted, read and cancelled together"),
            Tag(name="Bulk", description="Commands to many tasks at once"),
            Tag(name="Dead letters", description="Tasks that failed after their last attempt: retry or discard them"),
            Tag(name="Operations", description="Commands to all tasks of a filter, carried out by the service"),
            Tag(name="Statistics", description="How many tasks there are, what happened to them, and their errors"),
            Tag(name="Alarms", description="What needs a person now"),
            Tag(name="Log", description="What happened, in order, and who did it"),
            Tag(name="Push", description="Events as they happen"),
            Tag(name="Schedules", description="Tasks submitted by a cron expression"),
            Tag(name="Webhooks", description="Events sent to a URL of yours, signed, and retried until accepted"),
            Tag(name="Queue", description="Long jobs of a user's projects"),
            Tag(name="Servers", description="The fleet. Admins change it, auditors read it"),
            Tag(
                name="Pools",
                description="Queues with their waiting tasks and pauses. Admins change them, auditors read them",
            ),
            Tag(name="Types", description="Schemas of payloads, retries and limits"),
            Tag(name="Owners", description="Limits of users: running tasks, starts per second, waiting tasks"),
            Tag(name="Keys", description="Long-lived, narrow, revocable API keys"),
            Tag(name="Service", description="The caller, the processes and the settings of the service"),
            Tag(name="System", description="Health and metrics; no token needed"),
        ],
    )
