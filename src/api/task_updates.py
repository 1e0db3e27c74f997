"""Updates of a task: from its backend by callback, or from its owner."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Sequence

import msgspec
from litestar.exceptions import HTTPException

from ..backends.dialects.contents import DEEPEST_ANSWER
from ..backends.dialects.task_update import TaskUpdate, read_update
from ..backends.redaction import without_keys
from ..commands.task_commands import Reporter
from ..commands.task_reports import check_reporter
from ..container import Container
from ..errors import InvalidInput, NotFound
from ..events.envelope import Actor, Stored
from ..events.ids import TaskRef, parse_task_id
from ..events.task import AttemptStarted, TaskEvent, TaskSubmitted
from ..settings import Settings
from ..submission.body import as_object, parse_json_object
from ..vault.sealing import SealingError
from ..wire.json_text import Json, read_json
from .auth.access import ApiRequest, actor, check_task_of_server, owned_ref, reads_bodies
from .auth.authenticator import Identity, Unauthenticated
from .bodies import read_body
from .middleware import request_id
from .schemas.tasks import TaskAnswer, task_answer

NO_ATTEMPT = "the token belongs to no attempt of this task"


async def record_update(container: Container, request: ApiRequest, task_id: str) -> TaskAnswer:
    """Record an update; return the task after it.

    Before the body is read, access is checked, and whether any report of the caller would be refused now.
    """
    settings = container.settings
    started: AttemptStarted | None = None
    if request.auth is None:
        ref = owned_ref(request.user, task_id, "service", "admin")
        history = await container.tasks.history(ref)
        check_task_of_server(request.user, container.fleet, ref, server_of(history))
    else:
        ref, history, started = await find_attempt(container, request.auth, task_id)
    known = container.commands.tasks.fold(history)
    check_reporter(reporter_of(container, request.user, "", started)[0], known.state)
    most_bytes, too_large = _body_limit(settings, request.user, started)
    body = without_keys(await read_body(request, most_bytes, too_large), await keys_of(container, ref, history))
    update = parse_update(body, task_id, settings.max_json_depth)
    if not update.is_final and len(body) > settings.max_body:
        raise HTTPException(status_code=413, detail=f"a progress report may have {settings.max_body} bytes at most")
    reporter, by = reporter_of(container, request.user, update.server_id, started)
    cause = request_id(request.scope)
    if update.is_final:
        ending, digest = update.ending(update.result(task_id)), update.digest
        await container.reports.end(ref, ending, reporter, update_digest=digest, by=by, cause=cause, known=known)
    else:
        if reporter.kind == "person":  # nobody's work: it may be refused
            await container.submissions.check_bytes(ref.owner, len(body))
        await container.reports.progress(ref, update.progress(), reporter, by=by, cause=cause, known=known)
    detail = container.reports.with_waiting(await container.tasks.detail(ref))
    return task_answer(detail, settings, bodies=reads_bodies(request.user, ref.owner))


def _body_limit(settings: Settings, identity: Identity, started: AttemptStarted | None) -> tuple[int | None, str]:
    """Return how large an update of a caller may be (None: as the route says), and the error of a larger one.

    Only backends make large results. Anybody else could use an update to store what a submission may not have.
    """
    if started is not None or identity.has("service"):
        return None, ""
    return settings.max_body, (
        f"an update of a person may have {settings.max_body} bytes at most; a server may send more, with the "
        "`callback_token` of its attempt or a token with the role service"
    )


async def keys_of(container: Container, ref: TaskRef, history: Sequence[Stored[TaskEvent]]) -> list[str]:
    """Return the keys that a task's server received and may echo: the model's and its own, as long as they exist."""
    found: list[tuple[TaskRef | str, str]] = []
    submitted = history[0].recorded.event
    if isinstance(submitted, TaskSubmitted):
        found.append((ref, submitted.key_id))
    started = (stored.recorded.event for stored in reversed(history))
    server_id = next((event.server_id for event in started if isinstance(event, AttemptStarted)), "")
    if (server := container.fleet.find(server_id)) is not None:
        found.append((server_id, server.settings.api_key_id))
    keys = []
    for holder, key_id in found:
        if key_id:
            with contextlib.suppress(SealingError):
                keys.append(await container.secrets.get(holder, key_id))
    return keys


def server_of(history: Sequence[Stored[TaskEvent]]) -> str | None:
    """Return the server of a task's last attempt, None without one."""
    started = (stored.recorded.event for stored in reversed(history))
    return next((event.server_id for event in started if isinstance(event, AttemptStarted)), None)


async def find_attempt(
    container: Container, token: str, task_id: str
) -> tuple[TaskRef, list[Stored[TaskEvent]], AttemptStarted]:
    """Return the task, its history and the attempt that a callback token belongs to.

    Raises Unauthenticated, also if there is no such task: a made-up token reveals nothing.
    """
    try:
        ref = parse_task_id(task_id)
        history = await container.tasks.history(ref)
    except NotFound:
        raise Unauthenticated(NO_ATTEMPT) from None
    started = attempt_of_token(token, history)
    if started is None:
        raise Unauthenticated(NO_ATTEMPT)
    return ref, history, started


def attempt_reporter(started: AttemptStarted) -> tuple[Reporter, Actor]:
    """Return the reporter that the server of an attempt is, and the actor of its events."""
    reporter = Reporter(kind="server", attempt=started.attempt, server_id=started.server_id)
    return reporter, Actor("server", started.server_id)


def reporter_of(
    container: Container, identity: Identity, server_id: str, started: AttemptStarted | None
) -> tuple[Reporter, Actor]:
    """Return the reporter that the caller is, and the actor of its events."""
    if started is not None:
        return attempt_reporter(started)
    if not identity.has("service"):
        return Reporter(kind="person"), actor(identity)
    # A backend may use another name than it was registered with; such a name is ignored.
    server_id = server_id if container.fleet.knows(server_id) else ""
    return Reporter(kind="server", server_id=server_id), Actor("server", identity.subject, identity.key_id)


def parse_update(body: bytes, task_id: str, max_depth: int) -> TaskUpdate:
    """Return a body as an update; a wrong value of any other field than the status does not lose it.

    It may be as deep as an answer, where that is deeper than other bodies. Raises InvalidInput.
    """
    depth = max(max_depth, DEEPEST_ANSWER)
    try:
        found = read_json(body)
    except (msgspec.DecodeError, RecursionError):
        found = Json(body, parse_json_object(body, depth))  # raises, and says what is wrong
    as_object(found.content, found.text, depth)
    update = read_update(found)
    if update.is_of_another(task_id):
        raise InvalidInput("is the id of another task; send the id in the path, or leave it out", "$.task_id")
    return update


def attempt_of_token(token: str, history: Sequence[Stored[TaskEvent]]) -> AttemptStarted | None:
    """Return the attempt that a callback token was made for, None if it belongs to no attempt of the task."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    for stored in history:
        event = stored.recorded.event
        if isinstance(event, AttemptStarted) and hmac.compare_digest(event.token_digest, digest):
            return event
    return None
