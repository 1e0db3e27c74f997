"""Webhooks of Cog: the end of a prediction that runs without a connection (`backends/dialects/cog.py`)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

from ..backends.dialects.cog_prediction import Verdict, read_prediction
from ..backends.dialects.cog_progress import last_update
from ..backends.dialects.dialect import BadAnswer, Completed, FailedByBackend, attempt_id
from ..backends.redaction import without_keys
from ..clock import utc_now
from ..commands.task_reports import check_reporter
from ..container import Container
from ..errors import AlreadyEnded, AttemptNotCurrent, Forbidden, InvalidInput, Refused
from ..events.envelope import Stored
from ..events.ids import TaskRef
from ..events.task import AttemptStarted, TaskEvent, TaskSubmitted
from ..instants import milliseconds
from .auth.access import READERS_OF_ALL, ApiRequest, owned_ref
from .bodies import read_body
from .middleware import request_id
from .task_updates import attempt_reporter, find_attempt, keys_of


async def record_webhook(container: Container, request: ApiRequest, task_id: str, *, concatenates: bool) -> TaskRef:
    """End a task as a prediction says. A prediction that runs, was cancelled, or is of an earlier attempt does nothing.

    Repeating is safe. Access is checked before the body is read. Raises InvalidInput for what is no prediction of the
    attempt.
    """
    if request.auth is None:
        owned_ref(request.user, task_id, *READERS_OF_ALL, "service")
        raise Forbidden("only the `token` of an attempt may report: use the whole URL as the server got it")
    ref, history, started = await find_attempt(container, request.auth, task_id)
    reporter, by = attempt_reporter(started)
    known = container.commands.tasks.fold(history)
    try:
        check_reporter(reporter, known.state)
    except (AlreadyEnded, AttemptNotCurrent):
        return ref
    body = without_keys(await read_body(request), await keys_of(container, ref, history))
    try:
        prediction = read_prediction(body)
    except BadAnswer as error:
        raise InvalidInput(str(error), "$") from None
    if prediction.id not in (None, attempt_id(task_id, started.attempt)):
        raise InvalidInput("is the id of another prediction than the attempt's", "$.id")
    if prediction.status not in ("succeeded", "failed"):
        return ref  # if it was cancelled, the worker finds that it is gone
    verdict = Verdict(
        task_id=task_id,
        server_id=started.server_id,
        concatenates=concatenates,
        accepts="json" if _accepts_json_only(container, history) else "any",
    )
    elapsed_ms = _elapsed_ms(history, started)
    try:
        ending = verdict.of(prediction, elapsed_ms)
    except BadAnswer as error:
        ending = verdict.failed(prediction, f"the prediction {error}", elapsed_ms)
    assert isinstance(ending, Completed | FailedByBackend)
    cause = request_id(request.scope)
    with contextlib.suppress(Refused):
        if (update := last_update(prediction)) is not None:
            await container.reports.progress(ref, update, reporter, by=by, cause=cause, known=known)
        digest = hashlib.sha256(body).hexdigest()
        await container.reports.end(ref, ending, reporter, update_digest=digest, by=by, cause=cause, known=known)
    return ref


def _accepts_json_only(container: Container, history: Sequence[Stored[TaskEvent]]) -> bool:
    submitted = history[0].recorded.event
    definition = container.fleet.definition(submitted.task_type) if isinstance(submitted, TaskSubmitted) else None
    return definition is not None and definition.accepts == "json"


def _elapsed_ms(history: Sequence[Stored[TaskEvent]], started: AttemptStarted) -> int:
    """Return the milliseconds since an attempt started."""
    at = next(stored.recorded.at for stored in history if stored.recorded.event is started)
    return max(0, milliseconds(utc_now()) - milliseconds(at))
