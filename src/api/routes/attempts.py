"""Routes of pullers: take attempts, renew them, report on them, and learn which to stop."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import msgspec
from litestar.params import PathParameter
from msgspec import Raw

from ...backends.dialects.contents import DEEPEST_ANSWER
from ...backends.dialects.task_update import TaskUpdate, read_update
from ...backends.redaction import without_keys
from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound
from ...events.envelope import NULL
from ...pulling.attempts import PulledAttempt
from ...pulling.requests import Wanted
from ...submission.body import as_object, parse_json_object
from ...wire.json_text import Json, read_json
from ..auth.access import ATTEMPT_TOKENS, WITHHELD, ApiRequest, check_server, origin
from ..auth.authenticator import Unauthenticated
from ..bodies import decoded_as, read_as, read_body
from ..middleware import request_id
from ..pulled_servers import held_open, pulled_server, record_sign_of_life
from ..routing import RouteHandler, Routes
from ..schemas.attempts import (
    CancelledBody,
    PulledFailure,
    PulledProgress,
    PulledResult,
    PulledStanding,
    StoppedPage,
    TakeAnswer,
    TakeBody,
    pulled_standing,
    take_answer,
)
from ..schemas.shared import ReasonBody

NO_ATTEMPT = "the token belongs to no such attempt; send the `token` that came with it, and stop if it did"

AttemptId = Annotated[
    str,
    PathParameter(
        description="An attempt's id, from the answer to `POST /api/attempts/take`",
        schema_extra={"pattern": r"^[A-Za-z0-9_=~-]+$(?!\n)", "examples": ["gAAAAAB2"]},
    ),
]


def attempt_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/attempts", "Attempts")
    depth = container.settings.max_json_depth

    @routes.post(
        "/take",
        "Take tasks for a pulled server",
        "The attempts, perhaps none",
        body=TakeBody,
        roles=("service", "admin"),
        fails={404, 429},
    )
    async def take_attempts(request: ApiRequest) -> TakeAnswer:
        """Wait for tasks that a server may run, and take them. Each is the puller's until its lease ends.

        Limits, labels, priorities and pauses are as for other servers. The request is a sign of life of the server: it
        is online while its pullers ask or renew. A `service` token may ask for the servers that it acts for.
        """
        body = await read_as(request, TakeBody, depth)
        check_server(request.user, container.fleet, body.server)
        if not (request.user.has("service") or request.user.payloads):
            raise Forbidden(WITHHELD)
        signed = origin(request)
        server = await pulled_server(container, body.server, signed)
        check_labels(body.labels, server.settings.labels)
        wanted = Wanted(most=body.most, types=tuple(body.types), labels=body.labels)
        alive = partial(record_sign_of_life, container, body.server, signed)
        async with held_open(request) as gone:
            return take_answer(await container.pull_requests.take(body.server, wanted, body.wait, gone, alive))

    @routes.post(
        "/cancelled",
        "Wait for attempts to stop",
        "Those of the attempts that are over",
        body=CancelledBody,
        roles=("service", "admin"),
        fails={404, 429},
    )
    async def wait_for_cancelled(request: ApiRequest) -> StoppedPage:
        """Wait until one of a puller's attempts is over without it: cancelled, lost, or late. Stop working on it."""
        body = await read_as(request, CancelledBody, depth)
        check_server(request.user, container.fleet, body.server)
        await pulled_server(container, body.server, origin(request))
        with container.pulled_attempts.watchers.open(body.server):
            async with held_open(request) as gone:
                over = await container.pulled_attempts.stopped(body.server, body.attempts, body.wait, gone)
        return StoppedPage(attempts=[pulled_standing(each, answer) for each, answer in over.items()])

    _add_reports(routes, container)
    return routes.handlers


def _add_reports(routes: Routes, container: Container) -> None:
    settings, attempts = container.settings, container.pulled_attempts
    depth = settings.max_json_depth

    async def find(request: ApiRequest, attempt_id: str) -> PulledAttempt:
        """Return the attempt of a request's token. Raises Unauthenticated: a made-up token reveals nothing."""
        try:
            found = await attempts.by_token(attempt_id, request.auth or "")
        except NotFound:
            raise Unauthenticated(NO_ATTEMPT) from None
        return found

    async def read_json_body(request: ApiRequest, found: PulledAttempt) -> bytes:
        """Return the body without the keys that the puller received."""
        return without_keys((await read_body(request)).strip() or b"{}", await attempts.keys(found))

    @routes.post("/{attempt_id:str}/renew", "Renew an attempt", "What has become of the attempt", takes=ATTEMPT_TOKENS)
    async def renew_attempt(request: ApiRequest, attempt_id: AttemptId) -> PulledStanding:
        """Renew the lease of an attempt. Its bearer token is the `token` that came with the attempt."""
        found = await find(request, attempt_id)
        return pulled_standing(attempt_id, await attempts.renew(found))

    @routes.post(
        "/{attempt_id:str}/progress",
        "Report progress of an attempt",
        "What has become of the attempt",
        body=PulledProgress,
        takes=ATTEMPT_TOKENS,
    )
    async def report_progress(request: ApiRequest, attempt_id: AttemptId) -> PulledStanding:
        """Record progress, and renew the lease of the attempt."""
        found = await find(request, attempt_id)
        update = as_update(await read_json_body(request, found), "PROCESSING", depth)
        answer = await attempts.progress(found, update.progress(), request_id(request.scope))
        return pulled_standing(attempt_id, answer)

    @routes.post(
        "/{attempt_id:str}/done",
        "End a task with its result",
        "What has become of the attempt",
        body=PulledResult,
        takes=ATTEMPT_TOKENS,
        request_max_body_size=settings.max_result,
    )
    async def finish_attempt(request: ApiRequest, attempt_id: AttemptId) -> PulledStanding:
        """Record the result of a task. The same result again changes nothing and is `recorded` as well."""
        found = await find(request, attempt_id)
        text = await read_json_body(request, found)
        given = checked(text, PulledResult, depth)
        metadata = {**given.metadata, **({"message": given.message} if given.message else {})}
        return await _end(request, attempt_id, found, as_update(text, "FINISHED", depth, metadata))

    @routes.post(
        "/{attempt_id:str}/fail",
        "Fail an attempt",
        "What has become of the attempt",
        body=PulledFailure,
        takes=ATTEMPT_TOKENS,
        request_max_body_size=settings.max_result,
    )
    async def report_failure(request: ApiRequest, attempt_id: AttemptId) -> PulledStanding:
        """Record that an attempt failed. With `retry` the task is tried again; without, it fails."""
        found = await find(request, attempt_id)
        text = await read_json_body(request, found)
        given = checked(text, PulledFailure, depth)
        if not given.retry:
            update = as_update(text, "FAILED", depth, {"message": given.error})
            return await _end(request, attempt_id, found, update)
        pause = None if given.retry_after is None else timedelta(seconds=given.retry_after)
        answer = await attempts.fail(found, given.error, pause, request_id(request.scope))
        return pulled_standing(attempt_id, answer)

    @routes.post(
        "/{attempt_id:str}/release",
        "Give an attempt back",
        "What has become of the attempt",
        body=ReasonBody,
        takes=ATTEMPT_TOKENS,
    )
    async def release_attempt(request: ApiRequest, attempt_id: AttemptId) -> PulledStanding:
        """Give an attempt back: it does not count, and the task is in its queue again."""
        found = await find(request, attempt_id)
        given = decoded_as(await read_json_body(request, found), ReasonBody, depth)
        reason = given.reason or "its puller gave it back"
        return pulled_standing(attempt_id, await attempts.give_back(found, reason, request_id(request.scope)))

    async def _end(request: ApiRequest, attempt_id: str, found: PulledAttempt, update: TaskUpdate) -> PulledStanding:
        seen = {"server_id": found.server_id, **({"progress": 100} if update.status == "FINISHED" else {})}
        ending = update.ending(update.result(found.key.ref.id, **seen))
        answer = await attempts.finish(found, ending, update.digest, request_id(request.scope))
        return pulled_standing(attempt_id, answer)


def check_labels(given: dict[str, str] | None, registered: dict[str, str]) -> None:
    """Raise InvalidInput for a label of a puller that its server does not have."""
    for key, value in (given or {}).items():
        if registered.get(key) != value:
            raise InvalidInput(f"the server is not registered with the label {key}={value}", "$.labels")


def checked(text: bytes, shape: type[Any], depth: int) -> Any:
    """Return a report as a shape; its data may be as deep as an answer. Raises InvalidInput."""
    found = _json(text, depth)
    return decoded_as(found.text, shape, max(depth, DEEPEST_ANSWER))


def as_update(text: bytes, status: str, depth: int, metadata: dict[str, Any] | None = None) -> TaskUpdate:
    """Return a report as the update that a callback with the same content is. Raises InvalidInput.

    `metadata`: of the update; None: all fields of the report but `data`.
    """
    found = _json(text, depth)

    def rearranged(report: bytes) -> bytes:
        fields = msgspec.json.decode(report, type=dict[str, Raw])
        data = fields.pop("data" if metadata is None else "result", NULL)
        said = fields if metadata is None else metadata
        return msgspec.json.encode({"data": data, "metadata": {**said, "status": status}})

    update = rearranged(found.text)
    marked = None if found.marked is None else rearranged(found.marked)
    return read_update(Json(update, msgspec.json.decode(update), marked))


def _json(text: bytes, depth: int) -> Json:
    deepest = max(depth, DEEPEST_ANSWER)
    try:
        found = read_json(text)
    except (msgspec.DecodeError, RecursionError):
        found = Json(text, parse_json_object(text, deepest))  # raises, and says what is wrong
    as_object(found.content, found.text, deepest)
    return found
