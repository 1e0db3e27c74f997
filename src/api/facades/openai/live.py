"""The interactive half of OpenAI's API: the models, and the calls that wait for their answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from litestar import Response
from litestar.params import FromPath
from litestar.response import Stream

from ....container import Container
from ....errors import InvalidInput, TaskstreamError
from ....events.json_text import compact
from ....events.stream_parts import StreamParts
from ....events.task import FacadeRequest, TaskSucceeded
from ....projections.task_reader import TaskDetail
from ...auth.access import SUBMITTERS, ApiRequest
from ...auth.narrowing import MODEL, narrows
from ...routing import RouteHandler, Routes
from ...sse import HEARTBEAT, STREAM_HEADERS, STREAM_TYPE, until_expiry
from .calls import AttemptBegun, Calls, Endpoint, Step, read_call
from .ends import Ending, chunk_of, data_of, error_of
from .errors import OpenAIError, error_body, message_of
from .lists import OpenAIPage, check_query, page
from .models import Models, OfferedModel
from .responses import response_routes

TASK_ID = "x-taskstream-task"
"""Header with the id of the task that a call was."""
DONE = b"data: [DONE]\n\n"
EXPIRED = error_body(401, "the token has expired; the rest of the answer is not sent")
CUT = "a part of the stream was lost, or is too large to be kept"


def live_routes(container: Container) -> list[RouteHandler]:
    """Return the routes, without the prefix."""
    routes = Routes("/", "OpenAI", opt=narrows(MODEL))
    models = Models(container)
    calls = Calls(container, models)
    completions = Completions(container, calls)

    @routes.get("/models", "List the models", "All models, by name")
    async def list_models(request: ApiRequest) -> OpenAIPage:
        """Return all models: OpenAI's API does not page this list."""
        check_query(request.query_params, ())
        found = models.all(request.user)
        return page(found, len(found))

    @routes.get("/models/{name:path}", "Read a model", "The model")
    async def get_model(request: ApiRequest, name: FromPath[str]) -> OfferedModel:
        """Return a model; its name may have slashes."""
        check_query(request.query_params, ())
        return (await models.find(name.removeprefix("/"), request.user)).model

    @routes.post("/chat/completions", "Complete a chat", "The server's answer", roles=SUBMITTERS)
    async def complete_chat(request: ApiRequest) -> Response[bytes] | Stream:
        """Pass a chat on to a server that has the model, and its answer back: whole, or part by part."""
        return await completions.answer(request, "chat/completions", "messages")

    @routes.post("/completions", "Complete a text", "The server's answer", roles=SUBMITTERS)
    async def complete_text(request: ApiRequest) -> Response[bytes] | Stream:
        """Pass a prompt on to a server that has the model, and its answer back: whole, or part by part."""
        return await completions.answer(request, "completions", "prompt")

    @routes.post("/embeddings", "Embed texts", "The server's answer", roles=SUBMITTERS)
    async def embed(request: ApiRequest) -> Response[bytes] | Stream:
        """Pass texts on to a server that has the model, and its answer back."""
        return await completions.answer(request, "embeddings", "input")

    return [*routes.handlers, *response_routes(container, calls)]


class Completions:
    """Calls whose answers are the server's own, byte for byte."""

    def __init__(self, container: Container, calls: Calls) -> None:
        self._container = container
        self._calls = calls
        self._max_depth = container.settings.max_json_depth

    async def answer(self, request: ApiRequest, endpoint: Endpoint, needed: str) -> Response[bytes] | Stream:
        """Return the answer to a call. Raises OpenAIError for one that came to nothing before it began."""
        check_query(request.query_params, ())
        body = await read_call(request, self._max_depth)
        if body.fields.get(needed) is None:
            raise InvalidInput("is needed", f"$.{needed}")
        is_stream = endpoint != "embeddings" and body.flag("stream")
        facade = FacadeRequest(name="openai", endpoint=endpoint, model=body.model, is_stream=is_stream)
        detail = await self._calls.submit(request, body, facade, is_held=True)
        if is_stream:
            return await self._stream(request, detail)
        end = await self._calls.end(request, detail)
        return Response(await self._data(request, end), media_type="application/json", headers=headers_of(detail))

    async def _data(self, request: ApiRequest, end: Ending) -> bytes:
        """Return the server's answer. Raises OpenAIError."""
        if not isinstance(end, TaskSucceeded):
            raise error_of(end)
        return await data_of(self._container, end.result, request.user.subject)

    async def _stream(self, request: ApiRequest, detail: TaskDetail) -> Stream:
        """Return the stream of an answer once it has begun: until then a failure has a status of its own."""
        steps = self._calls.steps(detail.ref, detail.view.created_sequence, live=True)
        try:
            first = await self._calls.held(request, detail.ref, begun(steps))
            if isinstance(first, Ending):
                blocks = self._whole(await self._data(request, first))
            else:
                blocks = self._parts(request, detail, first, steps)
        except BaseException:
            await steps.aclose()
            raise
        last = b"data: %b\n\n" % EXPIRED
        return Stream(
            until_expiry(blocks, request.user, last),
            media_type=STREAM_TYPE,
            headers={**STREAM_HEADERS, **headers_of(detail)},
        )

    async def _whole(self, data: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the answer of a server that does not stream, as one part."""
        yield b"data: %b\n\n" % chunk_of(data)
        yield DONE

    async def _parts(
        self, request: ApiRequest, detail: TaskDetail, first: StreamParts, steps: AsyncGenerator[Step, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the parts of an answer as they come, then DONE, or an error: a stream never just ends."""
        sent = 0
        has_ended = False
        step: Step = first
        try:
            while not has_ended:
                match step:
                    case StreamParts():
                        if step.first > sent:
                            raise OpenAIError(502, CUT)
                        yield b"".join(
                            b"data: %b\n\n" % compact(text.encode()) for text in list(step.texts())[sent - step.first :]
                        )
                        sent = max(sent, step.following)
                    case TaskSucceeded():
                        has_ended = True
                        yield DONE
                        return
                    case AttemptBegun():
                        pass
                    case None:
                        yield HEARTBEAT
                    case end:
                        has_ended = True
                        yield b"data: %b\n\n" % error_of(end).body
                        return
                step = await anext(steps)
        except (TaskstreamError, StopAsyncIteration) as error:
            yield b"data: %b\n\n" % error_body(502, message_of(error))
        finally:
            if not has_ended:
                self._calls.give_up(request, detail.ref, "the client hung up")
            with contextlib.suppress(asyncio.CancelledError):
                await steps.aclose()


async def begun(steps: AsyncGenerator[Step, None]) -> StreamParts | Ending:
    """Return the first part of an answer, or its end if there is none before."""
    async for step in steps:
        if isinstance(step, StreamParts | Ending):
            return step
    raise OpenAIError(503, "this process ends; try again")


def headers_of(detail: TaskDetail) -> dict[str, str]:
    """Return the header that names the task of a call, for its `why` and its events."""
    return {TASK_ID: detail.ref.id}
