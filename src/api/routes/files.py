"""Routes of files: upload, list, read, links, delete."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import PathParameter, QueryParameter

from ...clock import utc_now
from ...commands.file import FilePresent
from ...container import Container
from ...errors import Forbidden, InvalidInput
from ...events.ids import FileRef, parse_file_id
from ...files.service import ANY_BYTES, FileDetails, check_details
from ...instants import iso, parse_duration, parse_instant
from ...vault.file_links import FileLinkExpired
from ...vault.sealing import SealingError, SealingUnavailable
from ..auth.access import (
    FILE_LINK_TOKENS,
    READERS_OF_ALL,
    SUBMITTERS,
    ApiRequest,
    check_bodies,
    check_owner,
    origin,
)
from ..auth.authenticator import Unauthenticated
from ..bodies import read_as
from ..large_bodies import Headers, LargeAnswer, StoredPart
from ..openapi.examples import TASK_ID_EXAMPLE
from ..parameters import (
    ID_PATTERN,
    Cursor,
    IdempotencyKey,
    Limit,
    Owner,
    checked_key,
    next_cursor,
    read_cursor,
    selected_owner,
)
from ..routing import RouteHandler, Routes
from ..schemas.files import FileLink, FileLinkBody, FilesPage, FileSummary, file_summary
from ..schemas.shared import DoneAnswer
from ..uploads import Upload

FileId = Annotated[
    str,
    PathParameter(
        description="A file's id, from the answer to its upload",
        schema_extra={"pattern": ID_PATTERN, "examples": [TASK_ID_EXAMPLE]},
    ),
]
FileToken = Annotated[
    str | None, QueryParameter(description="The token of a signed link, instead of an Authorization header")
]
FileName = Annotated[str | None, QueryParameter(description="The name of the file; default: as the request says")]
MediaType = Annotated[
    str | None,
    QueryParameter(
        name="type", description="The media type of the file, as in `image/png`; default: as the request says"
    ),
]
Purpose = Annotated[
    str | None, QueryParameter(description="What the file is for: up to 64 letters, digits, dashes and underscores")
]
ExpiresAt = Annotated[
    str | None,
    QueryParameter(
        name="expiresAt", description="When the file is deleted: ISO 8601, or milliseconds. It is kept until then"
    ),
]
ExpiresIn = Annotated[
    str | None,
    QueryParameter(name="expiresIn", description="The same from now: seconds, or text as in `90s`, `5m`, `1.5h`, `2d`"),
]
Sha256 = Annotated[
    str | None, QueryParameter(description="SHA-256 of the bytes, hex: others are refused, as with `Repr-Digest`")
]
FIELDS = ("name", "type", "purpose", "expiresAt", "expiresIn", "sha256")
"""Of a form, as in the query."""
METADATA = "metadata."
"""Beginning of the fields of a form that are metadata: `metadata.camera`."""

_BYTES = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)


class UploadOperation(Operation):
    """The bodies that `POST /api/files` takes, for the API document."""

    def __init__(self, **given: Any) -> None:
        form = Schema(
            type=OpenAPIType.OBJECT,
            properties={"file": _BYTES, **{name: Schema(type=OpenAPIType.STRING) for name in FIELDS}},
            required=["file"],
        )
        content = {ANY_BYTES: OpenAPIMediaType(schema=_BYTES), "multipart/form-data": OpenAPIMediaType(schema=form)}
        super().__init__(**given | {"request_body": RequestBody(content=content, required=True)})


def read_details(upload: Upload, query: Mapping[str, str | None], now: datetime) -> FileDetails:
    """Return what is said of an uploaded file: by the query, the fields of the form, or its part.

    Raises InvalidInput.
    """
    given = {name: value for name, value in query.items() if value is not None}
    for name, value in upload.fields.items():
        if name.startswith(METADATA) and len(name) > len(METADATA):
            continue
        if name not in FIELDS:
            raise InvalidInput(f"unknown field; a form has `file`, {', '.join(FIELDS)}, and `metadata.<name>`", name)
        if name in given:
            raise InvalidInput("is given in the URL and in the form; send one value", name)
        given[name] = value
    name = given.get("name", upload.name)
    return FileDetails(
        name=name,
        media_type=given.get("type") or upload.media_type or mimetypes.guess_type(name)[0] or ANY_BYTES,
        purpose=given.get("purpose", ""),
        metadata={
            name.removeprefix(METADATA): value for name, value in upload.fields.items() if name.startswith(METADATA)
        },
        expires_at=_expiry(given.get("expiresAt"), given.get("expiresIn"), now),
        sha256=given.get("sha256", upload.sha256).lower(),
    )


def _expiry(at: str | None, after: str | None, now: datetime) -> datetime | None:
    if at is not None and after is not None:
        raise InvalidInput("send `expiresAt` or `expiresIn`, not both", "expiresIn")
    if at is not None:
        try:
            return parse_instant(int(at) if at.isascii() and at.isdigit() else at, now)
        except (ValueError, OverflowError):
            raise InvalidInput(
                "must be ISO 8601 with an offset, or milliseconds since the epoch", "expiresAt"
            ) from None
    if after is None:
        return None
    try:
        return now + parse_duration(float(after) if after.replace(".", "", 1).isdigit() else after)
    except (ValueError, OverflowError):
        raise InvalidInput("must be seconds, or text as in `90s`, `5m`, `1.5h`, `2d`", "expiresIn") from None


def file_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/files", "Files")
    _add_upload(routes, container)
    files, depth = container.files, container.settings.max_json_depth

    def shown(ref: FileRef, file: FilePresent) -> FileSummary:
        return file_summary(ref, file, files.links.url(ref))

    def readable(request: ApiRequest, file_id: str, token: str | None) -> FileRef:
        """Return a file whose bytes the caller may read. Raises Unauthenticated, Forbidden, NotFound."""
        if request.auth is None:
            ref = parse_file_id(file_id)
            check_owner(request.user, ref, "file", *READERS_OF_ALL)
            check_bodies(request.user, ref.owner)
            return ref
        try:
            linked = files.links.open(token or "", utc_now())
        except FileLinkExpired:
            raise Unauthenticated("the link has expired; ask for a new one") from None
        except SealingError:
            raise Unauthenticated("the `token` in the URL opens no file: use the whole link as it was given") from None
        if linked.id != file_id:
            raise Forbidden("the `token` in the URL opens another file")
        return linked

    @routes.get("/", "List files", "A page of files, newest first")
    async def list_files(
        request: ApiRequest,
        owner: Owner = None,
        purpose: Purpose = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> FilesPage:
        """List your files, newest first, without those that were deleted. Admins and auditors see everybody's."""
        selected = selected_owner(request.user, owner, "list")
        page = await files.list(selected, read_cursor(cursor), limit, purpose)
        return FilesPage(
            files=[shown(each.ref, each.file) for each in page.files], next_cursor=next_cursor(page.before)
        )

    @routes.get(
        "/{file_id:str}",
        "Read a file",
        "The bytes, with the file's media type",
        media_type=ANY_BYTES,
        fails={416},
        takes=FILE_LINK_TOKENS,
    )
    async def download_file(request: ApiRequest, file_id: FileId, token: FileToken = None) -> LargeAnswer:
        """Return the bytes of a file, as an attachment, which browsers save and do not show.

        A GET with `Range: bytes=…` gets a 206 with these bytes (one range; `If-Range` with the `ETag`, which is the
        file's SHA-256). A signed link needs no header. A 404 also if the file was deleted.
        """
        ref = readable(request, file_id, token)
        created = (await files.find(ref)).created
        part = StoredPart(created.object_name, created.size_bytes, ref.owner)
        return LargeAnswer(files.objects, part, file_headers(created.name, created.media_type), _tag(created.sha256))

    @routes.get("/{file_id:str}/info", "Describe a file", "The file, without its bytes")
    async def get_file_info(request: ApiRequest, file_id: FileId) -> FileSummary:
        """Return what is known of a file: name, media type, size, SHA-256, and when it ends."""
        ref = parse_file_id(file_id)
        check_owner(request.user, ref, "file", *READERS_OF_ALL)
        return shown(ref, await files.find(ref))

    @routes.post("/{file_id:str}/links", "Make a signed link", "The link", body=FileLinkBody)
    async def link_file(request: ApiRequest, file_id: FileId) -> FileLink:
        """Make a URL under which anybody reads the file until it expires, without any header: for a player, a browser.

        It stops working when the file is deleted. It cannot be revoked otherwise: keep it as short as you can.
        """
        body = await read_as(request, FileLinkBody, depth)
        ref = parse_file_id(file_id)
        check_owner(request.user, ref, "file", "admin")
        check_bodies(request.user, ref.owner)
        await files.find(ref)
        if not files.links.are_signed:
            raise SealingUnavailable
        until = utc_now() + timedelta(seconds=body.expires_in)
        return FileLink(url=files.links.url(ref, until), expires_at=iso(until))

    @routes.delete("/{file_id:str}", "Delete a file", "The file is deleted", fails={409})
    async def delete_file(request: ApiRequest, file_id: FileId) -> DoneAnswer:
        """Delete a file and its bytes. A 409 names the tasks that refer to it and have not ended."""
        ref = parse_file_id(file_id)
        check_owner(request.user, ref, "file", "admin")
        await files.delete(ref, **origin(request))
        return DoneAnswer(id=ref.id)

    return routes.handlers


def file_headers(name: str, media_type: str) -> Headers:
    """Return the headers of a file: a browser saves it, and runs nothing of it in our origin."""
    plain = "".join(character if character.isascii() and character not in '"%;' else "_" for character in name)
    disposition = "attachment"
    if name:
        disposition += f'; filename="{plain}"'
        if plain != name:
            disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    return [
        (b"content-type", media_type.encode()),
        (b"content-disposition", disposition.encode("ascii")),
        (b"content-security-policy", b"sandbox"),
    ]


def _tag(sha256: str) -> bytes:
    return b'"%b"' % sha256.encode()


def _add_upload(routes: Routes, container: Container) -> None:
    files = container.files

    @routes.post(
        "/",
        "Upload a file",
        "The file; it is on disk",
        roles=SUBMITTERS,
        fails={408, 409, 413, 415, 422, 429},
        operation_class=UploadOperation,
    )
    async def upload_file(
        request: ApiRequest,
        name: FileName = None,
        media_type: MediaType = None,
        purpose: Purpose = None,
        expires_at: ExpiresAt = None,
        expires_in: ExpiresIn = None,
        sha256: Sha256 = None,
        idempotency_key: IdempotencyKey = None,
    ) -> FileSummary:
        """Store a file: the body as it is, or the part `file` of a `multipart/form-data` body.

        The bytes are stored as they arrive, up to `TASKSTREAM_MAX_FILE`. A payload refers to the file as
        `{"$file": "<id>"}`; the server that runs the task gets a signed link in its place. A form may have the
        parameters of the query as fields, and `metadata.<name>` for texts of your own.
        """
        upload = Upload(request, files.most_bytes)
        query = {
            "name": name,
            "type": media_type,
            "purpose": purpose,
            "expiresAt": expires_at,
            "expiresIn": expires_in,
            "sha256": sha256,
        }
        if not upload.is_form:
            check_details(read_details(upload, query, utc_now()), utc_now())
        stored = await files.create(
            request.user.subject,
            aiter(upload),
            lambda: read_details(upload, query, utc_now()),
            size_bytes=upload.size_bytes,
            idempotency_key=None if idempotency_key is None else checked_key(idempotency_key),
            **origin(request),
        )
        return file_summary(stored.ref, stored.file, files.links.url(stored.ref))
