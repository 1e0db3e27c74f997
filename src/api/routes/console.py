"""Routes of the web console: the files that `make console` builds, from memory. Its data comes from the API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litestar import MediaType, Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect
from msgspec import Struct

from ..middleware import has_current, headers_of

FOLDER = Path(__file__).parents[2] / "console_files"
"""Built by `make console`; in the wheel, the sdist and the image."""
INDEX = "index.html"
PATH = "/console"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_ENCODINGS = {"br": ".br", "gzip": ".gz"}
"""Best first. `build.mjs` writes these files beside each file."""
_IMMUTABLE = "public, max-age=31536000, immutable"
"""For names that contain a hash of the content."""
_NOT_BUILT = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Taskstream</title></head>
<body>
<h1>The console is not built</h1>
<p>Run <code>make console</code> in the repository, then load this page again. It needs a registry of npm packages.
Wheels and images of Taskstream contain the console.</p>
<p>The API does not need it: <a href="../docs">its documentation</a>.</p>
</body>
</html>
"""


class ConsoleFile(Struct, frozen=True):
    """A file of the console in memory."""

    media_type: str
    tag: str
    """Its entity tag, without quotes."""
    bodies: Mapping[str, bytes]
    """By content coding; an empty name: as it is."""


class ConsoleFiles:
    """The files of a build. A new build is noticed when the page is asked for."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._read_at: int | None = None
        self._files: dict[str, ConsoleFile] = {}

    def index(self) -> ConsoleFile | None:
        """Return the page; None if the console is not built. Does file I/O."""
        try:
            modified = (self._folder / INDEX).stat().st_mtime_ns
        except OSError:
            self._read_at, self._files = None, {}
            return None
        if modified != self._read_at:
            self._files = _read(self._folder)
            self._read_at = modified
        return self._files.get(INDEX)

    def get(self, name: str) -> ConsoleFile | None:
        """Return a file by its path below `/console/`; None if there is no such file. May do file I/O."""
        if self._read_at is None:
            self.index()
        return self._files.get(name)


def _read(folder: Path) -> dict[str, ConsoleFile]:
    found = {}
    for path in folder.rglob("*"):
        if (media_type := _TYPES.get(path.suffix)) is None:
            continue
        content = path.read_bytes()
        bodies = {"": content}
        for coding, suffix in _ENCODINGS.items():
            packed = path.with_name(path.name + suffix)
            if packed.is_file():
                bodies[coding] = packed.read_bytes()
        name = path.relative_to(folder).as_posix()
        found[name] = ConsoleFile(media_type, hashlib.blake2b(content, digest_size=12).hexdigest(), bodies)
    return found


def coding(accepted: str, offered: Mapping[str, bytes]) -> str:
    """Return the best content coding of those offered that an `Accept-Encoding` allows; empty: none."""
    allowed = set()
    for part in accepted.lower().split(","):
        name, _, parameters = part.partition(";")
        quality = parameters.replace(" ", "").removeprefix("q=")
        if quality.strip("0.") or not parameters:
            allowed.add(name.strip())
    return next((name for name in _ENCODINGS if name in allowed and name in offered), "")


def console_router(folder: Path = FOLDER) -> Router:
    """Return the console's routes."""
    files = ConsoleFiles(folder)

    def answer(request: Request[Any, Any, Any], file: ConsoleFile, cache: str) -> Response[bytes]:
        chosen = coding(headers_of(request.scope).get(b"accept-encoding", b"").decode("latin-1"), file.bodies)
        tag = f'"{file.tag}{chosen and "-" + chosen}"'
        headers = {"Cache-Control": cache, "ETag": tag, "Vary": "Accept-Encoding"}
        if has_current(request.scope, tag.encode()):
            return Response(b"", status_code=304, headers=headers)
        if chosen:
            headers["Content-Encoding"] = chosen
        return Response(file.bodies[chosen], media_type=file.media_type, headers=headers)

    @get("/", sync_to_thread=True)
    def page(request: Request[Any, Any, Any]) -> Response[Any]:
        if not request.scope["raw_path"].endswith(b"/"):
            return Redirect("console/")  # relative, so a path prefix of a proxy stays
        if (index := files.index()) is None:
            never = {"Cache-Control": "no-store"}
            return Response(_NOT_BUILT, status_code=503, media_type=MediaType.HTML, headers=never)
        return answer(request, index, "no-cache")

    @get("/assets/{name:str}", sync_to_thread=True)
    def asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        return found(request, f"assets/{name}", _IMMUTABLE)

    @get("/{name:str}", sync_to_thread=True)
    def other(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        return found(request, name, "no-cache")

    def found(request: Request[Any, Any, Any], name: str, cache: str) -> Response[bytes]:
        if (file := files.get(name)) is None:
            raise NotFoundException(f"no such path: {request.scope['path']}")
        return answer(request, file, cache)

    return Router(path=PATH, route_handlers=[page, asset, other], include_in_schema=False)
