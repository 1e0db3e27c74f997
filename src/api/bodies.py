"""Bodies of requests: read as bytes, checked by us, and described for the API document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, RequestBody, Schema
from msgspec import Meta, Struct

from ..errors import InvalidInput
from .submission import invalid, parse_json_object

T = TypeVar("T")


class ReasonBody(Struct, kw_only=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=300)] = ""


def decode_body(body: bytes, shape: type[T], max_depth: int) -> T:
    """Return a body as a shape; an empty one counts as `{}`. Raises InvalidInput naming what is wrong, and where."""
    body = body.strip() or b"{}"
    parse_json_object(body, max_depth)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except msgspec.MsgspecError as error:
        raise InvalidInput(str(error)) from None


def described(shape: type[Any] | None, examples: dict[str, Example], *, required: bool = True) -> type[Operation]:
    """Return the operation class of a handler that reads its body itself: `shape` is what it takes, None any object."""
    schema = _schema(shape) if shape else Schema(type="object")  # type: ignore[arg-type]
    media = OpenAPIMediaType(schema=schema, examples=examples or None)  # type: ignore[arg-type]
    body = RequestBody(content={"application/json": media}, required=required)

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.request_body = body

    return Described


class _Verbatim(Schema):
    """A schema made elsewhere, passed through as it is."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__()
        self._content = content

    def to_schema(self) -> dict[str, Any]:
        return self._content


def _schema(shape: type[Any]) -> Schema:
    """Return a struct's JSON Schema with everything it refers to in place."""
    (top,), parts = msgspec.json.schema_components([shape], ref_template="#/$defs/{name}")
    return _Verbatim(_inlined(top, parts))


def _inlined(node: Any, parts: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(parts[node["$ref"].rsplit("/", 1)[1]], parts)
        return {key: _inlined(value, parts) for key, value in node.items()}
    return [_inlined(item, parts) for item in node] if isinstance(node, list) else node
