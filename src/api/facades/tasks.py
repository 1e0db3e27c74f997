"""Tasks of façades: the type that a model is, the submission, and the wait for the end.

To everything else they are ordinary tasks: limits, `/why`, the console and the log know no difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from datetime import timedelta
from typing import Any

from msgspec import Struct

from ...clock import utc_now
from ...container import Container
from ...errors import InvalidInput, NotFound, StreamsExhausted, TooManyStreams
from ...events.ids import TaskRef, new_ref, owner_token, ref_for_key
from ...events.task import FacadeRequest
from ...events.task_type import TypeDefined
from ...instants import epoch_seconds
from ...projections.task_reader import TaskDetail
from ...submission.body import Submission, TaskRequest, fingerprint
from ..auth.access import ApiRequest, origin
from ..middleware import headers_of, trace_context
from ..parameters import made_ref
from ..routes.tasks import until_ended

REPEATS = b"taskstream-repeats-within"
"""Header of a client that repeats POST requests without an Idempotency-Key: the same request of the same user, within
so many seconds, is a repetition of the first."""
LONGEST_REPEAT_SECONDS = 3_600
_SECONDS = re.compile(rb"[0-9]{1,6}")


class FacadeTask(Struct, frozen=True, kw_only=True):
    """A task as a façade's request asks for it."""

    facade: FacadeRequest
    submission: Submission
    payload: Any
    """The payload of `submission`, decoded."""
    payload_path: str = "$.input"
    """Where the payload is in the request."""
    body: bytes
    """The request's body: with the same Idempotency-Key, it must be the same."""


class FacadeTasks:
    """Submits the tasks of façades, and waits for them."""

    def __init__(self, container: Container) -> None:
        self._container = container

    async def type_of(self, model: str) -> TypeDefined:
        """Return the type that a model is: the one with this `model`, else one of this name. Raises NotFound.

        The name of a type is also the last part of `owner/name`, unless the type has a `model`.
        """
        found = self._type_of(model)
        if found is None:
            await self._container.fleet.catch_up(self._container.reading)
            found = self._type_of(model)
        if found is None:
            raise NotFound("model", model)
        return found

    def _type_of(self, model: str) -> TypeDefined | None:
        fleet = self._container.fleet
        if (name := fleet.type_of_model(model)) is not None:
            return fleet.definition(name)
        definition = fleet.definition(model.rpartition("/")[2])
        return definition if definition is not None and not definition.model else None

    async def submit(self, request: ApiRequest, asked: FacadeTask) -> TaskDetail:
        """Append a task and return it; of a repeated request, the task that the first one made.

        Raises as SubmissionService.submit does.
        """
        owner = request.user.subject
        ref, is_repeatable = await self._ref(request, owner_token(owner), asked)
        task = TaskRequest(
            owner=owner,
            submission=asked.submission,
            payload=asked.payload,
            payload_path=asked.payload_path,
            fingerprint=fingerprint(asked.body) if is_repeatable else "",
            repeatable=is_repeatable,
            trace=trace_context(request.scope),
            facade=asked.facade,
        )
        handled = await self._container.submissions.submit(ref, task, **origin(request))
        tasks, new = self._container.tasks, handled.appended
        return tasks.detail_of(ref, new) if new else await tasks.detail(ref)

    async def ended(self, request: ApiRequest, detail: TaskDetail, seconds: float) -> TaskDetail:
        """Return a task when it has ended, or as it is after `seconds`, or at once over a limit of open streams."""
        if seconds > 0:
            with contextlib.suppress(TooManyStreams, StreamsExhausted):
                return await until_ended(self._container, request, detail, seconds)
        return detail

    async def _ref(self, request: ApiRequest, owner: str, asked: FacadeTask) -> tuple[TaskRef, bool]:
        """Return the id of the task that a request makes, and whether the same request again would make the same one.

        Raises InvalidInput.
        """
        headers = headers_of(request.scope)
        if (key := headers.get(b"idempotency-key")) is not None:
            return made_ref(owner, key.decode("latin-1"), new_ref, ref_for_key), True
        if (within := headers.get(REPEATS)) is None:
            return made_ref(owner, None, new_ref, ref_for_key), False
        if not _SECONDS.fullmatch(within) or not 0 < int(within) <= LONGEST_REPEAT_SECONDS:
            raise InvalidInput(f"must be whole seconds, 1 to {LONGEST_REPEAT_SECONDS}", REPEATS.decode())
        seconds, now = int(within), utc_now()
        window = int(epoch_seconds(now) // seconds)
        path = request.scope["path"].encode()
        content = hashlib.sha256(b"%d\0%b\0%b" % (seconds, path, asked.body)).hexdigest()
        earlier = ref_for_key(owner, f"repeat\n{content}\n{window - 1}")
        with contextlib.suppress(NotFound):  # the first request may lie in the window before
            found = await self._container.tasks.detail(earlier)
            if now - found.view.created_at <= timedelta(seconds=seconds):
                return earlier, True
        return ref_for_key(owner, f"repeat\n{content}\n{window}"), True
