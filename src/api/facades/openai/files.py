"""Routes of files, in OpenAI's form."""

from __future__ import annotations

import mimetypes
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import PathParameter
from msgspec import UNSET, Struct, UnsetType

from ....clock import utc_now
from ....commands.file import FilePresent
from ....container import Container
from ....errors import FileInUse, InvalidInput
from ....events.ids import FileRef, owner_token
from ....events.subjects import file_creation_filter
from ....files.service import ANY_BYTES, FileDetails
from ....instants import whole_seconds
from ....streams.jetstream.messages import last_sequence
from ....streams.topology.definitions import FILES
from ...auth.access import SUBMITTERS, ApiRequest, origin
from ...large_bodies import LargeAnswer, StoredPart
from ...parameters import IdempotencyKey, checked_key
from ...routes.files import file_headers
from ...routing import RouteHandler, Routes
from ...uploads import Upload
from .batches.objects import BATCH_PREFIX, FILE_PREFIX
from .batches.routes import find_file, unfinished_with_input
from .lists import OpenAIPage, asked_page, check_query, page

MOST_LISTED = 10_000
USUALLY_LISTED = 100
LIFETIME_SECONDS = (3_600, 2_592_000)
"""Shortest and longest `expires_after[seconds]`."""
UNSAID = "user_data"
"""The purpose that a file has here which was stored without one."""

OpenAIFileId = Annotated[str, PathParameter(description="A file's id, from the answer to its upload")]


class FileObject(Struct, kw_only=True):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | UnsetType = UNSET
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class DeletedFile(Struct, kw_only=True):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class _FormOperation(Operation):
    """The form that uploads a file, for the API document."""

    def __init__(self, **given: Any) -> None:
        text = Schema(type=OpenAPIType.STRING)
        form = Schema(
            type=OpenAPIType.OBJECT,
            properties={
                "file": Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY),
                "purpose": text,
                "expires_after[anchor]": text,
                "expires_after[seconds]": text,
            },
            required=["file", "purpose"],
        )
        content = {"multipart/form-data": OpenAPIMediaType(schema=form)}
        super().__init__(**given | {"request_body": RequestBody(content=content, required=True)})


def file_object(ref: FileRef, file: FilePresent) -> FileObject:
    """Return what OpenAI's API shows of a file."""
    created = file.created
    return FileObject(
        id=FILE_PREFIX + ref.id,
        bytes=created.size_bytes,
        created_at=whole_seconds(file.created_at),
        expires_at=whole_seconds(created.expires_at) if created.expires_at else UNSET,
        filename=created.name,
        purpose=created.purpose or UNSAID,
    )


def read_form(upload: Upload, now: datetime) -> FileDetails:
    """Return what a form says of its file. Raises InvalidInput."""
    fields = dict(upload.fields)
    purpose = fields.pop("purpose", "")
    if not purpose:
        raise InvalidInput("is missing; for a batch it is `batch`", "purpose")
    anchor, seconds = fields.pop("expires_after[anchor]", None), fields.pop("expires_after[seconds]", None)
    if fields:
        raise InvalidInput(
            "is not a field of this form; it has `file`, `purpose` and `expires_after`", min(fields)[:100]
        )
    return FileDetails(
        name=upload.name,
        media_type=upload.media_type or mimetypes.guess_type(upload.name)[0] or ANY_BYTES,
        purpose=purpose,
        expires_at=_expiry(anchor, seconds, now),
    )


def _expiry(anchor: str | None, seconds: str | None, now: datetime) -> datetime | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidInput("must be `created_at`", "expires_after[anchor]")
    shortest, longest = LIFETIME_SECONDS
    if seconds is None or not (
        seconds.isascii() and seconds.isdigit() and len(seconds) <= 10 and shortest <= int(seconds) <= longest
    ):
        raise InvalidInput(f"must be whole seconds, {shortest} to {longest}", "expires_after[seconds]")
    return now + timedelta(seconds=int(seconds))


def openai_file_routes(container: Container) -> list[RouteHandler]:
    """Return the routes, without the prefix."""
    routes = Routes("/files", "OpenAI")
    files = container.files

    @routes.post(
        "/",
        "Upload a file",
        "The file; it is on disk",
        roles=SUBMITTERS,
        fails={408, 409, 413, 415, 422, 429},
        operation_class=_FormOperation,
    )
    async def upload_openai_file(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> FileObject:
        """Store the part `file` of a form as it arrives. For a batch the purpose is `batch`."""
        check_query(request.query_params, ())
        upload = Upload(request, files.most_bytes, ("file",))
        if not upload.is_form:
            raise InvalidInput("send a form, `multipart/form-data`, with `file` and `purpose`", "Content-Type")
        stored = await files.create(
            request.user.subject,
            aiter(upload),
            lambda: read_form(upload, utc_now()),
            idempotency_key=None if idempotency_key is None else checked_key(idempotency_key),
            **origin(request),
        )
        return file_object(stored.ref, stored.file)

    @routes.get("/", "List files", "A page of files, newest first")
    async def list_openai_files(request: ApiRequest) -> OpenAIPage:
        """List your files, newest first: all, or those with a `purpose`."""
        asked = asked_page(request.query_params, ("purpose",), limit=USUALLY_LISTED, most=MOST_LISTED)
        if asked.is_ascending:
            raise InvalidInput("files are listed newest first; leave it out", "order")
        before: int | None = None
        own = owner_token(request.user.subject)
        if asked.after:
            before = await last_sequence(
                container.reading, FILES, file_creation_filter(find_file(request, asked.after))
            )
        found = await files.list(own, before, asked.limit + 1, request.query_params.get("purpose"))
        return page([file_object(each.ref, each.file) for each in found.files], asked.limit)

    @routes.get("/{openai_file_id:str}", "Describe a file", "The file, without its bytes")
    async def get_openai_file(request: ApiRequest, openai_file_id: OpenAIFileId) -> FileObject:
        """Return what is known of a file."""
        check_query(request.query_params, ())
        ref = find_file(request, openai_file_id)
        return file_object(ref, await files.find(ref))

    @routes.get("/{openai_file_id:str}/content", "Read a file", "The bytes", media_type=ANY_BYTES, fails={416})
    async def get_openai_file_content(request: ApiRequest, openai_file_id: OpenAIFileId) -> LargeAnswer:
        """Return the bytes of a file, or a range of them."""
        ref = find_file(request, openai_file_id)
        created = (await files.find(ref)).created
        part = StoredPart(created.object_name, created.size_bytes, ref.owner)
        tag = b'"%b"' % created.sha256.encode()
        return LargeAnswer(files.objects, part, file_headers(created.name, ANY_BYTES), tag)  # whatever it is, as OpenAI

    @routes.delete("/{openai_file_id:str}", "Delete a file", "The file is deleted", fails={409})
    async def delete_openai_file(request: ApiRequest, openai_file_id: OpenAIFileId) -> DeletedFile:
        """Delete a file. A 409 names batches that still read it, or tasks that refer to it."""
        check_query(request.query_params, ())
        ref = find_file(request, openai_file_id)
        if reading := await unfinished_with_input(container, ref):
            names = ", ".join(BATCH_PREFIX + each.id for each in reading[:3])
            raise FileInUse(f"this file is the input of a batch that has not ended: {names}; cancel it, or wait")
        await files.delete(ref, **origin(request))
        return DeletedFile(id=FILE_PREFIX + ref.id)

    return routes.handlers
