"""Routes of operations: commands for all the tasks that a filter finds, carried out by the service."""

from __future__ import annotations

from functools import partial

import msgspec

from ...clock import utc_now
from ...commands.operation import (
    Operation,
    OperationCommand,
    PauseOperation,
    ResumeOperation,
    StartOperation,
    StopOperation,
)
from ...container import Container
from ...errors import InvalidInput, NotFound, RuleBroken
from ...events.ids import OperationRef, new_operation_ref, operation_for_key, owner_token, parse_operation_id
from ...events.operation import OperationFailed, OperationFinished, OperationStarted, OperationStopped
from ...events.subjects import operation_ref, operations_filter
from ...projections.operations import OPERATION_STATES, operation_refs
from ...streams.jetstream.messages import last_sequence, list_subjects
from ...streams.log import Guard
from ...streams.topology.definitions import OPERATIONS
from ...submission.body import fingerprint
from ..auth.access import READERS_OF_ALL, SUBMITTERS, ApiRequest, check_owner, origin, reads_bodies
from ..bodies import decoded_as, read_as, read_body
from ..operations import operation_query
from ..parameters import (
    Cursor,
    IdempotencyKey,
    Limit,
    OperationId,
    Owner,
    made_ref,
    page_of,
    read_id_cursor,
    selected_owner,
)
from ..routing import RouteHandler, Routes
from ..schemas.operations import OperationBody, OperationPage, OperationSummary, operation_summary
from ..schemas.shared import ReasonBody
from ..task_filter import fixed
from .bulk import check_batch

MOST_RUNNING = 5
"""Operations of one owner that are not over, paused ones included."""
MOST_KEPT = 500
"""Operations that one owner may start in the time that they are kept."""


async def room_of(container: Container, owner: str) -> Guard:
    """Return a guard that fails once the owner (a token) starts another operation. Raises RuleBroken at the limits."""
    subjects = operations_filter(owner, OperationStarted)
    last = await last_sequence(container.reading, OPERATIONS, subjects)  # before they are counted
    started = await _having(container, owner, OperationStarted)
    if len(started) >= MOST_KEPT:
        raise RuleBroken(f"you have started {MOST_KEPT} operations in 30 days, the most allowed; try later")
    for event in (OperationFinished, OperationStopped, OperationFailed):
        started -= await _having(container, owner, event)
    if len(started) >= MOST_RUNNING:
        raise RuleBroken(f"{MOST_RUNNING} of your operations have not ended, the most allowed; stop one, or wait")
    return Guard(subjects, last)


async def _having(
    container: Container,
    owner: str,
    event: type[OperationStarted | OperationFinished | OperationStopped | OperationFailed],
) -> set[OperationRef]:
    """Return the operations of an owner token that have such an event."""
    subjects = await list_subjects(container.reading, OPERATIONS, operations_filter(owner, event))
    return set(map(operation_ref, subjects))


def find_operation(request: ApiRequest, operation_id: str, *roles: str) -> OperationRef:
    """Return an operation that the caller started, or may reach by role. Raises NotFound and Forbidden."""
    ref = parse_operation_id(operation_id)
    check_owner(request.user, ref, "operation", *roles)
    return ref


def _found(state: object, ref: OperationRef) -> Operation:
    if not isinstance(state, Operation):
        raise NotFound("operation", ref.id)
    return state


def _check(body: OperationBody) -> None:
    """Raise InvalidInput for a body that contradicts itself."""
    if (body.ids is None) == (body.filter is None):
        raise InvalidInput("send `ids` or `filter`, and not both", "$")
    if body.dead_letters and body.action == "cancel":
        raise InvalidInput("a dead letter has ended and cannot be cancelled; use `retry` or `discard`", "$.action")


async def _started(
    container: Container, request: ApiRequest, ref: OperationRef, body: OperationBody, digest: str
) -> OperationStarted:
    """Return the event that starts an operation: its times fixed, its tasks counted. Raises Refused, StoreError."""
    user = request.user
    started = OperationStarted(
        operation_id=ref.id,
        owner=user.subject,
        is_admin=user.has("admin"),
        action=body.action,
        dead_letters=body.dead_letters or body.action == "discard",
        ids=tuple(dict.fromkeys(body.ids or ())),
        reason=body.reason,
        dry_run=body.dry_run,
        as_of=0,
        fingerprint=digest,
    )
    if body.filter is None:
        return msgspec.structs.replace(started, total=len(started.ids))
    given = fixed(body.filter, utc_now())
    query = operation_query(user, started, given)
    await check_batch(container, query)
    counted = await container.lists.count(query, user=ref.owner)
    return msgspec.structs.replace(
        started,
        filter=msgspec.Raw(_encode(given)),
        as_of=counted.as_of,
        total=counted.total.number,
        total_capped=counted.total.capped,
    )


def _encode(given: msgspec.Struct) -> bytes:
    """Return the JSON of a filter, without what it does not say."""
    fields = msgspec.to_builtins(given)
    return msgspec.json.encode({name: value for name, value in fields.items() if value not in (None, {}, 0)})


def operation_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/operations", "Operations")
    commands, depth = container.commands, container.settings.max_json_depth

    async def tell(request: ApiRequest, operation_id: str, command: OperationCommand) -> OperationSummary:
        ref = find_operation(request, operation_id, "admin")
        handled = await commands.operations.handle(ref, command, **origin(request))
        return operation_summary(_found(handled.known.state, ref), bodies=reads_bodies(request.user, ref.owner))

    @routes.post(
        "/",
        "Start an operation",
        "The operation, which goes on in the service",
        body=OperationBody,
        roles=SUBMITTERS,
        fails={404, 409, 429},
    )
    async def start_operation(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> OperationSummary:
        """Cancel, retry, delete or discard all tasks that match a filter, however many, or up to 1,000 by ids.

        Its times and its tasks are fixed now: tasks submitted later are left alone. Each task gets the command once.
        """
        raw = (await read_body(request)).strip() or b"{}"
        body = decoded_as(raw, OperationBody, depth)
        _check(body)
        owner = owner_token(request.user.subject)
        await container.submissions.check_bytes(owner)
        ref = made_ref(owner, idempotency_key, new_operation_ref, operation_for_key)
        digest = fingerprint(raw) if idempotency_key is not None else ""
        command = StartOperation(
            started=await _started(container, request, ref, body, digest), repeatable=idempotency_key is not None
        )
        room = partial(room_of, container, owner)
        handled = await commands.operations.handle(ref, command, room=room, **origin(request))
        return operation_summary(_found(handled.known.state, ref))

    @routes.get("/", "List operations", "A page of operations, newest first")
    async def list_operations(
        request: ApiRequest, owner: Owner = None, limit: Limit = 50, cursor: Cursor = None
    ) -> OperationPage:
        """List the operations of the last 30 days, newest first."""
        refs = await operation_refs(container.reading, selected_owner(request.user, owner, "list"))
        shown, following = page_of((ref.id for ref in refs), limit, read_id_cursor(cursor), newest_first=True)
        wanted = [parse_operation_id(operation_id) for operation_id in shown]
        found = await OPERATION_STATES.load(container.reading, wanted)
        return OperationPage(
            operations=[
                operation_summary(found[ref], bodies=reads_bodies(request.user, ref.owner))
                for ref in wanted
                if ref in found
            ],
            next_cursor=following,
        )

    @routes.get("/{operation_id:str}", "Read an operation", "The operation and what has come of it")
    async def get_operation(request: ApiRequest, operation_id: OperationId) -> OperationSummary:
        """Return an operation: its state, its counts, and its progress."""
        ref = find_operation(request, operation_id, *READERS_OF_ALL)
        state = _found((await commands.operations.load(ref)).state, ref)
        return operation_summary(state, bodies=reads_bodies(request.user, ref.owner))

    @routes.post("/{operation_id:str}/pause", "Pause an operation", "The operation", body=ReasonBody, fails={409})
    async def pause_operation(request: ApiRequest, operation_id: OperationId) -> OperationSummary:
        """Begin no further page of tasks, until it is resumed. A page of up to 250 that has begun is finished."""
        body = await read_as(request, ReasonBody, depth)
        return await tell(request, operation_id, PauseOperation(reason=body.reason))

    @routes.post("/{operation_id:str}/resume", "Resume an operation", "The operation", fails={409})
    async def resume_operation(request: ApiRequest, operation_id: OperationId) -> OperationSummary:
        """Go on where it was paused."""
        return await tell(request, operation_id, ResumeOperation())

    @routes.post("/{operation_id:str}/stop", "Stop an operation", "The operation", body=ReasonBody, fails={409})
    async def stop_operation(request: ApiRequest, operation_id: OperationId) -> OperationSummary:
        """End it for good. What is done stays done; a page of up to 250 tasks that has begun is finished."""
        body = await read_as(request, ReasonBody, depth)
        return await tell(request, operation_id, StopOperation(reason=body.reason))

    return routes.handlers
