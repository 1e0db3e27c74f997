"""Replicate's API over the types of this service, under `/replicate/v1`. Every prediction is an ordinary task."""

from __future__ import annotations

import time

from litestar import Router
from litestar.middleware import DefineMiddleware

from ....container import Container
from ...auth.access import Authentication
from ...auth.authenticator import Authenticator
from ...auth.stream_tokens import StreamTokens
from ...replicate_paths import BASE
from ..addresses import RequestAddresses
from .catalog import catalog_routes
from .errors import on_replicate_error
from .files import replicate_file_routes
from .models import ReplicateModels
from .predictions import Predictions, prediction_routes
from .stream_links import StreamLinks
from .webhooks import PredictionWebhooks, webhook_secret_routes


def replicate_router(container: Container, authenticator: Authenticator, tokens: StreamTokens) -> Router:
    """Return the routes of Replicate's API."""
    addresses, models = RequestAddresses(container.settings), ReplicateModels(container)
    webhooks = PredictionWebhooks(container)
    streams = StreamLinks(container.token_sealer, time.time, authenticator.api_keys)
    return Router(
        path=BASE,
        route_handlers=[
            *prediction_routes(Predictions(container, addresses, models, webhooks, streams)),
            *webhook_secret_routes(webhooks),
            *catalog_routes(models, addresses),
            *replicate_file_routes(container, addresses),
        ],
        middleware=[DefineMiddleware(Authentication, authenticator=authenticator, tokens=tokens)],
        exception_handlers={Exception: on_replicate_error},
    )
