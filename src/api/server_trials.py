"""Trials of servers in this process, over the egress rules: one call outside the queue, of which nothing is stored."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import structlog

from ..backends.detection import detect, dialect_detected
from ..backends.dialects import dialect_of
from ..backends.dialects.dialect import Call, Update
from ..backends.trial import Trial
from ..clock import random_bits, secret_token, utc_now
from ..commands.server import AUTO, with_dialect
from ..container import Container
from ..errors import RuleBroken
from ..events.ids import new_ref, owner_token
from ..events.server import ServerRegistered
from .schemas.trials import MOST_UPDATES, TryAnswer, TryBody, exchange_info, update_info, verdict_info
from .server_detection import key_of, must_be_called

MOST_TRIALS = 3
"""Trials that one admin may run at once, in each process of the API."""
MOST_UPDATE_TEXT = 1_000_000
"""Characters of all updates that are shown."""
log = structlog.get_logger(__name__)


class Trials:
    """The trials under way in this process."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, subject: str) -> Iterator[None]:
        """Count a trial of a user. Raises RuleBroken if too many run."""
        if self._running[subject] >= MOST_TRIALS:
            raise RuleBroken(f"{MOST_TRIALS} of your trials are running; wait until one has ended")
        self._running[subject] += 1
        try:
            yield
        finally:
            self._running[subject] -= 1
            if not self._running[subject]:
                del self._running[subject]


async def try_server(
    container: Container, server: ServerRegistered, body: TryBody, subject: str, own_key: str | None = None
) -> TryAnswer:
    """Call a server once, outside the queue, and return what was sent, what came back and what it means.

    Nothing of it is stored. Raises RuleBroken if the server cannot be called: it is pulled, its key does not open, or
    its dialect is not known and cannot be found out. `own_key`: the API key of a server that is not registered.
    """
    must_be_called(server)
    api_key = own_key or await key_of(container, server)
    settings = container.settings
    updates: list[Update] = []
    left_out = size = 0

    async def keep(update: Update) -> None:
        nonlocal left_out, size
        size += sum(map(len, (update.output, update.message or "", *update.lines)))
        if len(updates) < MOST_UPDATES and size <= MOST_UPDATE_TEXT:
            updates.append(update)
        else:
            left_out += 1

    async with container.egress.session() as session:
        if server.dialect == AUTO:
            found = await detect(session, server, api_key)
            event = dialect_detected(server, found)
            if event is None:
                raise RuleBroken(f"its dialect was not detected: {found.problem}")
            server = with_dialect(server, event)
        dialect = dialect_of(server, container.fleet.definition(body.type))
        call = call_of(body, subject, api_key, settings.callback_base)
        trial = Trial(session, dialect.converse(server, call), server, call, keep, settings.max_result, utc_now)
        began = time.perf_counter()
        answer = await trial.run()
        duration_ms = round((time.perf_counter() - began) * 1000)
    verdict = verdict_info(answer)
    log.info("server.tried", server=server.server_id, by=subject, outcome=verdict.outcome, milliseconds=duration_ms)
    return TryAnswer(
        id=server.server_id,
        dialect=dialect.name,
        verdict=verdict,
        duration_ms=duration_ms,
        exchanges=[exchange_info(trial, shown) for shown in trial.shown],
        exchanges_left_out=trial.left_out,
        updates=[update_info(update) for update in updates],
        updates_left_out=left_out,
        cancelled=trial.cancelled.outcome if trial.cancelled else None,
    )


def call_of(body: TryBody, subject: str, api_key: str | None, callback_base: str) -> Call:
    """Return a call of a task that does not exist. Reports on it are refused: nobody has its token."""
    now = utc_now()
    ref = new_ref(owner_token(subject), now, random_bits(80))
    return Call(
        task_id=ref.id,
        task_type=body.type,
        attempt=1,
        payload=body.payload,
        deadline=now + timedelta(seconds=body.timeout),
        callback_url=f"{callback_base}/api/task/{ref.id}",
        callback_token=secret_token(),
        api_key=api_key,
    )
