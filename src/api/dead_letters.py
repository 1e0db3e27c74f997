"""Dead letters: listed, tried again, discarded. What is done with them is done as with any tasks, in bulk."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from litestar import Router, get, post
from litestar.params import QueryParameter

from ..core import Core
from ..errors import InvalidInput
from ..events.ids import TaskRef
from ..events.task import FailureKind
from ..projections.dead_letters import KINDS, DeadLetterFilter
from .access import ApiRequest
from .bodies import described, read_as, schema_of
from .bulk import MOST_MATCHED, Bulk, Tally, command_for, meant_owner, within_reach
from .bulk_shapes import BulkAnswer
from .dead_letter_shapes import DeadLetterPage, DeadLettersBody, DeadLettersFilter
from .examples import DEAD_LETTERS_EXAMPLES
from .parameters import Cursor, Limit, Owner, listed_owner, read_cursor
from .problems import answers
from .task_shapes import task_summary

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999."""
NO_DEAD_LETTER = "this is no dead letter: it has not failed for good, or no trial could help"


class DeadLetters:
    """What the routes do, apart from HTTP."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._bulk = Bulk(core)

    async def page(
        self,
        owner: str | None,
        types: list[str],
        kinds: list[str],
        since: datetime | None,
        limit: int,
        cursor: str | None,
    ) -> DeadLetterPage:
        wanted = DeadLetterFilter(
            owner=owner, types=frozenset(types), kinds=_checked_kinds(kinds) or KINDS, since=since
        )
        page = await self._core.dead_letters.page(wanted, limit, read_cursor(cursor))
        return DeadLetterPage(
            dead_letters=[task_summary(listed, self._core.settings) for listed in page.tasks],
            next_cursor=None if page.cursor is None else str(page.cursor),
        )

    async def command(self, request: ApiRequest, deed: Literal["retry", "delete"]) -> BulkAnswer:
        body = await read_as(request, DeadLettersBody, self._core.settings.max_json_depth)
        command = command_for(deed, body.reason, request.user.subject)
        if (body.ids is None) == (body.filter is None):
            raise InvalidInput("give `ids` or `filter`, and not both", "$")
        cursor: int | None = None
        if body.ids is not None:
            tally = Tally(matched=len(set(body.ids)))
            refs = []
            for ref in self._bulk.allowed(request, body.ids, tally):
                if await self._core.dead_letters.is_one(ref):
                    refs.append(ref)
                else:
                    tally.refuse(NO_DEAD_LETTER, ref.id)
        else:
            assert body.filter is not None
            refs, cursor = await self._matching(request, body.filter, read_cursor(body.cursor))
            tally = Tally(matched=len(refs))
        await self._bulk.give(request, refs, command, tally, dry_run=body.dry_run)
        return tally.answer(dry_run=body.dry_run, cursor=cursor)

    async def _matching(
        self, request: ApiRequest, asked: DeadLettersFilter, after: int | None
    ) -> tuple[list[TaskRef], int | None]:
        wanted = DeadLetterFilter(
            owner=meant_owner(request, asked.owner),
            types=frozenset(asked.type or ()),
            kinds=frozenset(asked.kind) if asked.kind else KINDS,
            since=within_reach(asked.since),
            before=within_reach(asked.before),
        )
        page = await self._core.dead_letters.page(wanted, MOST_MATCHED, after)
        return [listed.ref for listed in page.tasks], page.cursor


def _checked_kinds(kinds: list[str]) -> frozenset[FailureKind]:
    wanted = frozenset(part for kind in kinds for part in kind.split(",") if part)
    try:
        return msgspec.convert(wanted, frozenset[FailureKind])
    except msgspec.ValidationError:
        unknown = min(wanted - KINDS)
        raise InvalidInput(f"{unknown!r} is no kind of failure; they are {', '.join(sorted(KINDS))}", "kind") from None


def dead_letter_router(core: Core) -> Router:
    """Return the routes."""
    letters = DeadLetters(core)
    bodies = described(schema_of(DeadLettersBody), DEAD_LETTERS_EXAMPLES)
    errors = answers(400, 401, 403, 404, 413, 415, 503)
    counts = "How many it was done for, and why not for the others"

    @get(
        "/dead-letters",
        responses=answers(400, 401, 403, 503),
        response_description="A page of dead letters; those that failed first come first",
        summary="List dead letters",
    )
    async def list_dead_letters(
        request: ApiRequest,
        type_: Annotated[list[str] | None, QueryParameter(name="type", description="One or more types")] = None,
        kind: Annotated[
            list[str] | None, QueryParameter(description="One or more kinds of failure, also comma-separated")
        ] = None,
        since: Annotated[
            int | None,
            QueryParameter(ge=0, le=LATEST_MS, description="Failed then or later (milliseconds)"),
        ] = None,
        owner: Owner = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> DeadLetterPage:
        """List tasks that failed for good: refused or failed by their server, or out of attempts.

        Not those whose time was up, or that a failed parent took along. One that is retried or deleted is one no more.
        """
        return await letters.page(
            listed_owner(request, owner), type_ or [], kind or [], within_reach(since), limit, cursor
        )

    @post(
        "/dead-letters/retry",
        status_code=200,
        operation_class=bodies,
        responses=errors,
        response_description=counts,
        summary="Retry dead letters",
    )
    async def retry_dead_letters(request: ApiRequest) -> BulkAnswer:
        """Queue dead letters again, with fresh budgets of attempts: up to 1,000 by ids, or those that a filter matches.

        With `dryRun`, only say what would be done. An answer with a `nextCursor` was not all: send it as `cursor`.
        """
        return await letters.command(request, "retry")

    @post(
        "/dead-letters/discard",
        status_code=200,
        operation_class=bodies,
        responses=errors,
        response_description=counts,
        summary="Discard dead letters",
    )
    async def discard_dead_letters(request: ApiRequest) -> BulkAnswer:
        """Take dead letters out of every list; their histories stay for auditors. Body as for retrying."""
        return await letters.command(request, "delete")

    return Router(
        path="/", route_handlers=[list_dead_letters, retry_dead_letters, discard_dead_letters], tags=["Dead letters"]
    )
