"""Predictions of Replicate's API: ordinary tasks, created, read, listed and cancelled in another form.

A caller sees their own tasks as predictions, whatever they were submitted to, and nobody else's, whatever their role.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, NamedTuple

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Struct

from ....clock import utc_now
from ....commands.task_commands import CancelTask
from ....container import Container
from ....errors import InvalidInput, NotFound, RuleBroken
from ....events.ids import TaskRef, owner_token, parse_task_id
from ....events.task import FacadeRequest
from ....events.task_type import TypeDefined
from ....facades.model_versions import model_name
from ....facades.prediction import PREFIX, ReplicatePrediction, starting
from ....index.query import Span, TaskQuery
from ....submission.body import Submission
from ....wire.fields import filter_instant
from ...auth.access import SUBMITTERS, TAKES, ApiRequest, TakesStreamTokens, origin, requires, take_place
from ...auth.authenticator import Identity
from ...auth.narrowing import LIST, MODEL, SUBMIT, narrows
from ...bodies import decoded_as, read_body
from ...middleware import headers_of
from ...server_registration import check_url
from ...sse import event_stream
from ...task_actions import give_command
from ..addresses import RequestAddresses
from ..tasks import FacadeTask, FacadeTasks
from . import prediction_stream
from .models import ReplicateModels
from .prediction_bodies import PredictionBody, cancel_after, checked_input, preferred_wait
from .stream_links import StreamLinks
from .webhooks import PredictionWebhooks

PAGE = 100
"""Predictions of a page, as at Replicate."""
PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of inputs and outputs after which a page ends."""
READ_AT_ONCE = 10
LARGEST_CURSOR = 10**18
_encode = msgspec.json.Encoder().encode
JSON = "application/json"


class PredictionPage(Struct):
    """A page of predictions, newest first."""

    previous: str | None
    next: str | None
    results: list[ReplicatePrediction]


class _PageCursor(NamedTuple):
    """A place in the list: between two submissions."""

    sequence: int
    is_back: bool
    """True: the page before the place, of newer predictions."""


class Predictions:
    """The predictions of callers."""

    def __init__(
        self,
        container: Container,
        addresses: RequestAddresses,
        models: ReplicateModels,
        webhooks: PredictionWebhooks,
        streams: StreamLinks,
    ) -> None:
        self._container = container
        self._webhooks = webhooks
        self._addresses = addresses
        self._models = models
        self._tasks = FacadeTasks(container)
        self._reader = container.predictions
        self.streams = streams

    async def create(self, request: ApiRequest, endpoint: str, path: str = "") -> Response[bytes]:
        """Create a prediction of a model (`owner/name`), else of the version in the body."""
        text = await read_body(request)
        body = decoded_as(text, PredictionBody, self._container.settings.max_json_depth)
        decoded = msgspec.json.decode(text)
        given = checked_input(body, decoded)
        definition, version = await self._model_of(request.user, body, path)
        headers = headers_of(request.scope)
        runs = cancel_after(_text(headers.get(b"cancel-after")))
        if body.webhook_url:
            await check_url(self._container.webhook_egress, body.webhook_url, "$.webhook")
            await self._webhooks.ensure(request)
        facade = FacadeRequest(
            name="replicate",
            endpoint=endpoint,
            model=path or str(model_name(definition)),
            webhook=body.webhook_url,
            webhook_events=body.webhook_events,
            is_stream=bool(body.stream),
            metadata={"version": version} if version else {},
        )
        submission = Submission(
            payload=body.input, type=definition.name, deadline=utc_now() + runs if runs is not None else None
        )
        asked = FacadeTask(facade=facade, submission=submission, payload=given, body=text)
        detail = await self._tasks.submit(request, asked)
        answer_headers = {}
        wait = preferred_wait(_text(headers.get(b"prefer")))
        if wait is not None:
            detail = await self._tasks.ended(request, detail, wait.seconds)
            answer_headers["Preference-Applied"] = wait.applied
        shown = await self._shown(request, detail.ref)
        if wait is not None and shown.completed_at is None:
            shown = starting(shown)
        return Response(_encode(shown), status_code=201, media_type=JSON, headers=answer_headers)

    async def _model_of(self, user: Identity, body: PredictionBody, path: str) -> tuple[TypeDefined, str]:
        """Return the type that a request is for, and the version's id if it names one."""
        if path:
            owner, _, name = path.partition("/")
            return await self._models.named(user, owner, name), ""
        if not body.version:
            raise InvalidInput("version is required", "$.version")
        found = await self._models.of_version(user, body.version)
        version = body.version.rpartition(":")[2]
        return found, "" if "/" in version else version

    async def read(self, request: ApiRequest, prediction_id: str) -> Response[bytes]:
        """Return a prediction as it is now."""
        return _answer(await self._shown(request, await self._own(request, prediction_id)))

    async def cancel(self, request: ApiRequest, prediction_id: str) -> Response[bytes]:
        """Cancel a prediction; one that has ended stays as it is."""
        ref = await self._own(request, prediction_id)
        command = CancelTask(reason=f"Cancelled by {request.user.subject}")
        with contextlib.suppress(RuleBroken):
            await give_command(self._container, ref, command, origin(request))
        return _answer(await self._shown(request, ref))

    async def page(self, request: ApiRequest) -> Response[bytes]:
        """Return a page of the caller's predictions, newest first."""
        user, query = request.user, request.query_params
        now, bounds = utc_now(), {}
        for name in ("created_after", "created_before"):
            if (given := query.get(name)) is not None:
                bounds[name] = filter_instant(given, now, name)
        cursor = _read_cursor(query.get("cursor"))
        wanted = TaskQuery(
            owner=owner_token(user.subject),
            types=user.types or frozenset(),
            created=Span(bounds.get("created_after"), bounds.get("created_before")),
            descending=cursor is None or not cursor.is_back,
        )
        place = None if cursor is None else (cursor.sequence,)
        found = await self._container.lists.page(wanted, PAGE, place, user=owner_token(user.subject))
        listed = found.tasks if wanted.descending else found.tasks[::-1]
        results, shown = await self._read_page(request, [task.ref for task in listed])
        sequences = [task.view.created_sequence for task in listed[:shown]]
        has_older = shown < len(listed) or (found.cursor is not None if wanted.descending else True)
        has_newer = cursor is not None if wanted.descending else found.cursor is not None
        first, last = (sequences[0], sequences[-1]) if sequences else (cursor.sequence if cursor else 0,) * 2

        def url(text: str) -> str:
            kept = [f"{name}={query[name].replace('+', '%2B')}" for name in bounds]
            return f"{self._addresses.base(request)}{PREFIX}/predictions?{'&'.join([f'cursor={text}', *kept])}"

        page = PredictionPage(
            previous=url(f"p{first}") if has_newer else None,
            next=url(f"n{last}") if has_older and sequences else None,
            results=results,
        )
        return _answer(page)

    async def _read_page(self, request: ApiRequest, refs: list[TaskRef]) -> tuple[list[ReplicatePrediction], int]:
        """Return the predictions of a page, and for how many tasks: it ends early after PAGE_BYTES."""
        results: list[ReplicatePrediction] = []
        size = done = 0
        while done < len(refs) and size < PAGE_BYTES:
            some = refs[done : done + READ_AT_ONCE]
            for shown in await asyncio.gather(*(self._listed(request, ref) for ref in some)):
                if shown is not None:
                    results.append(shown)
                    size += sum(len(_encode(part)) for part in (shown.input, shown.output))
            done += len(some)
        return results, done

    async def _listed(self, request: ApiRequest, ref: TaskRef) -> ReplicatePrediction | None:
        """Return a task as a prediction of a list; None if it was deleted meanwhile."""
        try:
            return await self._shown(request, ref, in_list=True)
        except NotFound:
            return None

    async def stream(self, request: ApiRequest, prediction_id: str) -> Stream | Response[bytes]:
        """Return the stream of a prediction, or a 204 if the client has all of it: it stops to reconnect then."""
        ref = parse_task_id(prediction_id)
        user = request.user
        await self._own(request, prediction_id)
        take_place(request, self._container.open_streams)
        resumed = prediction_stream.resumed_at(_text(headers_of(request.scope).get(b"last-event-id")))
        async with self._container.starts.turn(user.subject):
            start = await self._container.feeds.start(resumed.place)
            snapshot = await self._reader.snapshot(ref)
        if prediction_stream.has_all(start, snapshot):
            return Response(b"", status_code=204)
        made = prediction_stream.blocks(self._container, snapshot, start, resumed.skipped)
        return event_stream(made, user, prediction_stream.EXPIRED)

    async def _own(self, request: ApiRequest, prediction_id: str) -> TaskRef:
        """Return a task of the caller's. Raises NotFound for any other, whatever the caller's role is."""
        ref = parse_task_id(prediction_id)
        if ref.owner != owner_token(request.user.subject):
            raise NotFound("prediction", prediction_id)
        if (types := request.user.types) is not None:
            facts = await self._container.task_attributes.facts(ref)
            if facts.task_type not in types:
                raise NotFound("prediction", prediction_id)
        return ref

    async def _shown(self, request: ApiRequest, ref: TaskRef, *, in_list: bool = False) -> ReplicatePrediction:
        """Return a task as a prediction, as it is now."""
        base, now = self._addresses.base(request), utc_now()
        snapshot = await self._reader.snapshot(ref)
        detail = self._container.reports.with_waiting(snapshot.detail)
        stream = self.streams.url(base, ref.id, request.user)
        return await self._reader.prediction(
            snapshot._replace(detail=detail), base, now, stream=stream, in_list=in_list
        )


def prediction_routes(predictions: Predictions) -> list[Any]:
    """Return the routes, without the prefix."""

    def opened(token: str, scope: Any) -> Identity:
        return predictions.streams.opened(token, str(scope["path_params"]["prediction_id"]))

    @post("/predictions", opt=requires(*SUBMITTERS) | narrows(SUBMIT), status_code=201)
    async def create_prediction(request: ApiRequest) -> Response[bytes]:
        return await predictions.create(request, "predictions")

    @post(
        "/models/{model_owner:str}/{model_name:str}/predictions",
        opt=requires(*SUBMITTERS) | narrows(SUBMIT),
        status_code=201,
    )
    async def create_of_model(
        request: ApiRequest, model_owner: FromPath[str], model_name: FromPath[str]
    ) -> Response[bytes]:
        return await predictions.create(request, "models", f"{model_owner}/{model_name}")

    @post(
        "/deployments/{model_owner:str}/{model_name:str}/predictions",
        opt=requires(*SUBMITTERS) | narrows(SUBMIT),
        status_code=201,
    )
    async def create_of_deployment(
        request: ApiRequest, model_owner: FromPath[str], model_name: FromPath[str]
    ) -> Response[bytes]:
        return await predictions.create(request, "deployments", f"{model_owner}/{model_name}")

    @get("/predictions", opt=narrows(LIST))
    async def list_predictions(request: ApiRequest) -> Response[bytes]:
        return await predictions.page(request)

    @get("/predictions/{prediction_id:str}", opt=narrows(MODEL))
    async def get_prediction(request: ApiRequest, prediction_id: FromPath[str]) -> Response[bytes]:
        return await predictions.read(request, prediction_id)

    @post("/predictions/{prediction_id:str}/cancel", opt=requires(*SUBMITTERS) | narrows(MODEL), status_code=200)
    async def cancel_prediction(request: ApiRequest, prediction_id: FromPath[str]) -> Response[bytes]:
        return await predictions.cancel(request, prediction_id)

    @get("/predictions/{prediction_id:str}/stream", opt={TAKES: TakesStreamTokens(links=opened), **narrows(MODEL)})
    async def stream_prediction(request: ApiRequest, prediction_id: FromPath[str]) -> Stream | Response[bytes]:
        return await predictions.stream(request, prediction_id)

    return [
        create_prediction,
        create_of_model,
        create_of_deployment,
        list_predictions,
        get_prediction,
        cancel_prediction,
        stream_prediction,
    ]


def _answer(content: Any) -> Response[bytes]:
    return Response(_encode(content), media_type=JSON)


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None


def _read_cursor(text: str | None) -> _PageCursor | None:
    """Return the place of a cursor, None for the first page. Raises InvalidInput."""
    if not text:
        return None
    kind, digits = text[:1], text[1:]
    if kind not in "np" or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise InvalidInput("not a cursor; use the `next` or `previous` URL of a page unchanged", "cursor")
    return _PageCursor(int(digits), kind == "p")
