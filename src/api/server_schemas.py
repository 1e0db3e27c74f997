"""The schema of a type, asked of a server in this process, over the egress rules."""

from __future__ import annotations

from typing import Any

from ..backends.dialects.input_schema import NoSchema
from ..backends.dialects.taskstream import Taskstream
from ..backends.model_schema import fetch_schema
from ..container import Container
from ..errors import InvalidInput, NotFound, RuleBroken
from ..events.task_type import SchemaSource
from ..submission.payload_schema import PayloadSchema
from .schemas.types import TypeBody
from .server_detection import key_of, must_be_called
from .server_registration import find_server


async def schema_of_server(container: Container, body: TypeBody) -> tuple[dict[str, Any], SchemaSource]:
    """Return the schema of the input of a server's model, and where it is from. Raises InvalidInput."""
    assert body.schema_from is not None
    if body.schema is not None:
        raise InvalidInput("must be left out if there is a `schema`", "$.schemaFrom")
    server_id = body.schema_from.server
    try:
        server = await find_server(container, server_id)
        must_be_called(server.settings)
        if server.is_undetected:
            raise NoSchema(f"what it speaks is not known: {server.status_reason}")
        dialect = server.settings.dialect or body.dialect or Taskstream.name
        api_key = await key_of(container, server.settings)
        async with container.egress.session() as session:
            url, schema = await fetch_schema(session, dialect, server.settings, api_key)
    except NotFound:
        raise InvalidInput(f"there is no server {server_id}", "$.schemaFrom.server") from None
    except (NoSchema, RuleBroken) as error:
        raise InvalidInput(f"server {server_id} gives no schema: {error}", "$.schemaFrom") from None
    try:
        PayloadSchema(schema)
    except InvalidInput as error:
        raise InvalidInput(f"the schema of server {server_id} cannot be used: {error.detail}", "$.schemaFrom") from None
    return schema, SchemaSource(server_id=server_id, url=url)
