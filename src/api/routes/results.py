"""Routes of bodies: of a task's payload alone, of its result, however large, and of its file."""

from __future__ import annotations

from itertools import count
from typing import Annotated

from litestar.params import PathParameter, QueryParameter

from ...clock import utc_now
from ...container import Container
from ...errors import Forbidden, NotFound
from ...events.ids import TaskRef, parse_task_id
from ...events.task import StoredFile
from ...projections.task_reader import TaskResult
from ...vault.result_links import LinkedResult, LinkExpired, ResultLinks
from ...vault.sealing import SealingError
from ..auth.access import (
    LINK_TOKENS,
    READERS_OF_ALL,
    ApiRequest,
    acts_for,
    check_bodies,
    check_task_of_server,
    owned_ref,
)
from ..auth.authenticator import Unauthenticated
from ..auth.narrowing import TASK, narrows
from ..large_bodies import Headers, LargeAnswer, StoredPart, attachment
from ..parameters import TaskId
from ..routing import RouteHandler, Routes
from ..schemas.tasks import result_part
from ..task_updates import server_of

ANY_BYTES = "application/octet-stream"
JSON = (b"content-type", b"application/json")
FILE_HEADERS = [(b"content-disposition", b"attachment"), (b"content-security-policy", b"sandbox")]
"""A file comes from a server: a browser must run nothing of it in our origin. `middleware` adds `nosniff`."""

EventSequence = Annotated[
    int | None,
    QueryParameter(
        ge=1,
        le=2**63 - 1,
        description="Sequence of the event that has the result; default: the last end of the task",
    ),
]
FileNumber = Annotated[
    str, PathParameter(description="Place of the file in the result, from 0", schema_extra={"pattern": "^[0-9]{1,3}$"})
]
Download = Annotated[
    bool, QueryParameter(description="True: a browser saves the answer as a file, with a name from the task's id")
]
LinkToken = Annotated[
    str | None, QueryParameter(description="The token of a signed link, instead of an Authorization header")
]


def opened_link(links: ResultLinks, token: str) -> LinkedResult:
    """Return the result that the token of a link opens. Raises Unauthenticated."""
    try:
        return links.open(token, utc_now())
    except LinkExpired:
        raise Unauthenticated("the link has expired: it ends with the attempt that it was made for") from None
    except SealingError:
        raise Unauthenticated("the `token` in the URL opens no result: use the whole link as it was given") from None


def _json_headers(ref: TaskRef, what: str, *, download: bool) -> Headers:
    return [JSON, attachment(f"{ref.unique}.{what}.json")] if download else [JSON]


def result_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Tasks")

    async def readable_ref(request: ApiRequest, task_id: str) -> TaskRef:
        """Return a task that the caller may read with its bodies, as `GET /api/task/{id}` decides it.

        Raises NotFound and Forbidden.
        """
        ref = owned_ref(request.user, task_id, *READERS_OF_ALL, "service")
        if acts_for(request.user, container.fleet) is not None:
            history = await container.tasks.history(ref, deleted=request.user.has(*READERS_OF_ALL))
            check_task_of_server(request.user, container.fleet, ref, server_of(history))
        check_bodies(request.user, ref.owner)
        return ref

    async def find_result(request: ApiRequest, task_id: str, sequence: int | None, token: str | None) -> TaskResult:
        """Return the result that a request is for. Raises Unauthenticated, Forbidden or NotFound."""
        if request.auth is None:
            ref = await readable_ref(request, task_id)
            return await container.tasks.result(ref, sequence, deleted=request.user.has(*READERS_OF_ALL))
        linked = opened_link(container.links, token or "")
        if linked.task_id != task_id or sequence not in (None, linked.sequence):
            raise Forbidden("the `token` in the URL opens another result")
        return await container.tasks.result_at(parse_task_id(task_id), linked.sequence)

    @routes.get(
        "/task/{task_id:str}/payload",
        "Read a payload",
        "The payload alone, as the task was submitted with it",
        fails={416},
        opt=narrows(TASK),
    )
    async def get_payload(request: ApiRequest, task_id: TaskId, download: Download = False) -> LargeAnswer:
        """Return the payload of a task as its JSON text was stored: numbers and the order of fields are unchanged.

        A GET with `Range: bytes=…` gets a 206 with these bytes (one range; `If-Range` with the `ETag`). A 404 also if
        the submission is past its retention.
        """
        ref = await readable_ref(request, task_id)
        payload = await container.tasks.payload(ref, deleted=request.user.has(*READERS_OF_ALL))
        return LargeAnswer(container.results, bytes(payload), _json_headers(ref, "payload", download=download))

    @routes.get(
        "/task/{task_id:str}/result",
        "Read a result",
        "The TaskResult alone, as `result` of the task has it",
        fails={416},
        takes=LINK_TOKENS,
        opt=narrows(TASK),
    )
    async def get_result(
        request: ApiRequest,
        task_id: TaskId,
        sequence: EventSequence = None,
        token: LinkToken = None,
        download: Download = False,
    ) -> LargeAnswer:
        """Return the result of a task, however large, piece by piece. Ranges are as for the payload.

        A `$ref` in an event, in a webhook's message or in a stream is this URL. A `$ref` that a server gets for a
        parent of its task has a `token`, and needs no other. A 404 also if the task has no result, or no such one. A
        503 if too many results are being read.
        """
        found = await find_result(request, task_id, sequence, token)
        part = result_part(found.ref, found.stored)
        return LargeAnswer(container.results, part, _json_headers(found.ref, "result", download=download))

    @routes.get(
        "/task/{task_id:str}/result/file",
        "Read the file of a result",
        "The bytes as the server sent them, with their media type",
        media_type=ANY_BYTES,
        fails={416},
        takes=LINK_TOKENS,
        opt=narrows(TASK),
    )
    async def get_file(
        request: ApiRequest, task_id: TaskId, sequence: EventSequence = None, token: LinkToken = None
    ) -> LargeAnswer:
        """Return the file of a result whose `data` is `{"$ref", "mediaType", "bytes"}`: an answer that was no JSON.

        It is sent as an attachment, which browsers save and do not show: its content is the server's. A `token` that
        opens the result opens its file. A 404 also if the task has no result yet, or a result without a file:
        `GET /api/task/{id}` shows that.
        """
        found = await find_result(request, task_id, sequence, token)
        return file_answer(found, found.stored.file)

    @routes.get(
        "/task/{task_id:str}/result/file/{number:str}",
        "Read one of the files in a result",
        "The bytes as the server sent them, with their media type",
        media_type=ANY_BYTES,
        fails={416},
        takes=LINK_TOKENS,
        opt=narrows(TASK),
    )
    async def get_numbered_file(
        request: ApiRequest,
        task_id: TaskId,
        number: FileNumber,
        sequence: EventSequence = None,
        token: LinkToken = None,
    ) -> LargeAnswer:
        """Return a file that the `data` of a result has somewhere in it: its `$ref` is this path.

        As `/result/file` otherwise. A 404 also if the result has no file of this number.
        """
        found = await find_result(request, task_id, sequence, token)
        files = dict(zip(map(str, count()), found.stored.files, strict=False))
        return file_answer(found, files.get(number))

    def file_answer(found: TaskResult, file: StoredFile | None) -> LargeAnswer:
        if file is None:
            raise NotFound("file in the result of task", found.ref.id)
        part = StoredPart(file.object_name, file.size_bytes, found.ref.owner)
        return LargeAnswer(container.results, part, [(b"content-type", file.media_type.encode()), *FILE_HEADERS])

    return routes.handlers
