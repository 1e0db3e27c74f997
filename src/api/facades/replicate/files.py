"""Files of Replicate's API: the service's own files, in another form. A caller reaches their own alone."""

from __future__ import annotations

import mimetypes
from datetime import timedelta
from typing import Any

import msgspec
from litestar import Response, delete, get, post
from litestar.params import FromPath
from msgspec import Struct

from ....clock import utc_now
from ....commands.file import FilePresent
from ....container import Container
from ....errors import InvalidInput, NotFound
from ....events.ids import FileRef, owner_token, parse_file_id
from ....facades.prediction import PREFIX
from ....files.service import ANY_BYTES, FileDetails
from ....instants import iso
from ...auth.access import SUBMITTERS, ApiRequest, origin, requires
from ...parameters import read_cursor
from ...uploads import Upload
from ..addresses import RequestAddresses

VALID = timedelta(days=7)
"""How long the URL of a file is valid; each answer has a new one. A task that waits longer cannot use it."""
PAGE = 100
CONTENT, METADATA = "content", "metadata"
"""Parts of the form."""
JSON = "application/json"
_encode = msgspec.json.Encoder().encode


class FileUrls(Struct):
    """Where its bytes are."""

    get: str


class ReplicateFile(Struct, kw_only=True):
    """A file, with the fields that clients require."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: dict[str, str]
    created_at: str
    expires_at: str | None
    urls: FileUrls


class ReplicateFilePage(Struct):
    """A page of files, newest first."""

    previous: None
    next: str | None
    results: list[ReplicateFile]


def replicate_file_routes(container: Container, addresses: RequestAddresses) -> list[Any]:
    """Return the routes, without the prefix."""
    files = container.files

    def shown(request: ApiRequest, ref: FileRef, file: FilePresent) -> ReplicateFile:
        created = file.created
        url = files.links.url(ref, utc_now() + VALID, addresses.base(request))
        return ReplicateFile(
            id=ref.id,
            name=created.name,
            content_type=created.media_type,
            size=created.size_bytes,
            etag=created.sha256,
            checksums={"sha256": created.sha256},
            metadata=created.metadata,
            created_at=iso(file.created_at),
            expires_at=iso(created.expires_at) if created.expires_at else None,
            urls=FileUrls(get=url),
        )

    def own(request: ApiRequest, file_id: str) -> FileRef:
        """Return a file of the caller's. Raises NotFound for any other, whatever the caller's role is."""
        ref = parse_file_id(file_id)
        if ref.owner != owner_token(request.user.subject):
            raise NotFound("file", file_id)
        return ref

    @post("/files", opt=requires(*SUBMITTERS), status_code=201)
    async def create_file(request: ApiRequest) -> Response[bytes]:
        """Store the part `content` of a form."""
        upload = Upload(request, files.most_bytes, (CONTENT,), by_name=True)
        if not upload.is_form:
            raise InvalidInput(f"must be `multipart/form-data` with the file as the part `{CONTENT}`", "Content-Type")
        stored = await files.create(
            request.user.subject, aiter(upload), lambda: _details(upload), size_bytes=None, **origin(request)
        )
        return _answer(shown(request, stored.ref, stored.file), 201)

    @get("/files")
    async def list_files(request: ApiRequest) -> Response[bytes]:
        """Return a page of the caller's files."""
        before = read_cursor(request.query_params.get("cursor"))
        page = await files.list(owner_token(request.user.subject), before, PAGE)
        here = f"{addresses.base(request)}{PREFIX}/files"
        following = f"{here}?cursor={page.before}" if page.before is not None else None
        results = [shown(request, each.ref, each.file) for each in page.files]
        return _answer(ReplicateFilePage(None, following, results))

    @get("/files/{replicate_file_id:str}")
    async def get_file(request: ApiRequest, replicate_file_id: FromPath[str]) -> Response[bytes]:
        """Return what is known of a file, with a URL of its bytes."""
        ref = own(request, replicate_file_id)
        return _answer(shown(request, ref, await files.find(ref)))

    @delete("/files/{replicate_file_id:str}", status_code=204, opt=requires(*SUBMITTERS))
    async def delete_file(request: ApiRequest, replicate_file_id: FromPath[str]) -> None:
        """Delete a file, unless a task that has not ended refers to it."""
        await files.delete(own(request, replicate_file_id), **origin(request))

    return [create_file, list_files, get_file, delete_file]


def _details(upload: Upload) -> FileDetails:
    """Return what a form says of its file. Raises InvalidInput."""
    metadata: dict[str, str] = {}
    if text := upload.fields.get(METADATA, ""):
        try:
            given = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise InvalidInput("must be a JSON object", METADATA)
        metadata = {name: value if isinstance(value, str) else _encode(value).decode() for name, value in given.items()}
    name = upload.name
    media_type = upload.media_type.strip() or mimetypes.guess_type(name)[0] or ANY_BYTES
    return FileDetails(name=name, media_type=media_type, metadata=metadata)


def _answer(content: Any, status: int = 200) -> Response[bytes]:
    return Response(_encode(content), media_type=JSON, status_code=status)
