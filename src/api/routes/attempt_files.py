"""Routes by which servers store files for the attempts that they work on."""

from __future__ import annotations

from msgspec.structs import replace

from ...clock import utc_now
from ...commands.task_reports import check_reporter
from ...commands.task_state import Processing
from ...container import Container
from ...errors import AttemptNotCurrent, NotFound
from ...events.envelope import Actor
from ...events.task import TaskSubmitted
from ...files.service import MadeBy
from ..auth.access import ATTEMPT_TOKENS, ApiRequest, check_task_of_server, owned_ref
from ..auth.authenticator import Unauthenticated
from ..middleware import request_id
from ..parameters import IdempotencyKey, TaskId, checked_key
from ..routing import RouteHandler, Routes
from ..schemas.files import FileSummary, file_summary
from ..task_updates import find_attempt, reporter_of, server_of
from ..uploads import Upload
from .attempts import NO_ATTEMPT, AttemptId
from .files import FileName, MediaType, Sha256, UploadOperation, read_details

FAILS = {408, 409, 413, 415, 422, 429}


def attempt_file_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Files")
    files = container.files

    async def store(
        request: ApiRequest,
        owner: str,
        made_by: MadeBy,
        by: Actor,
        query: dict[str, str | None],
        key: str | None,
    ) -> FileSummary:
        """Store the file of a request for the owner of a task, whose quota applies. It is deleted with the task."""
        upload = Upload(request, files.most_bytes)
        stored = await files.create(
            owner,
            aiter(upload),
            lambda: replace(read_details(upload, query, utc_now()), purpose="", expires_at=None),
            size_bytes=upload.size_bytes,
            idempotency_key=None if key is None else f"{made_by.task}\n{made_by.attempt}\n{checked_key(key)}",
            made_by=made_by,
            by=by,
            cause=request_id(request.scope),
        )
        return file_summary(stored.ref, stored.file, files.links.url(stored.ref))

    @routes.post(
        "/task/{task_id:str}/files",
        "Store a file for a task",
        'The file; a result names it as `{"$file": id}`',
        fails=FAILS,
        takes=ATTEMPT_TOKENS,
        operation_class=UploadOperation,
    )
    async def upload_task_file(
        request: ApiRequest,
        task_id: TaskId,
        name: FileName = None,
        media_type: MediaType = None,
        sha256: Sha256 = None,
        idempotency_key: IdempotencyKey = None,
    ) -> FileSummary:
        """Store a file for the owner of a task that runs, from its server: a result that is too large to be sent along.

        The bearer token is the `callback_token` that came with the task, or as for `PUT /api/task/{id}`. The result
        names the file as `{"$file": "<id>"}`. The file is the owner's, counts towards their quota, and is deleted with
        the task.
        """
        started = None
        if request.auth is None:
            ref = owned_ref(request.user, task_id, "service", "admin")
            history = await container.tasks.history(ref)
            check_task_of_server(request.user, container.fleet, ref, server_of(history))
        else:
            ref, history, started = await find_attempt(container, request.auth, task_id)
        state = container.commands.tasks.fold(history).state
        reporter, by = reporter_of(container, request.user, "", started)
        check_reporter(reporter, state)
        if not isinstance(state, Processing):
            raise AttemptNotCurrent(None)
        submitted = history[0].recorded.event
        assert isinstance(submitted, TaskSubmitted)
        made_by = MadeBy(ref.id, state.facts.attempt)
        query = {"name": name, "type": media_type, "sha256": sha256}
        return await store(request, submitted.owner, made_by, by, query, idempotency_key)

    @routes.post(
        "/attempts/{attempt_id:str}/files",
        "Store a file for an attempt",
        'The file; a result names it as `{"$file": id}`',
        fails=FAILS,
        takes=ATTEMPT_TOKENS,
        operation_class=UploadOperation,
    )
    async def upload_attempt_file(
        request: ApiRequest,
        attempt_id: AttemptId,
        name: FileName = None,
        media_type: MediaType = None,
        sha256: Sha256 = None,
        idempotency_key: IdempotencyKey = None,
    ) -> FileSummary:
        """Store a file for the owner of an attempt's task, from its puller, as `POST /api/task/{id}/files` does.

        The bearer token is the `token` that came with the attempt.
        """
        try:
            found = await container.pulled_attempts.by_token(attempt_id, request.auth or "")
        except NotFound:
            raise Unauthenticated(NO_ATTEMPT) from None
        if found.running is None:
            raise AttemptNotCurrent(None)
        submitted = found.history[0].recorded.event
        assert isinstance(submitted, TaskSubmitted)
        made_by = MadeBy(found.key.ref.id, found.key.attempt)
        query = {"name": name, "type": media_type, "sha256": sha256}
        by = Actor("server", found.server_id)
        return await store(request, submitted.owner, made_by, by, query, idempotency_key)

    return routes.handlers
