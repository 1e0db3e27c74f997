"""The runner of operations: one API process at a time carries out all of them, page by page.

Authoritative: the log of operations. A page is in the log before its first task is commanded, and its outcome before
the next one begins. Safety: each event of a task names the operation as its cause, so a process that takes over finds
which tasks of the page have the command. So each task gets it once, and the counts are right after any crash. Liveness:
the process that takes the lease goes on from the log.

It is fair: operations take turns, few commands run at a time, and after each page the runner rests for as long as the
page took. Retried tasks go into the bulk queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from ..commands.operation import AdvanceOperation, FailOperation, Operation
from ..container import Container
from ..errors import QueryTooSlow, Refused, StoreError
from ..events.envelope import Actor
from ..events.ids import OperationRef
from ..events.operation import OperationCounts
from ..events.subjects import OPERATION_SUBJECTS
from ..projections.latest_states import UnfinishedStates
from ..projections.operations import OPERATION_STATES
from ..runtime.service import Service
from ..streams.jetstream.consumers import follow
from ..streams.leases import Lease, Membership
from ..streams.topology.definitions import OPERATIONS
from .operations import OperationPart, command_part, find_part

log = structlog.get_logger(__name__)

BY = Actor("system", "operations")
SHORTEST_REST_SECONDS = 0.02
LONGEST_REST_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 30.0
"""Longest pause of an operation after a failure of the store; the first one is a second, each further one twice as
long."""
SLOW_TRIES = 5
"""Searches in a row that take too long, after which an operation fails."""


class OperationRunner(Service):
    """Carries out operations while its process holds the lease."""

    def __init__(self, container: Container, members: Membership) -> None:
        super().__init__("operations", lease=Lease(members, "operations"))
        self._container = container
        self._running = UnfinishedStates(OPERATION_STATES)
        self._caught_up = asyncio.Event()
        self._news = asyncio.Event()
        self._found: dict[OperationRef, int] = {}
        """The page of an operation that this process has found and not yet begun."""
        self._waits: dict[OperationRef, tuple[float, float]] = {}
        """Operations that wait after a failure: until when, by the event loop's clock, and how long."""
        self._slow: dict[OperationRef, int] = {}
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def stop(self) -> None:
        """Leave the present page to the process that takes the lease next, and release it."""
        self._begin_stop()
        await self._is_idle.wait()
        await super().stop()

    async def _serve(self) -> None:
        """Carry out operations until the lease is lost or the service is stopped."""
        self._running, self._found = UnfinishedStates(OPERATION_STATES), {}
        self._caught_up.clear()
        self._is_idle.clear()
        try:
            await self._serve_together(self._follow(), self._advance_all())
        finally:
            self._is_idle.set()

    async def _follow(self) -> None:
        steps = follow(self._container.consuming, OPERATIONS, [OPERATION_SUBJECTS], 0)
        async with contextlib.aclosing(steps) as batches:
            async for positions in batches:
                self._running.apply(positions)
                if not positions:
                    self._caught_up.set()
                self._news.set()

    async def _advance_all(self) -> None:
        await self._caught_up.wait()
        while True:
            self._news.clear()
            now = asyncio.get_running_loop().time()
            unfinished = self._unfinished()
            self._waits = {ref: wait for ref, wait in self._waits.items() if ref in unfinished}
            due = [ref for ref in unfinished if self._waits.get(ref, (0.0, 0.0))[0] <= now]
            for ref in due:
                started = time.monotonic()
                await self._try_advance(ref)
                took = time.monotonic() - started
                await asyncio.sleep(min(max(took, SHORTEST_REST_SECONDS), LONGEST_REST_SECONDS))
            if not due:
                await self._rest(now)

    def _unfinished(self) -> list[OperationRef]:
        """Return the operations that have something to do, as far as is known."""
        states = self._running.states
        return [ref for ref, state in states.items() if has_work(state)]

    async def _rest(self, now: float) -> None:
        """Wait for news, or until an operation may be tried again."""
        until = min((at for at, _ in self._waits.values()), default=None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if until is None else max(until - now, SHORTEST_REST_SECONDS)):
                await self._news.wait()

    async def _try_advance(self, ref: OperationRef) -> None:
        """Carry out one page; after a failure the operation waits, and the others go on."""
        try:
            await self.advance(ref)
        except QueryTooSlow as error:
            self._slow[ref] = self._slow.get(ref, 0) + 1
            self._wait(ref, str(error))
        except StoreError as error:
            self._wait(ref, str(error))
        except Exception as error:
            log.exception("operation.broken", operation=ref.id)
            self._wait(ref, repr(error))
        else:
            self._waits.pop(ref, None)
            self._slow.pop(ref, None)

    def _wait(self, ref: OperationRef, reason: str) -> None:
        self._found.pop(ref, None)
        seconds = min(2 * self._waits.get(ref, (0.0, 0.5))[1], LONGEST_WAIT_SECONDS)
        self._waits[ref] = (asyncio.get_running_loop().time() + seconds, seconds)
        log.warning("operation.waiting", operation=ref.id, seconds=seconds, reason=reason)

    async def advance(self, ref: OperationRef) -> None:
        """Command the present page of an operation, record what came of it, and find the next page."""
        operations = self._container.commands.operations
        known = await operations.load(ref)
        state = known.state
        if not isinstance(state, Operation) or not has_work(state):
            return
        counts = OperationCounts()
        if state.ids:
            is_new = self._found.pop(ref, None) == state.page
            counts = await command_part(self._container, state, may_have_begun=not is_new)
        part, trouble = await self._next(ref, state)
        command = AdvanceOperation(
            page=state.page, counts=counts, ids=part.ids, cursor=part.cursor, is_last=part.is_last
        )
        handled = await operations.handle(ref, command, by=BY, known=known)
        after = handled.known.state
        if trouble:
            await operations.handle(ref, FailOperation(error=trouble), by=BY)
            log.warning("operation.failed", operation=ref.id, reason=trouble)
        elif handled.appended and isinstance(after, Operation) and after.page == state.page + 1:
            self._found[ref] = after.page

    async def _next(self, ref: OperationRef, state: Operation) -> tuple[OperationPart, str]:
        """Return the next page, and why the operation cannot go on; empty if it can. Raises StoreError."""
        nothing = OperationPart((), state.cursor, is_last=state.is_last)
        if state.is_last or state.paused or state.ending is not None:
            return nothing, ""
        if self._slow.get(ref, 0) >= SLOW_TRIES:
            return nothing, "the search for its tasks takes too long; start one with a narrower filter"
        try:
            return await find_part(self._container, state), ""
        except Refused as refusal:
            return nothing, str(refusal)


def has_work(state: Operation) -> bool:
    """Return True if a page has begun, or may begin."""
    return not state.is_settled or (state.ending is None and not state.paused)
