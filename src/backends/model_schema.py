"""The schema of a model's input, asked of its server. `dialects.input_schema` reads the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from ..events.server import ServerRegistered
from ..wire.body_limit import AnswerTooLarge, read_capped
from ..wire.connections import ALONE, ask
from .connection_errors import describe, local_lack
from .dialects.input_schema import NoSchema, read_schema, schema_request
from .redaction import without_keys

SCHEMA_SECONDS = 10.0
MOST_SCHEMA_BYTES = 4 * 1024 * 1024
"""Of the description: an OpenAPI document has more in it than the input."""


async def fetch_schema(
    session: aiohttp.ClientSession, dialect: str, server: ServerRegistered, api_key: str | None
) -> tuple[str, dict[str, Any]]:
    """Return the address of a model's description, and the schema of its input that is in it. Raises NoSchema.

    `dialect`: the name of the one that the server speaks. Redirects are not followed.
    """
    request = schema_request(dialect, server, api_key)
    try:
        async with (
            asyncio.timeout(SCHEMA_SECONDS),
            await ask(session, request.method, request.url, {**request.headers, **ALONE}, b"") as response,
        ):
            body = await read_capped(response, MOST_SCHEMA_BYTES)
    except TimeoutError:
        raise NoSchema(f"the server did not answer in {SCHEMA_SECONDS:g} s") from None
    except AnswerTooLarge as error:
        raise NoSchema(str(error)) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoSchema(local_lack(error) or describe(error)) from None
    return request.url, read_schema(dialect, server, response.status, without_keys(body, (api_key,) if api_key else ()))
