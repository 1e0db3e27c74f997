"""One call of OpenAI's API as a task: submitted, followed to its end, given up with its client.

A synchronous call is held until its task ends. If the client hangs up, or the wait is over, the task is cancelled: its
answer would reach nobody. A background response has no such client, and its task runs on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Literal, NamedTuple, TypeVar, cast

import structlog
from litestar.exceptions import ClientException
from msgspec import Raw

from ....commands.task_commands import CancelTask, DeleteTask
from ....container import Container
from ....errors import InvalidInput, Refused, StoreError, StoreUnavailable
from ....events.ids import TaskRef
from ....events.stream_parts import StreamParts
from ....events.task import AttemptStarted, FacadeRequest, Priority, ProgressReported
from ....projections.task_reader import TaskDetail
from ....push.feed import FeedPosition
from ....push.listeners import Scope
from ....submission.body import Submission, parse_json_object
from ...auth.access import ApiRequest, origin, take_place
from ...bodies import read_body
from ...middleware import MAY_TAKE_LONG, until_gone
from ...task_actions import give_command
from ..tasks import FacadeTask, FacadeTasks
from .ends import Ending, ending
from .errors import OpenAIError
from .models import Models

log = structlog.get_logger(__name__)
T = TypeVar("T")

PAUSE_SECONDS = 15.0
"""After how long without anything to send a stream sends a comment, which keeps proxies from closing it."""
LONGEST_MODEL = 256
TIERS: dict[str, Priority] = {"flex": "low", "priority": "high"}
"""Priorities of tasks, by `service_tier`."""
GONE = "the client hung up"


class AttemptBegun(NamedTuple):
    """An attempt was started."""


Step = AttemptBegun | StreamParts | Ending | None
"""What happens to a task; None: nothing has for a while."""


class CallBody(NamedTuple):
    """The body of a call."""

    text: bytes
    fields: dict[str, Any]

    @property
    def model(self) -> str:
        """The model that it names. Raises InvalidInput."""
        name = self.fields.get("model")
        if not isinstance(name, str) or not name or len(name) > LONGEST_MODEL or not name.isprintable():
            raise InvalidInput(f"must be the name of a model, of at most {LONGEST_MODEL} characters", "$.model")
        return name

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a field that is true or false; null counts as left out. Raises InvalidInput."""
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidInput("must be true or false", f"$.{name}")
        return value


async def read_call(request: ApiRequest, max_depth: int) -> CallBody:
    """Return the body of a call. Raises InvalidInput."""
    text = await read_body(request)
    return CallBody(text, parse_json_object(text, max_depth))


class Calls:
    """The calls of this process."""

    def __init__(self, container: Container, models: Models) -> None:
        self._container = container
        self._tasks = FacadeTasks(container)
        self._models = models
        self._wait_seconds = container.settings.openai_wait
        self._ending: set[asyncio.Task[None]] = set()

    async def submit(self, request: ApiRequest, body: CallBody, facade: FacadeRequest, *, is_held: bool) -> TaskDetail:
        """Submit the task of a call. `is_held`: the request is held until its end, which takes the place of a stream.

        Raises TooManyStreams, StreamsExhausted, and as SubmissionService.submit does.
        """
        found = await self._models.find(body.model, request.user)
        if is_held:
            take_place(request, self._container.open_streams)
        tier = body.fields.get("service_tier")
        submission = Submission(
            payload=Raw(body.text), type=found.task_type, priority=TIERS.get(tier) if isinstance(tier, str) else None
        )
        task = FacadeTask(facade=facade, submission=submission, payload=body.fields, payload_path="$", body=body.text)
        return await self._tasks.submit(request, task)

    async def steps(self, ref: TaskRef, after: int, *, live: bool) -> AsyncGenerator[Step, None]:
        """Yield what happens to a task after a sequence of the log, up to its first end.

        Parts come in order, each once; those of a report may come in several steps. `live`: before the log has them.
        Raises StoreUnavailable.
        """
        place = FeedPosition(after)
        feed = self._container.feeds.feed(Scope(ref=ref), place, PAUSE_SECONDS, in_log=True, live=live)
        async with contextlib.aclosing(feed) as items:
            async for item in items:
                if item is None:
                    yield None
                    continue
                match item.what.event if item.what is not None else None:
                    case AttemptStarted():
                        yield AttemptBegun()
                    case ProgressReported(parts=StreamParts() as parts):
                        yield parts
                    case None:
                        continue
                    case event if (end := ending(event)) is not None:
                        yield end
                        return
        raise StoreUnavailable("this process ends")

    async def end(self, request: ApiRequest, detail: TaskDetail) -> Ending:
        """Return the event that ends the task of a call. The task is cancelled if its client goes, or waits too long.

        Raises OpenAIError after the wait, ClientException if the client has gone, StoreUnavailable.
        """

        async def last() -> Ending:
            steps = self.steps(detail.ref, detail.view.created_sequence, live=False)
            async with contextlib.aclosing(steps) as found:
                async for step in found:
                    if isinstance(step, Ending):
                        return step
            raise StoreUnavailable("this process ends")

        return await self.held(request, detail.ref, last())

    async def held(self, request: ApiRequest, ref: TaskRef, waiting: Awaitable[T]) -> T:
        """Return what is waited for while the client is there; else cancel the task. Raises as `end` does."""
        cast(dict[str, Any], request.scope)[MAY_TAKE_LONG] = True
        gone = asyncio.ensure_future(until_gone(request.receive))
        wanted = asyncio.ensure_future(waiting)
        is_done = False
        try:
            await asyncio.wait({gone, wanted}, timeout=self._wait_seconds, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                is_done = True
                return wanted.result()
            if gone.done():
                raise ClientException(GONE)
            raise OpenAIError(
                504,
                f"the model has not answered within {self._wait_seconds:g} s, and the task was cancelled; use a "
                "background response for long work, or raise TASKSTREAM_OPENAI_WAIT",
                headers={"x-should-retry": "false"},
            )
        finally:
            gone.cancel()
            wanted.cancel()
            if not is_done:
                self.give_up(request, ref, GONE if gone.done() else "its client waits no longer")

    def give_up(self, request: ApiRequest, ref: TaskRef, reason: str) -> None:
        """Cancel a task whose answer would reach nobody."""
        self._begin(request, ref, CancelTask(reason=reason))

    def erase(self, request: ApiRequest, ref: TaskRef) -> None:
        """Delete a task that has ended and whose client wants nothing of it to be stored."""
        self._begin(request, ref, DeleteTask(reason="its client did not want it to be stored"))

    def _begin(self, request: ApiRequest, ref: TaskRef, command: CancelTask | DeleteTask) -> None:
        task = asyncio.create_task(self._give(request, ref, command), name="openai-end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _give(self, request: ApiRequest, ref: TaskRef, command: CancelTask | DeleteTask) -> None:
        try:
            await give_command(self._container, ref, command, origin(request))
        except Refused:
            return  # it has ended meanwhile
        except StoreError as error:
            log.warning("openai.unended", task=ref.id, reason=str(error))


Endpoint = Literal["chat/completions", "completions", "embeddings", "responses"]
