"""Types as models of Replicate's API, and their versions. Pure.

The id of a version is 64 hexadecimal digits. The first 16 name the type, the others its schema, so an id that a client
keeps leads to its type for ever, whatever has become of the schema since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ..events.envelope import NULL, Recorded
from ..events.task_type import TypeDefined, TypeEvent

OWNER = "taskstream"
"""Owner of the models of types that have no `model` of the form `owner/name`."""
PREFIX_DIGITS = 16
VERSION_DIGITS = 64
COG_VERSION = "0.16.2"
"""Below 0.3.9 clients take every array for an iterator."""
OUTPUT = "x-output"
"""Annotation of a type's schema: the JSON Schema of its result. With `"x-cog-array-type": "iterator"`, clients iterate
over the result."""
ANY_OUTPUT: dict[str, Any] = {"title": "Output"}


class ModelName(NamedTuple):
    """What `owner/name`, `owner/name:version` or `name` says."""

    owner: str
    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


class ModelVersion(NamedTuple):
    """A version of a model."""

    id: str
    created_at: datetime | None
    """None: not known."""
    definition: TypeDefined


def model_name(definition: TypeDefined) -> ModelName:
    """Return the model that a type is, with the version that its `model` names."""
    path, _, version = definition.model.partition(":")
    owner, slash, name = path.rpartition("/")
    if not slash:
        owner, name = OWNER, path or definition.name
    return ModelName(owner.replace("/", "-"), name, version)


def prefix_of(type_name: str) -> str:
    """Return what the ids of all versions of a type begin with."""
    return hashlib.sha256(f"type\n{type_name}".encode()).hexdigest()[:PREFIX_DIGITS]


def version_id(definition: TypeDefined) -> str:
    """Return the id of a type's present version: another one if its schema or its dialect is another."""
    content = b"%b\n%b\n%b" % (definition.name.encode(), definition.dialect.encode(), bytes(definition.payload_schema))
    digits = hashlib.sha256(content).hexdigest()[: VERSION_DIGITS - PREFIX_DIGITS]
    return prefix_of(definition.name) + digits


def versions_in(history: Iterable[Recorded[TypeEvent]]) -> list[ModelVersion]:
    """Return the versions that a type has had, newest first, each with the instant of its first definition."""
    found: dict[str, ModelVersion] = {}
    for recorded in history:
        if isinstance(recorded.event, TypeDefined):
            identity = version_id(recorded.event)
            earlier = found.pop(identity, None)
            since = earlier.created_at if earlier is not None else recorded.at
            found[identity] = ModelVersion(identity, since, recorded.event)
    return list(found.values())[::-1]


def output_schema(definition: TypeDefined) -> dict[str, Any]:
    """Return the schema of a type's result: any, unless the type's own says more."""
    if definition.payload_schema == NULL:
        return ANY_OUTPUT
    found = msgspec.json.decode(definition.payload_schema).get(OUTPUT)
    return {**ANY_OUTPUT, **found} if isinstance(found, dict) else ANY_OUTPUT


def is_iterator(definition: TypeDefined | None) -> bool:
    """Return True if clients iterate over the results of a type."""
    if definition is None:
        return False
    output = output_schema(definition)
    return output.get("type") == "array" and output.get("x-cog-array-type") == "iterator"


def openapi_schema(definition: TypeDefined) -> dict[str, Any]:
    """Return the description of a model, as clients of Replicate read it."""
    given = msgspec.json.decode(definition.payload_schema) if definition.payload_schema != NULL else {}
    own = {name: value for name, value in given.items() if name != OUTPUT}
    return {
        "openapi": "3.0.2",
        "info": {"title": definition.name, "version": "1"},
        "paths": {},
        "components": {
            "schemas": {
                "Input": {"title": "Input", "type": "object", **_moved(own, "#/components/schemas/Input")},
                "Output": _moved(output_schema(definition), "#/components/schemas/Output"),
            }
        },
    }


def _moved(schema: Any, to: str) -> Any:
    """Return a schema whose references to itself still hold at another place."""
    match schema:
        case dict():
            return {
                name: to + value[1:]
                if name == "$ref" and isinstance(value, str) and value.startswith("#")
                else _moved(value, to)
                for name, value in schema.items()
            }
        case list():
            return [_moved(value, to) for value in schema]
        case _:
            return schema
