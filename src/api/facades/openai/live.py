"""The interactive half of OpenAI's API: the models, and the calls that wait for their answer."""

from __future__ import annotations

from litestar.params import FromPath

from ....container import Container
from ...auth.access import ApiRequest
from ...routing import RouteHandler, Routes
from .lists import OpenAIPage, check_query, page
from .models import Models, OfferedModel


def live_routes(container: Container) -> list[RouteHandler]:
    """Return the routes, without the prefix."""
    routes = Routes("/", "OpenAI")
    models = Models(container.fleet)

    @routes.get("/models", "List the models", "All models, by name")
    async def list_models(request: ApiRequest) -> OpenAIPage:
        """Return all models: OpenAI's API does not page this list."""
        check_query(request.query_params, ())
        found = models.all()
        return page(found, len(found))

    @routes.get("/models/{name:path}", "Read a model", "The model")
    async def get_model(request: ApiRequest, name: FromPath[str]) -> OfferedModel:
        """Return a model; its name may have slashes."""
        check_query(request.query_params, ())
        return models.find(name.removeprefix("/")).model

    return routes.handlers
