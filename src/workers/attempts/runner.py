"""One attempt from claim to outcome.

    claim (AttemptStarted, guarded)  ─►  call the server  ─►  outcome in the log  ─►  timers  ─►  ack

The queue message is acked only when nothing more depends on it: the outcome is in the log, or the server has accepted
and the deadline's timer is set. After a crash before that, the message is redelivered, and the log decides what to do.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from functools import partial

import structlog
from msgspec import Raw, Struct
from nats.aio.msg import Msg

from ...backends.client import BackendClient
from ...backends.dialects import dialect_of
from ...backends.dialects.dialect import Accepted, Answer, Busy, Call, Dialect, Failed, Unsent
from ...backends.exchanges import CancelReport, Exchanges
from ...clock import secret_token
from ...commands.handler import Known
from ...commands.server import CircuitIsOpen, Present, TryCircuit
from ...commands.task_commands import StartAttempt
from ...commands.task_state import Processing, TaskState
from ...container import Container
from ...errors import Refused, StoreUnavailable
from ...events.envelope import Actor
from ...events.ids import TaskRef, parse_file_id
from ...events.task import TaskSubmitted
from ...files.references import rewritten
from ...runtime import metrics
from ...runtime.metrics import labelled
from ...runtime.spans import TraceSpan, Tracing
from ...scheduling.asks import OpenAsk
from ...scheduling.redelivery import LONGEST_RETURN, growing
from ...streams.jetstream.consumers import delivery_info
from ...streams.leases import Membership
from ...vault.sealing import SealingError, SecretMissing
from ...wire.trace import Trace, TraceContext
from ..fleet.circuit_breaker import CircuitBreaker, Consequence
from ..fleet.server_keys import Misconfigured, ServerKeys
from ..fleet.slots import Slots
from .hand_over import HandOvers
from .in_flight import InFlight
from .outcomes import TOO_LATE, Outcomes, after_answer, outcome_of
from .parents import LINK_MARGIN, Parents, SentParents
from .stale_delivery import LOOK_AGAIN, StaleDeliveries

log = structlog.get_logger(__name__)

WARNING_SECONDS = 60.0
KEY_PAUSE_FACTOR = 4
"""How much longer a task pauses whose model key does not open than one without a server: 0.2 s, then up to 32 s."""
PULLED = CancelReport("requested", "a puller may have got it at that moment; it is told when it renews or asks")
"""What became of an attempt whose task was cancelled while it was handed over."""
UNSENT_PAUSE = timedelta(seconds=1)
"""Delay before a task is tried again that could not be sent: this process lacks descriptors or memory."""


UNFAILED = {"succeeded", "accepted", "busy", "unsent", "cancelled", "returned", "reported", "given up", TOO_LATE}
"""Outcomes that make no span an error."""
NO_CALL = CancelReport("confirmed", "the server was not called")
LOST_CALL = CancelReport("unconfirmed", "the worker ended before the server could be told")


class ReadyTask(Struct, frozen=True, kw_only=True):
    """A task out of the queue, as the log knows it."""

    ref: TaskRef
    message: Msg
    known: Known[TaskState]
    submitted: TaskSubmitted
    avoid: str = ""
    """Server of the attempt before, to be avoided if there is another."""
    request_id: str = ""
    """Of its submission; empty: a schedule submitted it."""
    needs_grant: bool = False
    """It shares a limit with others, and may start only if the scheduler has counted it."""

    @property
    def require(self) -> Mapping[str, str]:
        """The labels that its server must have."""
        return self.submitted.plan.require if self.submitted.plan is not None else {}


class _Keys(Struct, frozen=True, kw_only=True):
    """The keys that an attempt's request carries."""

    api_key: str | None
    model_key: str | None
    is_lost: bool = False
    """The task came with a key that is not stored any more."""

    def __repr__(self) -> str:
        return "_Keys(…)"


class _UnderWay(Struct):
    """An attempt of this process, from before its claim until its outcome is recorded."""

    attempt: int = 0
    """0 before the claim."""
    calling: asyncio.Task[None] | None = None
    """What waits for the server's answer; None if nothing does, or if the call was given up."""
    cancelled: int = 0
    """The attempt that the log says was cancelled."""
    cancel_report: CancelReport = NO_CALL
    """What became of a call that was cancelled."""
    ask: OpenAsk | None = None
    """The request of a puller that is reserved for it; None: it is pushed, or the request has its answer."""
    returned_because: str = "the worker is shutting down"
    """Why the attempt is returned if its call is given up."""
    exchanges: Exchanges | None = None
    """The call."""
    is_over: bool = False
    """The server has reported the end of the attempt while the call was open."""
    span: TraceSpan | None = None
    """None: no spans are exported."""
    outcome: str = "unrecorded"
    """For the span."""

    @property
    def is_cancelled(self) -> bool:
        return 0 < self.attempt == self.cancelled

    def give_up(self) -> None:
        """Cancel the call, if there is one, and not what comes after it."""
        if self.calling is not None:
            self.calling.cancel()
            self.calling = None


class AttemptRunner:
    """Runs attempts; knows those that are under way in this process."""

    def __init__(
        self, container: Container, members: Membership, slots: Slots, in_flight: InFlight, backend: BackendClient
    ) -> None:
        self._callback_base = container.settings.callback_base
        self._file_links = container.files.links
        self._commands = container.commands
        self._secrets = container.secrets
        self._server_keys = ServerKeys(container)
        self._fleet = container.fleet
        self._tracing = container.tracing
        self._backend = backend
        self._slots = slots
        self._in_flight = in_flight
        self._worker = Actor("worker", members.id)
        self._parents = Parents(container.tasks, container.results, container.links, container.settings.parent_results)
        self._outcomes = Outcomes(container, slots, self._worker)
        self._hand_overs = HandOvers(container, slots)
        self._circuit_breaker = CircuitBreaker(container, slots, self._worker)
        self.stale_deliveries = StaleDeliveries(container, in_flight, members, self.is_under_way)
        self._running: set[asyncio.Task[None]] = set()
        self._under_way: dict[TaskRef, _UnderWay] = {}
        self._stopping = False
        self._warned_at = -WARNING_SECONDS

    def start(self, queued: ReadyTask, server: Present) -> None:
        """Start an attempt on a server that has a free slot. The task must not be under way here."""
        ask: OpenAsk | None = None
        self._in_flight.add(queued.message)
        if server.settings.is_pulled:
            ask = self._slots.reserve_ask(server.server_id, queued.submitted.task_type, queued.require)
            if ask is None:  # its request has ended since
                self.spawn(self._in_flight.nak(queued.message))
                return
        self._slots.begin(server.server_id, queued.ref)
        under_way = self._under_way[queued.ref] = _UnderWay(ask=ask)
        self.spawn(self._run(queued, server, under_way))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run something that belongs to a queue message; `drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("attempt.crashed", error=repr(error), exc_info=error)

    def is_under_way(self, ref: TaskRef) -> bool:
        """Return True while this process works on a task: from its claim until its outcome is in the log."""
        return ref in self._under_way

    def cancel_call(self, ref: TaskRef, attempt: int) -> None:
        """Cancel the call of an attempt whose task was cancelled; one that has not begun is not made."""
        under_way = self._under_way.get(ref)
        if under_way is not None:
            under_way.cancelled = attempt
            if under_way.is_cancelled:
                under_way.give_up()

    def is_calling(self, ref: TaskRef) -> bool:
        """Return True if this process waits for a server's answer on a task."""
        under_way = self._under_way.get(ref)
        return under_way is not None and under_way.calling is not None

    def end_call(self, ref: TaskRef, attempt: int) -> None:
        """End the call of an attempt whose end its server has reported by callback. The server is not told."""
        under_way = self._under_way.get(ref)
        if under_way is None or under_way.attempt != attempt or under_way.calling is None:
            return
        if under_way.exchanges is not None and under_way.exchanges.end():
            under_way.is_over = True
            under_way.give_up()

    async def drain(self, grace_seconds: float) -> None:
        """Wait for the attempts under way; return those to the queue that take longer than the grace."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace_seconds)
        self._stopping = True
        for under_way in self._under_way.values():
            under_way.give_up()
        if self._running:
            await asyncio.wait(self._running, timeout=5)

    # The spine

    async def _run(self, queued: ReadyTask, server: Present, under_way: _UnderWay) -> None:
        try:
            await self._attempt(queued, server, under_way)
        except StoreUnavailable as error:
            log.warning("attempt.retrying", task=queued.ref.id, reason=str(error))
            await self._in_flight.nak(queued.message, LOOK_AGAIN)
        except Exception:
            # A fault of ours. The message must not stay in flight: it is delivered again, and the attempt found lost.
            await self._in_flight.nak(queued.message, LOOK_AGAIN)
            raise
        finally:
            self._forget(queued.ref, under_way)
            if under_way.span is not None:
                under_way.span.set_outcome(under_way.outcome, failed=under_way.outcome not in UNFAILED)
                under_way.span.end()

    def _forget(self, ref: TaskRef, under_way: _UnderWay) -> None:
        """Record that an attempt is no longer under way; the next one of its task may be by now."""
        if self._under_way.get(ref) is under_way:
            del self._under_way[ref]

    async def _attempt(self, queued: ReadyTask, server: Present, under_way: _UnderWay) -> None:
        server_id = server.server_id
        started = time.perf_counter()
        claimed: Known[TaskState] | None = None
        answer: Answer | None = None
        consequence: Consequence | None = None
        try:
            keys = await self._open_keys(queued, server)
            if keys is None:
                return
            parents = await self._parents.of(queued.submitted.plan)
            token = secret_token()
            claimed = await self._claim(queued, server, token)
            if claimed is None:
                return
            call = partial(self._call, queued, server, claimed, token, keys, parents, under_way)
            if self._tracing is None:
                answer = await call(_submitted_in(queued))
            else:
                answer = await self._traced(self._tracing, queued, server, claimed, under_way, call)
            if answer is not None or under_way.is_over:
                labelled(metrics.attempt_seconds, server_id).observe(time.perf_counter() - started)
                judged = answer or Accepted(None)  # it accepted the task, and has reported
                consequence = self._circuit_breaker.count(
                    server, queued.ref, queued.submitted.task_type, claimed.state, judged
                )
        finally:
            if under_way.ask is not None:
                self._slots.end_ask(server_id, under_way.ask, "unused")
            if claimed is None:
                self._slots.withdraw(server_id, queued.ref)
            else:
                self._slots.end(server_id, queued.ref, continues=isinstance(answer, Accepted))
        if answer is None:
            await self._give_up(queued, claimed, under_way)
            if consequence is not None:
                await self._circuit_breaker.update(server, consequence)
            return
        outcome = under_way.outcome = await self._outcomes.record(
            queued.ref, server_id, claimed, answer, self._dialect(queued, server).name
        )
        self._forget(queued.ref, under_way)  # a retry may come at once
        await self._release(queued, answer)
        if consequence is not None:
            await self._circuit_breaker.update(server, consequence)
        if under_way.is_cancelled or outcome == TOO_LATE:
            await self._outcomes.report_cancel(queued.ref, claimed, after_answer(answer))

    async def _open_keys(self, queued: ReadyTask, server: Present) -> _Keys | None:
        """Return the keys of an attempt. None if one does not open: nothing was claimed, and the message is nak'ed."""
        try:
            api_key = await self._server_keys.of(server.settings)
        except Misconfigured as error:
            await self._server_keys.mark(server, str(error), self._worker)
            await self._in_flight.nak(queued.message, growing(delivery_info(queued.message).delivered))
            return None
        key_id = queued.submitted.key_id
        try:
            model_key = await self._secrets.get(queued.ref, key_id) if key_id else None
        except SecretMissing:  # never to come back, unlike a seal key
            return _Keys(api_key=api_key, model_key=None, is_lost=True)
        except SealingError:
            self._warn_of_model_key(queued.ref)
            pause = min(KEY_PAUSE_FACTOR * growing(delivery_info(queued.message).delivered), LONGEST_RETURN)
            await self._in_flight.nak(queued.message, pause)
            return None
        return _Keys(api_key=api_key, model_key=model_key)

    def _warn_of_model_key(self, ref: TaskRef) -> None:
        """Log that a task waits for its model key to open, at most once per WARNING_SECONDS."""
        now = time.monotonic()
        if now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            log.warning(
                "attempt.key-unreadable",
                task=ref.id,
                action="put the old seal key back, or cancel such tasks: each waits until its model key opens",
            )

    async def _claim(self, queued: ReadyTask, server: Present, token: str) -> Known[TaskState] | None:
        """Append the start of the attempt. None if the task cannot be started: its message has been handled."""
        command = StartAttempt(
            server_id=server.server_id,
            worker_id=self._worker.id,
            token_digest=hashlib.sha256(token.encode()).hexdigest(),
            needs_grant=queued.needs_grant,
            reports_later=server.settings.reports_later,
        )
        try:
            if isinstance(server.circuit, CircuitIsOpen):
                await self._commands.servers.handle(server.server_id, TryCircuit(), by=self._worker)
            handled = await self._commands.task(
                queued.ref, command, by=self._worker, cause=str(queued.known.sequence), known=queued.known
            )
        except Refused:
            await self.stale_deliveries.handle(queued.ref, queued.message)
            return None
        except StoreUnavailable as error:
            log.warning("attempt.unclaimed", task=queued.ref.id, reason=str(error))
            await self._in_flight.nak(queued.message, LOOK_AGAIN)
            return None
        return handled.known

    def _payload(self, submitted: TaskSubmitted, deadline: datetime) -> Raw:
        """Return the payload that the server gets: with signed links in the place of files, valid for the attempt."""
        if not submitted.files:
            return submitted.payload
        until = deadline + LINK_MARGIN

        def url_of(file_id: str) -> str | None:
            """Return a link to a file that was checked when the task was submitted, and to no other."""
            return self._file_links.url(parse_file_id(file_id), until) if file_id in submitted.files else None

        return Raw(rewritten(bytes(submitted.payload), url_of))

    async def _call(
        self,
        queued: ReadyTask,
        server: Present,
        claimed: Known[TaskState],
        token: str,
        keys: _Keys,
        parents: SentParents | None,
        under_way: _UnderWay,
        context: TraceContext,
    ) -> Answer | None:
        """Call the server, and pass on the trace context.

        None if the call was given up: the task was cancelled, or this worker ends.
        """
        state = claimed.state
        assert isinstance(state, Processing)
        under_way.attempt = state.facts.attempt
        if keys.is_lost:
            error = "the model key is not stored any more; submit the task again with the key"
            return Failed(kind="rejected", error=error, is_neutral=True)
        definition = self._fleet.definition(queued.submitted.task_type)
        call = Call(
            task_id=queued.ref.id,
            task_type=queued.submitted.task_type,
            attempt=state.facts.attempt,
            payload=self._payload(queued.submitted, state.deadline),
            deadline=state.deadline,
            callback_url=f"{self._callback_base}/api/task/{queued.ref.id}",
            callback_token=token,
            api_key=keys.api_key,
            model=queued.submitted.model,
            model_key=keys.model_key,
            parents=None if parents is None else parents.sent(state.deadline),
            accepts=definition.accepts if definition else "any",
            facade=queued.submitted.facade,
            trace=Trace(queued.request_id, context),
        )
        if self._is_given_up(under_way):
            return None
        on_update = self._outcomes.forwarder(queued.ref, claimed)
        exchanges = under_way.exchanges = self._backend.begin(
            self._dialect(queued, server), server.settings, call, on_update
        )
        under_way.calling = attempt = asyncio.current_task()
        assert attempt is not None
        try:
            if server.settings.is_pulled:
                return await self._hand_over(queued, server, call, under_way)
            return await exchanges.run()
        except asyncio.CancelledError:
            if under_way.calling is None:
                under_way.cancel_report = PULLED if server.settings.is_pulled else exchanges.cancelled or LOST_CALL
                return None
            raise  # this attempt was cancelled, not only its call
        finally:
            if under_way.calling is None:
                attempt.uncancel()
            under_way.calling = None

    async def _traced(
        self,
        tracing: Tracing,
        queued: ReadyTask,
        server: Present,
        claimed: Known[TaskState],
        under_way: _UnderWay,
        call: Callable[[TraceContext], Awaitable[Answer | None]],
    ) -> Answer | None:
        """Begin the span of an attempt, which ends with its outcome; make the call in a span of its own."""
        assert isinstance(claimed.state, Processing)
        submitted = queued.submitted
        under_way.span = tracing.attempt(
            _submitted_in(queued),
            task_id=queued.ref.id,
            task_type=submitted.task_type,
            pool=submitted.pool,
            attempt=claimed.state.facts.attempt,
        )
        dialect = self._dialect(queued, server).name
        with tracing.call(under_way.span, server_id=server.server_id, dialect=dialect) as span:
            answer = await call(span.context)
            outcome = "given up" if answer is None else outcome_of(answer)
            span.set_outcome(outcome, failed=outcome not in UNFAILED)
            return answer

    async def _hand_over(self, queued: ReadyTask, server: Present, call: Call, under_way: _UnderWay) -> Accepted | None:
        """Hand an attempt to a puller; None if no request is open any more."""
        ask, under_way.ask = under_way.ask, None
        assert ask is not None
        accepted = await self._hand_overs.hand_over(server.server_id, ask, queued.ref, queued.require, call)
        if accepted is None:
            under_way.returned_because = "the puller's request had ended when the attempt came"
        return accepted

    async def _release(self, queued: ReadyTask, answer: Answer) -> None:
        """Ack the message of an outcome; nak it if the attempt was returned: the task is still in its queue."""
        match answer:
            case Busy():
                await self._in_flight.nak(queued.message)  # another server may take it at once
            case Unsent():
                await self._in_flight.nak(queued.message, UNSENT_PAUSE)
            case _:
                await self._in_flight.ack(queued.message)

    def _dialect(self, queued: ReadyTask, server: Present) -> Dialect:
        return dialect_of(server.settings, self._fleet.definition(queued.submitted.task_type))

    def _is_given_up(self, under_way: _UnderWay) -> bool:
        return self._stopping or under_way.is_cancelled

    async def _give_up(self, queued: ReadyTask, claimed: Known[TaskState], under_way: _UnderWay) -> None:
        if under_way.is_over:
            under_way.outcome = "reported"
            self._forget(queued.ref, under_way)
            await self._in_flight.ack(queued.message)
            return
        if under_way.is_cancelled:  # the log says so already
            under_way.outcome = "cancelled"
            self._forget(queued.ref, under_way)  # a retry may come at once
            await self._in_flight.ack(queued.message)
            await self._outcomes.report_cancel(queued.ref, claimed, under_way.cancel_report)
            return
        under_way.outcome = "returned"
        await self._outcomes.return_attempt(queued.ref, claimed, under_way.returned_because)
        await self._in_flight.nak(queued.message)


def _submitted_in(queued: ReadyTask) -> TraceContext:
    """Return the context that a task was submitted in."""
    return TraceContext(queued.submitted.trace, queued.submitted.trace_state)
