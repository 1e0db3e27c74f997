"""Bodies of requests: read as bytes, checked by us, and described for the API document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from litestar.exceptions import ClientException, HTTPException, InternalServerException
from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, Reference, RequestBody, Schema
from msgspec import Meta, Struct

from ..submission.body import parse_json_object
from ..wire.validation_errors import invalid, malformed
from .auth.access import ApiRequest

T = TypeVar("T")

SCHEMA_REF = "#/components/schemas/{name}"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ReasonBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Why, in words."""

    reason: Annotated[str, Meta(max_length=300)] = ""
    """Kept in the task's history."""


async def read_body(request: ApiRequest) -> bytes:
    """Return the body, without the byte order mark that some clients begin with.

    Its Content-Type is not looked at: older clients send any. Raises 413 once it is larger than the route takes.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(status_code=415, detail="compressed bodies are not taken; send it without Content-Encoding")
    try:
        body = await request.body()
    except InternalServerException:  # Litestar's word for a client that hung up; nobody reads the answer
        raise ClientException("the body ended before it was complete") from None
    return body.removeprefix(BYTE_ORDER_MARK)


async def read_as(request: ApiRequest, shape: type[T], max_depth: int) -> T:
    """Return the body as a shape; an empty one counts as `{}`. Raises InvalidInput naming what is wrong, and where."""
    return decoded_as((await read_body(request)).strip() or b"{}", shape, max_depth)


def decoded_as(body: bytes, shape: type[T], max_depth: int) -> T:
    """Return a body as a shape. Raises InvalidInput naming what is wrong, and where."""
    parse_json_object(body, max_depth)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise invalid(error, shape) from None
    except msgspec.DecodeError as error:
        raise malformed(error, "body") from None


def schema_of(shape: type[Struct]) -> Reference:
    """Return a reference to a shape that the description has."""
    return Reference(SCHEMA_REF.format(name=shape.__name__))


def described(schema: Schema | Reference, examples: dict[str, Example], *, required: bool = True) -> type[Operation]:
    """Return the operation class of a handler that reads its body itself."""
    media = OpenAPIMediaType(schema=schema, examples=examples)  # type: ignore[arg-type]
    body = RequestBody(content={"application/json": media}, required=required)

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.request_body = body

    return Described
