"""OpenAI's API over the models of this service, under `/openai/v1`. Every call is an ordinary task, submitted, limited,
dispatched, repeated and recorded like any other.
"""

from __future__ import annotations

from litestar import Router
from litestar.middleware import DefineMiddleware

from ....container import Container
from ...auth.access import Authentication
from ...auth.authenticator import Authenticator
from ...auth.stream_tokens import StreamTokens
from ...bodies import json_response
from ...direct_calls import DirectCall
from .batches.routes import batch_routes
from .files import openai_file_routes
from .live import live_routes


def openai_router(container: Container, authenticator: Authenticator, tokens: StreamTokens) -> Router:
    """Return the routes of OpenAI's API."""
    return Router(
        path="/openai/v1",
        route_handlers=[*live_routes(container), *openai_file_routes(container), *batch_routes(container)],
        middleware=[
            DefineMiddleware(Authentication, authenticator=authenticator, tokens=tokens),
            lambda app: DirectCall(app, container.results),  # a function: Litestar copies what it is given
        ],
        response_class=json_response(container.results),
    )
