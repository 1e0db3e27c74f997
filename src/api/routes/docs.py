"""Routes of the HTML page of the API: swagger-ui over `/openapi.json`. All its files are served from here."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from litestar import MediaType, Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

# The package is a plugin for mkdocs; only its copy of swagger-ui 5 is used.
_SWAGGER_UI = files("mkdocs_swagger_ui_tag") / "swagger-ui"
_ASSETS = {
    "swagger-ui.css": (_SWAGGER_UI / "stylesheets" / "swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": (_SWAGGER_UI / "javascripts" / "swagger-ui-bundle.js", "text/javascript"),
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Taskstream API</title>
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <link rel="stylesheet" href="/docs/swagger-ui.css">
  <link rel="icon" type="image/svg+xml" href="/docs/icon.svg">
</head>
<body>
  <noscript>This page needs JavaScript. The same content as JSON: <a href="/openapi.json">/openapi.json</a></noscript>
  <div id="swagger-ui"></div>
  <script src="/docs/swagger-ui-bundle.js"></script>
  <script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  persistAuthorization: false,
  validatorUrl: null,
});
"""
_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<rect width="16" height="16" rx="3" fill="#173647"/>
<path d="M3 5h10M3 8h7M3 11h4" stroke="#49cc90" stroke-width="1.6" stroke-linecap="round"/></svg>
"""
_FOR_A_DAY = {"Cache-Control": "public, max-age=86400"}


def docs_router() -> Router:
    """Return the page's routes."""

    @get("/", media_type=MediaType.HTML, sync_to_thread=False)
    def page() -> str:
        return _PAGE

    @get("/start.js", media_type="text/javascript", sync_to_thread=False)
    def start() -> str:
        return _START

    @get("/icon.svg", media_type="image/svg+xml", sync_to_thread=False)
    def icon() -> str:
        return _ICON

    @get("/{name:str}", sync_to_thread=True)
    def asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        if name not in _ASSETS:
            raise NotFoundException(f"no such path: {request.scope['path']}")
        file, media_type = _ASSETS[name]
        return Response(file.read_bytes(), media_type=media_type, headers=_FOR_A_DAY)

    return Router(path="/docs", route_handlers=[page, start, icon, asset], include_in_schema=False)
