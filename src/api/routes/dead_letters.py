"""Dead letters: tasks that failed for good. List, retry and discard them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, get_args

from litestar.di import NamedDependency
from litestar.params import QueryParameter

from ...clock import utc_now
from ...container import Container
from ...events.ids import TaskRef, owner_token
from ...index.dead_letters import By as Grouping
from ...index.dead_letters import group_dead_letters
from ...projections.dead_letters import is_dead_letter
from ..auth.access import ApiRequest
from ..auth.narrowing import LIST, narrows
from ..bodies import read_as
from ..parameters import Cursor, Limit, choice
from ..routing import RouteHandler, Routes
from ..schemas.bulk import (
    BulkAnswer,
    DeadLetterGroupsAnswer,
    DeadLetterPage,
    DeadLettersBody,
    TaskSelection,
    dead_letter_groups,
)
from ..schemas.tasks import task_summary
from ..task_actions import TaskAction, command_many
from ..task_filter import FILTERED, SELECTED, FailedBefore, FailedSince, dead_letter_filter, read_place
from .bulk import COUNTS, check_batch, find_tasks

By = Annotated[
    str, QueryParameter(description="What the groups have in common", schema_extra={"enum": list(get_args(Grouping))})
]
NO_DEAD_LETTER = "this is not a dead letter: it has not failed for good, or a retry could not help"


def dead_letter_routes(container: Container) -> list[RouteHandler]:
    routes = Routes("/", "Dead letters")

    async def command(request: ApiRequest, action: TaskAction) -> BulkAnswer:
        body = await read_as(request, DeadLettersBody, container.settings.max_json_depth)
        user = owner_token(request.user.subject)
        find = None
        if (given := body.filter) is not None:
            wanted = dead_letter_filter(request.user, given, "command", since=given.since, before=given.before)
            find = partial(find_tasks, container, wanted, user)

        async def among(refs: list[TaskRef]) -> set[TaskRef]:
            return {ref for ref, view in await container.lists.views(refs, user=user) if is_dead_letter(view)}

        return await command_many(container, request, action, body, find, among=among, otherwise=NO_DEAD_LETTER)

    @routes.get(
        "/dead-letters",
        "List dead letters",
        "A page of dead letters, the earliest failure first",
        fails={404},
        dependencies=SELECTED,
        opt=FILTERED | narrows(LIST),
    )
    async def list_dead_letters(
        request: ApiRequest,
        selection: NamedDependency[TaskSelection],
        since: FailedSince = None,
        before: FailedBefore = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> DeadLetterPage:
        """List tasks that failed for good: refused or failed by their server, or out of attempts.

        Tasks that expired, or failed with a parent, are not dead letters. A task that is retried or deleted is none any
        more. The filters are those of `GET /api/tasks`.
        """
        wanted = dead_letter_filter(request.user, selection, "list", since=since, before=before)
        await check_batch(container, wanted)
        user = owner_token(request.user.subject)
        page = await container.lists.page(wanted, limit, read_place(wanted, cursor), user=user)
        return DeadLetterPage(
            dead_letters=[task_summary(listed, container.settings) for listed in page.tasks],
            next_cursor=page.cursor,
        )

    @routes.get(
        "/dead-letters/groups",
        "Group dead letters",
        "Groups of dead letters, the largest first",
        fails={404},
        dependencies=SELECTED,
        opt=FILTERED | narrows(LIST),
    )
    async def group_letters(
        request: ApiRequest,
        selection: NamedDependency[TaskSelection],
        by: By = "error",
        since: FailedSince = None,
        before: FailedBefore = None,
    ) -> DeadLetterGroupsAnswer:
        """Return dead letters in groups of the same error, type or server, with the times of their failures.

        Texts of errors that differ only in numbers, ids, addresses, paths, quoted parts and durations are the same
        error, as in `GET /api/errors`. The filters are those of the list. `value` of a group is the value of the filter
        (`shape`, `type`, `server`) that selects it for a retry. The last 10,000 dead letters are counted.
        """
        wanted = dead_letter_filter(request.user, selection, "list", since=since, before=before)
        await check_batch(container, wanted)
        grouped_by: Grouping = choice(by, get_args(Grouping), "by") or "error"
        question = partial(group_dead_letters, query=wanted, by=grouped_by, now=utc_now())
        found = await container.index.run(question, owner_token(request.user.subject))
        return dead_letter_groups(found, by_error=grouped_by == "error")

    @routes.post(
        "/dead-letters/retry", "Retry dead letters", COUNTS, body=DeadLettersBody, fails={404}, needs_body=True
    )
    async def retry_dead_letters(request: ApiRequest) -> BulkAnswer:
        """Queue dead letters again, each with all its attempts: up to 1,000 by ids, or those that match a filter.

        With `dryRun`, nothing changes and the answer says what would. If the answer has a `nextCursor`, more dead
        letters match: send it as `cursor`.
        """
        return await command(request, "retry")

    @routes.post(
        "/dead-letters/discard", "Discard dead letters", COUNTS, body=DeadLettersBody, fails={404}, needs_body=True
    )
    async def discard_dead_letters(request: ApiRequest) -> BulkAnswer:
        """Remove dead letters from every list. Auditors still see their histories. The body is as for retrying."""
        return await command(request, "delete")

    return routes.handlers
