"""The Responses API: responses in the background or while the client waits, read, resumed, cancelled and deleted.

A background response is streamed from the log alone. Whatever a client has received is stored, so it can resume after
any event at any API process. That costs up to a quarter of a second of delay: the log keeps a few reports a second. A
response whose client waits is streamed live.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from litestar import Response
from litestar.params import FromPath
from litestar.response import Stream

from ....commands.task_commands import CancelTask, DeleteTask
from ....container import Container
from ....errors import AlreadyEnded, InvalidInput, NotFound, TaskstreamError
from ....events.envelope import Stored
from ....events.ids import TaskRef, owner_token
from ....events.stream_parts import StreamParts
from ....events.task import AttemptStarted, FacadeRequest, TaskEvent, TaskSucceeded
from ....instants import whole_seconds
from ....projections.task_reader import TaskDetail
from ...auth.access import SUBMITTERS, ApiRequest, origin, take_place
from ...auth.narrowing import MODEL, narrows
from ...routing import RouteHandler, Routes
from ...sse import HEARTBEAT, STREAM_HEADERS, STREAM_TYPE, until_expiry
from ...task_actions import give_command
from .calls import GONE, AttemptBegun, CallBody, Calls, Step, read_call
from .ends import Ending, data_of, ending, error_of
from .errors import OpenAIError, error_body, message_of, unsupported
from .lists import OpenAIPage, asked_page, check_query, page
from .models import reaches
from .response_events import LostParts, NumberedEvent, ResponseEvents, ResponseFacts, facts_of
from .response_items import Fields

MOST_METADATA = 16
LONGEST_NAME = 64
LONGEST_VALUE = 512
"""Characters of the names and values of `metadata`, as OpenAI has them."""
UNSUPPORTED = {
    "previous_response_id": "send the earlier turns in `input`",
    "conversation": "send the earlier turns in `input`",
    "prompt": "send the text in `input`",
}
"""Fields that would need what this service does not keep."""
_ID = re.compile(r"resp_([0-9A-HJKMNP-TV-Z]{26})")
_encode = msgspec.json.Encoder().encode


def response_routes(container: Container, calls: Calls) -> list[RouteHandler]:
    """Return the routes, without the prefix."""
    routes = Routes("/responses", "OpenAI", opt=narrows(MODEL))
    responses = Responses(container, calls)

    @routes.post("/", "Create a response", "The response, or its events", roles=SUBMITTERS)
    async def create_response(request: ApiRequest) -> Response[bytes] | Stream:
        """Create a response: in the background, or held until it has ended."""
        return await responses.create(request)

    @routes.get("/{response_id:str}", "Read a response", "The response, or its events after a number")
    async def get_response(request: ApiRequest, response_id: FromPath[str]) -> Response[bytes] | Stream:
        """Return a response as it is, or stream its events."""
        return await responses.read(request, response_id)

    @routes.post("/{response_id:str}/cancel", "Cancel a response", "The response", roles=SUBMITTERS)
    async def cancel_response(request: ApiRequest, response_id: FromPath[str]) -> Response[bytes]:
        """Cancel a background response; one that has ended stays as it is."""
        return await responses.cancel(request, response_id)

    @routes.delete("/{response_id:str}", "Delete a response", "That it is deleted", roles=SUBMITTERS)
    async def delete_response(request: ApiRequest, response_id: FromPath[str]) -> Response[bytes]:
        """Delete a response; one that runs is cancelled first."""
        return await responses.delete(request, response_id)

    @routes.get("/{response_id:str}/input_items", "List the input of a response", "A page of items")
    async def list_input_items(request: ApiRequest, response_id: FromPath[str]) -> OpenAIPage:
        """Return the items of a response's input."""
        return await responses.input_items(request, response_id)

    return routes.handlers


class Responses:
    def __init__(self, container: Container, calls: Calls) -> None:
        self._container = container
        self._calls = calls

    async def create(self, request: ApiRequest) -> Response[bytes] | Stream:
        check_query(request.query_params, ())
        body = await read_call(request, self._container.settings.max_json_depth)
        is_background, is_stream = body.flag("background"), body.flag("stream")
        if is_background and not body.flag("store", default=True):
            raise InvalidInput("must not be false for a background response, which is read from the store", "$.store")
        for name, advice in UNSUPPORTED.items():
            if body.fields.get(name) is not None:
                raise unsupported(name, advice)
        if not isinstance(body.fields.get("input"), str | list):
            raise InvalidInput("must be a text or a list of items", "$.input")
        facade = FacadeRequest(
            name="openai",
            endpoint="responses",
            model=body.model,
            is_stream=is_stream,
            metadata=metadata_in(body),
        )
        detail = await self._calls.submit(request, body, facade, is_held=is_stream or not is_background)
        created_at = whole_seconds(detail.view.created_at)
        facts = ResponseFacts(
            ref=detail.ref,
            task_type=detail.view.task_type,
            created_at=created_at,
            asked=body.fields,
            metadata=facade.metadata,
        )
        if not is_background:
            return await self._held(request, detail, facts, is_stream=is_stream)
        if is_stream:
            return self._streamed(request, self._events(request, facts, detail.view.created_sequence), facts)
        if detail.view.sequence == detail.view.created_sequence:
            return _answer(facts.shown("queued"))
        return await self.read(request, facts.id)  # an earlier request with this Idempotency-Key made it

    async def read(self, request: ApiRequest, response_id: str) -> Response[bytes] | Stream:
        query = request.query_params
        check_query(query, ("include", "include[]", "include_obfuscation", "starting_after", "stream"))
        facts, history = await self._find(request, response_id)
        is_stream, after = query.get("stream", "false") == "true", query.get("starting_after")
        if after is not None and not (after.isascii() and after.isdigit() and len(after) < 16):
            raise InvalidInput("must be a number of an event, from 0", "starting_after")
        if after is not None and not is_stream:
            raise InvalidInput("is for streams only; send `stream=true`, too", "starting_after")
        if not is_stream:
            return _answer(await self._shown(request, facts, history))
        if not facts.is_background:
            raise InvalidInput("only background responses can be streamed again", "stream")
        take_place(request, self._container.open_streams)
        last = -1 if after is None else int(after)
        return self._streamed(request, self._events(request, facts, history[0].sequence, last), facts)

    async def cancel(self, request: ApiRequest, response_id: str) -> Response[bytes]:
        check_query(request.query_params, ())
        facts, _ = await self._find(request, response_id)
        if not facts.is_background:
            raise InvalidInput("only background responses can be cancelled; hang up instead", "response_id")
        command = CancelTask(reason=f"Cancelled by {request.user.subject}")
        with contextlib.suppress(AlreadyEnded):
            await give_command(self._container, facts.ref, command, origin(request))
        facts, history = await self._find(request, response_id)
        return _answer(await self._shown(request, facts, history))

    async def delete(self, request: ApiRequest, response_id: str) -> Response[bytes]:
        check_query(request.query_params, ())
        facts, _ = await self._find(request, response_id)
        command = DeleteTask(reason=f"Deleted by {request.user.subject}")
        await give_command(self._container, facts.ref, command, origin(request))
        return _answer({"id": facts.id, "object": "response", "deleted": True})

    async def input_items(self, request: ApiRequest, response_id: str) -> OpenAIPage:
        asked = asked_page(request.query_params, ("include", "include[]"))
        facts, _ = await self._find(request, response_id)
        items = input_items_of(facts)
        if not asked.is_ascending:
            items.reverse()
        places = {item["id"]: place for place, item in enumerate(items)}
        if asked.after and asked.after not in places:
            raise InvalidInput("is no item of this response", "after")
        start = places[asked.after] + 1 if asked.after else 0
        return page(items[start : start + asked.limit + 1], asked.limit)

    async def _find(self, request: ApiRequest, response_id: str) -> tuple[ResponseFacts, list[Stored[TaskEvent]]]:
        """Return a response of the caller, and the history of its task. Raises OpenAIError, a 404."""
        found = _ID.fullmatch(response_id)
        ref = TaskRef(owner_token(request.user.subject), found[1]) if found else None
        with contextlib.suppress(NotFound):
            history = await self._container.tasks.history(ref) if ref else []
            facts = facts_of(ref, history[0].recorded) if ref and history else None
            if facts is not None and facts.is_stored and reaches(request.user, facts.task_type):
                return facts, history
        raise OpenAIError(404, f"Response with id '{response_id[:100]}' not found.", param="response_id")

    async def _shown(self, request: ApiRequest, facts: ResponseFacts, history: list[Stored[TaskEvent]]) -> Fields:
        """Return a response as it is now."""
        events = [stored.recorded.event for stored in history]
        end = next((end for event in events if (end := ending(event)) is not None), None)
        if end is not None:
            return await self._ended(request, facts, end)
        has_started = any(isinstance(event, AttemptStarted) for event in events)
        return facts.shown("in_progress" if has_started else "queued")

    async def _ended(self, request: ApiRequest, facts: ResponseFacts, end: Ending) -> Fields:
        if isinstance(end, TaskSucceeded):
            return facts.finished(await data_of(self._container, end.result, request.user.subject))
        return facts.failed(end)

    # Held

    async def _held(
        self, request: ApiRequest, detail: TaskDetail, facts: ResponseFacts, *, is_stream: bool
    ) -> Response[bytes] | Stream:
        """Answer a client that waits. Until the answer has begun, a failure has a status of its own."""
        if not is_stream:
            end = await self._calls.end(request, detail)
            self._forget(request, facts)
            if not isinstance(end, TaskSucceeded):
                raise error_of(end)
            return _answer(await self._ended(request, facts, end))
        steps = self._calls.steps(detail.ref, detail.view.created_sequence, live=True)
        try:
            first = await self._calls.held(request, detail.ref, _begun(steps))
            if not isinstance(first[-1], StreamParts | TaskSucceeded):
                raise error_of(first[-1])
        except BaseException:
            await steps.aclose()
            raise
        return self._streamed(request, self._live(request, facts, first, steps), facts)

    async def _live(
        self, request: ApiRequest, facts: ResponseFacts, first: list[Any], steps: AsyncGenerator[Step, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a response whose client waits. Its task is cancelled if the client hangs up."""
        has_ended = False
        try:
            async with contextlib.aclosing(self._numbered(request, facts, _after(first, steps))) as found:
                async for events in found:
                    yield _blocks(events)
            has_ended = True
        except (TaskstreamError, LostParts) as error:
            yield _broken(error)
        finally:
            if has_ended:
                self._forget(request, facts)
            else:
                self._calls.give_up(request, facts.ref, GONE)

    def _forget(self, request: ApiRequest, facts: ResponseFacts) -> None:
        """Delete a response that its client did not want to be stored."""
        if not facts.is_stored:
            self._calls.erase(request, facts.ref)

    # Streams

    async def _events(
        self, request: ApiRequest, facts: ResponseFacts, start: int, last: int = -1
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a background response after a number. `start`: sequence of its submission."""
        steps = self._calls.steps(facts.ref, start, live=False)
        try:
            async with contextlib.aclosing(self._numbered(request, facts, steps)) as found:
                async for events in found:
                    if block := _blocks(events, last):
                        yield block
        except (TaskstreamError, LostParts) as error:
            yield _broken(error)

    async def _numbered(
        self, request: ApiRequest, facts: ResponseFacts, steps: AsyncGenerator[Step, None]
    ) -> AsyncGenerator[list[NumberedEvent] | None, None]:
        """Yield the events of a response as its task moves on, from the first to the last. None: nothing came."""
        events = ResponseEvents(facts)
        yield events.begin()
        async with contextlib.aclosing(steps) as found:
            async for step in found:
                match step:
                    case None:
                        yield None
                    case AttemptBegun():
                        yield events.started()
                    case StreamParts():
                        yield events.parts(step)
                    case TaskSucceeded():
                        data = await data_of(self._container, step.result, request.user.subject)
                        yield events.finished(data)
                    case end:
                        yield events.failed(end)

    def _streamed(self, request: ApiRequest, blocks: AsyncGenerator[bytes, None], facts: ResponseFacts) -> Stream:
        expired = b"data: %b\n\n" % error_body(401, "the token has expired; resume with a new one")
        return Stream(
            until_expiry(blocks, request.user, expired),
            media_type=STREAM_TYPE,
            headers={**STREAM_HEADERS, "x-taskstream-task": facts.ref.id},
        )


def metadata_in(body: CallBody) -> dict[str, str]:
    """Return the `metadata` of a request. Raises InvalidInput."""
    given = body.fields.get("metadata")
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MOST_METADATA:
        raise InvalidInput(f"must be an object of at most {MOST_METADATA} texts", "$.metadata")
    for name, value in given.items():
        if not isinstance(value, str) or len(name) > LONGEST_NAME or len(value) > LONGEST_VALUE:
            allowed = f"{LONGEST_NAME} characters may be in a name and {LONGEST_VALUE} in a value, which is a text"
            raise InvalidInput(allowed, f"$.metadata.{name[:LONGEST_NAME]}")
    return given


def input_items_of(facts: ResponseFacts) -> list[Fields]:
    """Return the items that the input of a response is, each with an id."""
    given = facts.asked.get("input")
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [
        {"id": f"item_{facts.ref.unique}_{place}", **item} if isinstance(item, dict) else {"id": f"item_{place}"}
        for place, item in enumerate(given if isinstance(given, list) else [])
    ]


async def _begun(steps: AsyncGenerator[Step, None]) -> list[Any]:
    """Return what happens to a task up to the first part of its answer, or its end if there is none before."""
    found: list[Any] = []
    async for step in steps:
        if step is not None:
            found.append(step)
        if isinstance(step, StreamParts | Ending):
            break
    return found


async def _after(first: list[Any], steps: AsyncGenerator[Step, None]) -> AsyncGenerator[Step, None]:
    async with contextlib.aclosing(steps) as rest:
        for step in first:
            yield step
        if not isinstance(first[-1], Ending):
            async for step in rest:
                yield step


def _blocks(events: list[NumberedEvent] | None, after: int = -1) -> bytes:
    if events is None:
        return HEARTBEAT
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event.name.encode(), event.data) for event in events if event.number > after
    )


def _broken(error: Exception) -> bytes:
    """Return the last block of a stream that cannot go on: no event of the response, so a client may resume."""
    message = "a part of the stream is too large to be kept" if isinstance(error, LostParts) else message_of(error)
    return b"data: %b\n\n" % error_body(503, message)


def _answer(content: Any) -> Response[bytes]:
    return Response(_encode(content), media_type="application/json")
