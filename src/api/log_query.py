"""The query of the log, as `GET /api/log` and the live topic `log:` take it, and the reader of its pages."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from datetime import datetime

from ..container import Container
from ..errors import InvalidInput, StoreUnavailable
from ..events.ids import owner_token
from ..events.kinds import EVENT_WORDS
from ..index import statistics
from ..index.statistics import StatisticsScope
from ..projections.log_entries import (
    EVENT_NAMES,
    LOG_NAMES,
    EntryFilter,
    LogName,
    parse_actor,
    parse_subject,
)
from ..projections.log_pages import LogPage, LogPlace, LogReader, parse_place
from ..streams.turns import Turns
from .auth.access import READERS_OF_ALL
from .auth.authenticator import Identity
from .parameters import read_choices
from .task_filter import within_reach

PAGES_AT_ONCE = 4
"""Pages of a process that are read at the same time; each may read 16 MiB."""
PAGES_OF_ONE_USER = 2
PAGES_WAITING = 32
PATIENCE_SECONDS = 5.0
LONGEST_NAME = 300
FEW_TASKS = 2_000
"""Tasks of an owner whose events are read by subject. NATS counts all that match with each read."""
_ENTRY = re.compile(rf"({'|'.join(LOG_NAMES)}):([0-9]{{1,18}})", re.ASCII)


def visible_to(identity: Identity) -> str | None:
    """Return the owner token whose entries a caller sees; None: everybody's."""
    return None if identity.has(*READERS_OF_ALL) else owner_token(identity.subject)


def entry_filter(
    identity: Identity,
    now: datetime,
    *,
    logs: Sequence[str] | None = None,
    event: Sequence[str] | None = None,
    actor: str | None = None,
    subject: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> EntryFilter:
    """Return the filter of a request, for what its caller may see. Raises InvalidInput."""
    chosen: frozenset[LogName] = read_choices(logs, frozenset(LOG_NAMES), "log")
    events = read_choices(event, EVENT_NAMES, "event")
    for name, text in (("actor", actor), ("subject", subject)):
        if text is not None and not 0 < len(text) <= LONGEST_NAME:
            raise InvalidInput(f"must have 1 to {LONGEST_NAME} characters", name)
    try:
        about = parse_subject(subject) if subject is not None else None
    except ValueError as error:
        raise InvalidInput(str(error), "subject") from None
    actor_kind, actor_id = parse_actor(actor) if actor is not None else ("", "")
    return EntryFilter(
        logs=chosen,
        words=frozenset(EVENT_WORDS[each] for each in events),
        actor_kind=actor_kind,
        actor_id=actor_id,
        kind=about.kind if about else "",
        name=about.name if about else "",
        name_owner=about.name_owner if about else "",
        owner=visible_to(identity),
        since=within_reach(since, now, "since"),
        before=within_reach(until, now, "until"),
    )


class LogPages:
    """Pages for callers, a bounded number at once."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.reader = LogReader(container.reading, replicated=container.settings.replicas != 1)
        self._turns = Turns(PAGES_AT_ONCE, PAGES_OF_ONE_USER, PAGES_WAITING)

    async def read(
        self,
        identity: Identity,
        wanted: EntryFilter,
        limit: int,
        now: datetime,
        *,
        before: LogPlace | None = None,
        after: LogPlace | None = None,
    ) -> LogPage:
        """Return a page. Raises StoreError; TooManyReads if the caller gets no turn in time."""
        user = owner_token(identity.subject)
        await self._turns.take(user, PATIENCE_SECONDS)
        try:
            by_subject = wanted.owner is not None and await self._has_few_tasks(wanted.owner)
            return await self.reader.page(wanted, limit, now, before=before, after=after, by_subject=by_subject)
        finally:
            self._turns.give_back(user)

    async def place(self, given: str | None, now: datetime, name: str) -> LogPlace | None:
        """Return the place of a parameter: a cursor, an entry as `<log>:<sequence>`, or an instant.

        Of an entry it is the place after it for `after`, and before it for `before`. Raises InvalidInput, StoreError.
        """
        if not given:
            return None
        if (place := parse_place(given)) is not None:
            return place
        if found := _ENTRY.fullmatch(given):
            log = next(each for each in LOG_NAMES if each == found[1])
            at_entry = await self.reader.place_of(log, int(found[2]))
            if at_entry is None:
                raise InvalidInput("there is no such entry; give an instant, or another sequence", name)
            if name == "before":
                return LogPlace(at=at_entry.at, sequences={log: int(found[2]) - 1})
            return at_entry
        instant = within_reach(given, now, name)
        return LogPlace(at=instant, sequences={}) if instant is not None else None

    async def _has_few_tasks(self, owner: str) -> bool:
        def count(connection: sqlite3.Connection) -> int:
            scope = StatisticsScope(owner=owner, deleted=True)
            return statistics.totals(connection, scope, by_owner=False).numbers.tasks

        try:
            return await self._container.index.run(count, owner, current=False) <= FEW_TASKS
        except StoreUnavailable:
            return False
