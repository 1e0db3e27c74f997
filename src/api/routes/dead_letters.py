"""Dead letters: listed, tried again, discarded. What is done with them is done as with any tasks, in bulk."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.params import QueryParameter

from ...container import Container
from ...errors import InvalidInput
from ...events.ids import TaskRef
from ...projections.dead_letters import KINDS, DeadLetterFilter, DeadLetterKind
from ..auth.access import ApiRequest
from ..bodies import read_as
from ..openapi.examples import DEAD_LETTERS_EXAMPLES
from ..parameters import Cursor, Limit, Owner, listed_owner, read_cursor
from ..problems import answers
from ..schemas.bulk import BulkAnswer
from ..schemas.dead_letters import DeadLetterPage, DeadLettersBody, DeadLettersFilter
from ..schemas.tasks import task_summary
from ..task_actions import TaskAction
from .bulk import MOST_MATCHED, Bulk, Tally, bulk_route, meant_owner, within_reach

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999."""
NO_DEAD_LETTER = "this is no dead letter: it has not failed for good, or no trial could help"


class DeadLetters:
    """What the routes do, apart from HTTP."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._bulk = Bulk(container)

    async def page(self, filter_: DeadLetterFilter, limit: int, cursor: str | None) -> DeadLetterPage:
        page = await self._container.dead_letters.page(filter_, limit, read_cursor(cursor))
        return DeadLetterPage(
            dead_letters=[task_summary(listed, self._container.settings) for listed in page.tasks],
            next_cursor=None if page.cursor is None else str(page.cursor),
        )

    async def command(self, request: ApiRequest, action: TaskAction) -> BulkAnswer:
        body = await read_as(request, DeadLettersBody, self._container.settings.max_json_depth)
        find = partial(self._matching, wanted(request, body.filter)) if body.filter is not None else None
        return await self._bulk.carry_out(request, action, body, find, self._only_dead_letters)

    async def _matching(self, filter_: DeadLetterFilter, after: int | None) -> tuple[list[TaskRef], int | None]:
        page = await self._container.dead_letters.page(filter_, MOST_MATCHED, after)
        return [listed.ref for listed in page.tasks], page.cursor

    async def _only_dead_letters(self, refs: list[TaskRef], tally: Tally) -> list[TaskRef]:
        dead = await self._container.dead_letters.among(refs)
        for ref in refs:
            if ref not in dead:
                tally.refuse(NO_DEAD_LETTER, ref.id)
        return [ref for ref in refs if ref in dead]


def wanted(request: ApiRequest, asked: DeadLettersFilter) -> DeadLetterFilter:
    """Return what a filter means for this caller. Raises InvalidInput, and Forbidden for others' tasks."""
    return DeadLetterFilter(
        owner=meant_owner(request, asked.owner),
        types=frozenset(asked.type or ()),
        kinds=frozenset(asked.kind or KINDS),
        since=within_reach(asked.since, "$.filter.since"),
        before=within_reach(asked.before, "$.filter.before"),
    )


def _checked_kinds(kinds: list[str]) -> frozenset[DeadLetterKind]:
    named = frozenset(part for kind in kinds for part in kind.split(",") if part)
    try:
        return msgspec.convert(named, frozenset[DeadLetterKind])
    except msgspec.ValidationError:
        text = f"{min(named - KINDS)!r} is no kind of dead letter; they are {', '.join(sorted(KINDS))}"
        raise InvalidInput(text, "kind") from None


def dead_letter_router(container: Container) -> Router:
    """Return the routes."""
    letters = DeadLetters(container)
    route = bulk_route(DeadLettersBody, DEAD_LETTERS_EXAMPLES)

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
            int | None, QueryParameter(ge=0, le=LATEST_MS, description="Failed then or later (milliseconds)")
        ] = None,
        before: Annotated[
            int | None, QueryParameter(ge=0, le=LATEST_MS, description="Failed before (milliseconds)")
        ] = None,
        owner: Owner = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> DeadLetterPage:
        """List tasks that failed for good: refused or failed by their server, or out of attempts.

        Not those whose time was up, or that a failed parent took along. One that is retried or deleted is one no more.
        """
        filter_ = DeadLetterFilter(
            owner=listed_owner(request, owner),
            types=frozenset(type_ or ()),
            kinds=_checked_kinds(kind or []) or KINDS,
            since=within_reach(since, "since"),
            before=within_reach(before, "before"),
        )
        return await letters.page(filter_, limit, cursor)

    @route("/dead-letters/retry", summary="Retry dead letters")
    async def retry_dead_letters(request: ApiRequest) -> BulkAnswer:
        """Queue dead letters again, with fresh budgets of attempts: up to 1,000 by ids, or those that a filter matches.

        With `dryRun`, only say what would be done. An answer with a `nextCursor` was not all: send it as `cursor`.
        """
        return await letters.command(request, "retry")

    @route("/dead-letters/discard", summary="Discard dead letters")
    async def discard_dead_letters(request: ApiRequest) -> BulkAnswer:
        """Take dead letters out of every list; their histories stay for auditors. Body as for retrying."""
        return await letters.command(request, "delete")

    return Router(
        path="/", route_handlers=[list_dead_letters, retry_dead_letters, discard_dead_letters], tags=["Dead letters"]
    )
