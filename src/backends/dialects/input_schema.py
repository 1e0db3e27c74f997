"""The schema of a model's input, as its server describes it. Pure: `backends.model_schema` does the I/O.

| dialect | from |
|---|---|
| `cog` | `GET /openapi.json`: `components.schemas.Input` |
| `oip` | `GET /v2/models/{m}`: the tensors of `inputs` |
| `bare` | `GET /openapi.json`: the JSON body of the predict path, as FastAPI writes it |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ...events.exchange import RequestTemplate
from ...events.server import ServerRegistered
from .cog import urls_of
from .detection import base_of
from .dialect import Request, auth_headers
from .oip import WITH_INPUTS, place_of

MOST_DEFINITIONS = 500
"""Definitions that one schema may refer to."""
DEEPEST_SCHEMA = 50
"""Levels of a description that are followed."""
OF_COMPONENTS = "#/components/schemas/"
_NUMBERS = {
    "BOOL": "boolean",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"), "integer"),
    **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), "number"),
    "BYTES": "string",
}
"""Datatypes of tensors to the JSON type of their values."""
_DATA = frozenset({"const", "default", "enum", "example", "examples"})
"""Keywords whose values are data, not schemas."""
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose values have schemas by name."""


class NoSchema(Exception):
    """A server gives no schema of its model's input; the message says why."""


class _Source(NamedTuple):
    url: Callable[[ServerRegistered], str]
    read: Callable[[ServerRegistered, dict[str, Any]], dict[str, Any]]


def schema_request(dialect: str, server: ServerRegistered, api_key: str | None) -> Request:
    """Return the request for the description of a server's model. Raises NoSchema."""
    source = SOURCES.get(dialect)
    if source is None:
        raise NoSchema(f"servers of the dialect `{dialect}` do not describe their input")
    return Request(method="GET", url=source.url(server), headers=auth_headers(server, api_key))


def read_schema(dialect: str, server: ServerRegistered, status: int, body: bytes) -> dict[str, Any]:
    """Return the JSON Schema of the payloads of a server's model, from its description. Raises NoSchema."""
    if not 200 <= status < 300:
        raise NoSchema(f"the server answered {status} when it was asked for it")
    try:
        content = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
        raise NoSchema("the server's description of it is not JSON") from None
    if not isinstance(content, dict):
        raise NoSchema("the server's description of it is not a JSON object")
    return SOURCES[dialect].read(server, content)


def _at_root(server: ServerRegistered) -> str:
    if server.exchange is not None and server.exchange.request != RequestTemplate():
        raise NoSchema("its `exchange.request` sends something else than the payload alone")
    return f"{base_of(server.predict_url)}/openapi.json"


# Cog and FastAPI: OpenAPI


def _of_cog(_: ServerRegistered, content: dict[str, Any]) -> dict[str, Any]:
    return _whole(content, {"$ref": f"{OF_COMPONENTS}Input"})


def _of_openapi(server: ServerRegistered, content: dict[str, Any]) -> dict[str, Any]:
    path = urlsplit(server.predict_url).path or "/"
    below = path.removeprefix(urlsplit(base_of(server.predict_url)).path) or "/"
    paths = content.get("paths")
    for each in (path, below):
        operation = _followed(paths, each, "post")
        found = _followed(operation, "requestBody", "content", "application/json", "schema")
        if isinstance(found, dict):
            return _whole(content, found)
    raise NoSchema(f"its /openapi.json describes no JSON body for POST {path}")


def _whole(content: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of an OpenAPI document as a JSON Schema of its own: with what it refers to under `$defs`."""
    schemas = _followed(content, "components", "schemas")
    schemas = schemas if isinstance(schemas, dict) else {}
    definitions: dict[str, Any] = {}

    def copied(node: Any, levels: int, *, is_schema: bool = True) -> Any:
        """`is_schema`: its keys are keywords; False: they are names of properties, of schemas."""
        if levels == 0:
            raise NoSchema("its description is nested too deep")
        if isinstance(node, list):
            return [copied(each, levels - 1) for each in node]
        if not isinstance(node, dict):
            return node
        if not is_schema:
            return {name: copied(value, levels - 1) for name, value in node.items()}
        made = {
            key: value if key in _DATA else copied(value, levels - 1, is_schema=key not in _MAPS)
            for key, value in node.items()
            if key not in ("$ref", "nullable")
        }
        if isinstance(reference := node.get("$ref"), str):
            made["$ref"] = f"#/$defs/{defined(reference, levels - 1)}"
        # OpenAPI 3.0 has `nullable` where JSON Schema has the type `null`.
        return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") is True else made

    def defined(reference: str, levels: int) -> str:
        name = reference.removeprefix(OF_COMPONENTS)
        if not reference.startswith(OF_COMPONENTS) or name not in schemas:
            raise NoSchema(f"its description refers to what it does not have: {reference[:100]}")
        if not isinstance(schemas[name], dict):
            raise NoSchema(f"its description has no schema for {name[:100]}")
        if name not in definitions:
            if len(definitions) >= MOST_DEFINITIONS:
                raise NoSchema(f"its description has more than {MOST_DEFINITIONS} definitions")
            definitions[name] = {}  # being copied: it may refer to itself
            definitions[name] = copied(schemas[name], levels)
        return name

    made = copied(schema, DEEPEST_SCHEMA)
    assert isinstance(made, dict)
    if made.keys() == {"$ref"}:  # one object instead of a reference to it, unless it refers to itself
        name = made["$ref"].removeprefix("#/$defs/")
        others = {each: value for each, value in definitions.items() if each != name}
        if f'"#/$defs/{name}"'.encode() not in msgspec.json.encode(definitions):
            made, definitions = definitions[name], others
    return {**made, "$defs": definitions} if definitions else made


def _followed(node: Any, *steps: str) -> Any:
    for step in steps:
        node = node.get(step) if isinstance(node, dict) else None
    return node


# OIP


def _of_model(server: ServerRegistered) -> str:
    place = place_of(server)
    if not place.model:
        raise NoSchema("its registration names no model")
    if place.action not in WITH_INPUTS:
        raise NoSchema(f"the inputs of `{place.action}` are not described")
    return place.model_url


def _of_metadata(_: ServerRegistered, content: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of inference requests with the tensors that a model declares."""
    tensors = list(_tensors(content.get("inputs")))
    if not tensors:
        raise NoSchema("the model's metadata declares no inputs")
    kinds = sorted({kind for tensor in tensors if (kind := _NUMBERS.get(tensor["datatype"]))})
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            "inputs": {
                "type": "array",
                "items": {"anyOf": [_tensor_schema(tensor) for tensor in tensors]},
                "allOf": [
                    {"contains": {"properties": {"name": {"const": tensor["name"]}}, "required": ["name"]}}
                    for tensor in tensors
                ],
            },
        },
        "$defs": {kind: {"anyOf": [{"type": kind}, _nested(kind)]} for kind in kinds},
    }


def _tensors(found: Any) -> Iterator[dict[str, Any]]:
    for tensor in found if isinstance(found, list) else ():
        name, datatype = _followed(tensor, "name"), _followed(tensor, "datatype")
        if not isinstance(name, str) or not isinstance(datatype, str):
            raise NoSchema("the model's metadata has an input without `name` or `datatype`")
        yield {"name": name, "datatype": datatype, "shape": tensor.get("shape")}


def _tensor_schema(tensor: dict[str, Any]) -> dict[str, Any]:
    kind = _NUMBERS.get(tensor["datatype"])
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": tensor["name"]},
            "datatype": {"const": tensor["datatype"]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "parameters": {"type": "object"},
            "data": _nested(kind) if kind else {"type": "array"},
        },
    }


def _nested(kind: str) -> dict[str, Any]:
    """Return the schema of the values of a tensor: flat, or nested by dimension."""
    return {"type": "array", "items": {"$ref": f"#/$defs/{kind}"}}


SOURCES: dict[str, _Source] = {
    "cog": _Source(lambda server: urls_of(server.predict_url).at("openapi.json"), _of_cog),
    "oip": _Source(_of_model, _of_metadata),
    "bare": _Source(_at_root, _of_openapi),
}
