"""The order of checks of a submission: what is appended, what an earlier request settles, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from taskstream.commands.handler import Handled, Known
from taskstream.commands.owner import Allowance
from taskstream.commands.task import decide
from taskstream.commands.task_commands import SubmitTask
from taskstream.commands.task_state import UNKNOWN, TaskState, evolve
from taskstream.errors import (
    IdempotencyConflict,
    InvalidInput,
    InvalidItems,
    KeyTaken,
    NotFound,
    QuotaExceeded,
    StoredTooMuch,
    StoreUnavailable,
)
from taskstream.events.codec import task_codec
from taskstream.events.ids import BatchRef, TaskRef, nth
from taskstream.events.subjects import event_subject, history_filter, task_root
from taskstream.events.task import Plan, TaskCancelled, TaskEvent, TaskQueued
from taskstream.projections.batches import Batch
from taskstream.projections.fleet import Fleet
from taskstream.projections.keys import KeyRing
from taskstream.push.feed import FeedItem, FeedPosition
from taskstream.push.hub import LoggedEvent, Scope
from taskstream.runtime import metrics
from taskstream.runtime.metrics import labelled
from taskstream.scheduling.backlog_report import BacklogReport, OwnerBacklog
from taskstream.scheduling.backlog_report import encode as encode_report
from taskstream.settings import Settings
from taskstream.streams.jetstream.messages import Position
from taskstream.streams.storage import StoreSpace
from taskstream.submission import service
from taskstream.submission.body import TaskRequest, fingerprint, read_task
from taskstream.submission.service import SubmissionService
from taskstream.submission.stored_bytes import size_of

from ..deciders.support import BY, NOW, defined, recorded, submitted
from ..folds.test_fleet import positions

REF = TaskRef("alice", "7" * 26)
BATCH = BatchRef("alice", "0" * 26)
ARRAY = "application/json"
TWO = b'[{"payload": 1}, {"payload": 2}]'
KEYED = b'{"payload": 1, "type": "chapter", "concurrencyKey": "k"}'
QUEUED = TaskQueued(pool="text", priority="normal", reason="")
REFUSED = TaskCancelled(attempt=0, server_id="", reason="another task has the key")


class Log:
    """Decides as the handlers of tasks do, and keeps events in memory."""

    def __init__(self) -> None:
        self.tasks = self
        self.states: dict[TaskRef, Known[TaskState]] = {}
        self.submitted: list[tuple[TaskRef, SubmitTask]] = []
        self.arguments: list[dict[str, Any]] = []
        self.in_flight: list[dict[Any, int]] = []
        self.admission: Any = None

    async def load(self, ref: TaskRef) -> Known[TaskState]:
        return self.states.get(ref, Known(UNKNOWN, 0))

    async def handle(self, ref: TaskRef, command: SubmitTask, **more: Any) -> Handled[TaskState, TaskEvent]:
        self.arguments.append(more)
        return self._submit(ref, command)

    async def submit_together(
        self, commands: Sequence[tuple[TaskRef, SubmitTask]], **more: Any
    ) -> list[Handled[TaskState, TaskEvent]]:
        self.arguments.append(more)
        return [self._submit(ref, command) for ref, command in commands]

    def _submit(self, ref: TaskRef, command: SubmitTask) -> Handled[TaskState, TaskEvent]:
        self.in_flight.append(dict(self.admission._in_flight))
        self.submitted.append((ref, command))
        known = self.states.get(ref, Known(UNKNOWN, 0))
        events = decide(command, known.state, NOW)
        if not events:
            return Handled(known, [])
        [event] = events
        after: Known[TaskState] = Known(evolve(known.state, recorded(event)), 100 + len(self.submitted))
        self.states[ref] = after
        return Handled(after, [recorded(event)])  # type: ignore[list-item]


class Batches:
    """The batches that earlier requests made."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.complete = True

    async def find(self, ref: BatchRef) -> Batch:
        if self.batch is None:
            raise NotFound("batch", ref.id)
        return self.batch

    async def is_complete(self, batch: Batch) -> bool:
        assert batch is self.batch
        return self.complete


class Feeds:
    """What the log says after the submission: events of tasks, or an error."""

    def __init__(self) -> None:
        self.said: list[tuple[TaskRef, TaskEvent] | Exception | None] = []
        self.asked: list[tuple[Scope, int]] = []
        self.read = 0

    async def feed(
        self, scope: Scope, position: FeedPosition, pause_seconds: float, *, in_log: bool
    ) -> AsyncGenerator[FeedItem | None, None]:
        assert (pause_seconds, in_log) == (2.0, True)
        self.asked.append((scope, position.sequence))
        for said in self.said:
            self.read += 1
            if said is None:
                yield None
                yield FeedItem(None, position)
            elif isinstance(said, Exception):
                raise said
            else:
                ref, event = said
                data = task_codec.encode(recorded(event))
                logged = LoggedEvent(Position(200, event_subject(task_root(ref), event), data))
                yield FeedItem(logged, position)


class UsageBucket:
    """Has counted nothing."""

    async def get_many(self, keys: list[str]) -> dict[str, None]:
        return {}


class Service(SubmissionService):
    """A service over logs in memory."""

    def __init__(self, *definitions: Any, quota: int | None = None, stored: int | None = None) -> None:
        fleet = Fleet(Allowance(waiting=quota, stored=stored))
        fleet.apply(positions(*definitions))
        self.log, self.found, self.feeds = Log(), Batches(), Feeds()
        nothing: Any = None
        self.usage = UsageBucket()
        space = StoreSpace(nothing, nothing, reserve_bytes=0, replicas=1, server_limit=None, folder=None, streams=())
        super().__init__(
            Settings(),
            fleet,
            self.log,  # type: ignore[arg-type]
            nothing,
            self.feeds,  # type: ignore[arg-type]
            self.found,  # type: ignore[arg-type]
            self.usage,  # type: ignore[arg-type]
            space,
            keys=KeyRing(),
            attributes=nothing,
        )
        self.log.admission = self.admission

    async def take(self, request: TaskRequest, ref: TaskRef = REF) -> Handled[TaskState, TaskEvent]:
        return await self.submit(ref, request, by=BY, cause="r1")

    async def take_batch(self, body: bytes = TWO, *, repeatable: bool = False) -> service.SubmittedBatch:
        return await self.submit_batch(
            BATCH, body, ARRAY, owner="alice@example.com", by=BY, cause="r1", repeatable=repeatable
        )

    def crowd(self, waiting: int, queued: int = 0) -> None:
        """Report that alice has tasks waiting, and a window of four full by `queued`."""
        windows = {"normal default default ": queued}
        self.admission.on_report(
            BacklogReport(as_of=0, windows={"default": 4}, owners={"alice": OwnerBacklog(waiting, windows)}), NOW
        )

    def refuses_keys(self) -> None:
        self._fleet.apply(positions(defined("chapter", "text", on_conflict="refuse"), first=self._fleet.sequence + 1))


def request(body: bytes = b'{"payload": 1}', *, repeatable: bool = False) -> TaskRequest:
    return read_task(body, "alice@example.com", 10, repeatable=repeatable)


@pytest.fixture
def existing(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the subjects of tasks that exist, with how often each was looked up."""
    found: dict[str, int] = {}

    async def list_subjects(reading: Any, stream: str, subject: str) -> list[str]:
        assert stream == "TASKS"
        if subject not in found:
            return []
        found[subject] += 1
        return [subject]

    monkeypatch.setattr(service, "list_subjects", list_subjects)
    return found


# A single task


async def test_a_task_is_appended_as_its_rules_say_by_and_because_of_its_request() -> None:
    taken = Service()

    handled = await taken.take(request(repeatable=True))

    [(ref, command)] = taken.log.submitted
    assert ref == REF
    assert command == SubmitTask(submission=taken.rules.submitted(request(repeatable=True)), repeatable=True)
    assert taken.log.arguments == [{"by": BY, "cause": "r1", "known": Known(UNKNOWN, 0)}]
    assert handled.known == taken.log.states[REF]
    assert len(handled.appended) == 1


async def test_a_task_counts_as_in_flight_while_it_is_appended_and_as_queued_after_it() -> None:
    taken = Service()

    await taken.take(request())

    assert taken.log.in_flight == [{("alice", "normal default default "): 1, ("alice", "normal default"): 1}]
    assert taken.admission._in_flight == {}
    assert {name: list(found) for name, found in taken.admission._waiting.items()} == {"alice": [101]}
    assert list(taken.admission._queued) == [("alice", "normal default default "), ("alice", "normal default")]


async def test_the_last_task_of_the_quota_is_taken() -> None:
    taken = Service(quota=5)
    taken.crowd(4)

    await taken.take(request())
    with pytest.raises(QuotaExceeded):
        await taken.take(request(b'{"payload": 2}'), TaskRef("alice", "0" * 25 + "2"))


async def test_over_the_quota_of_stored_bytes_a_task_and_a_batch_are_refused() -> None:
    size = size_of(Service().rules.submitted(request()))
    taken = Service(stored=4 * size)

    await taken.take(request())
    await taken.take_batch()
    with pytest.raises(StoredTooMuch) as caught:
        await taken.take_batch(b'[{"payload": 3}, {"payload": 4}]')
    assert (caught.value.limit, caught.value.waiting) == (4 * size, 3 * size)
    await taken.take(request(b'{"payload": 5}'), TaskRef("alice", "0" * 25 + "2"))
    with pytest.raises(StoredTooMuch):
        await taken.take(request(b'{"payload": 6}'), TaskRef("alice", "0" * 25 + "3"))

    assert len(taken.log.submitted) == 4


async def test_each_new_task_is_counted_in_the_metric_of_its_pool_and_priority() -> None:
    def counted() -> list[float]:
        found = [labelled(metrics.submitted, "default", priority) for priority in ("normal", "low")]
        return [each._value.get() for each in found]

    taken = Service()
    before = counted()

    for _ in range(2):
        await taken.take(request(repeatable=True))
        await taken.take_batch(TWO[:-1] + b', {"payload": 3, "priority": "low"}]', repeatable=True)

    assert [after - one for after, one in zip(counted(), before, strict=True)] == [3, 1]


async def test_backlog_reports_are_listened_to() -> None:
    taken = Service()
    heard: dict[str, Any] = {}

    class Listening:
        async def listen(self, subject: str, receive: Any) -> None:
            heard[subject] = receive

    listening: Any = Listening()
    await taken.listen(listening)
    report = encode_report(BacklogReport(as_of=9, windows={}, owners={}, held_back={"default": 7}))
    heard["scheduler.backlog"](SimpleNamespace(data=report))

    assert taken.admission.held_back("default") == 7


async def test_a_task_beyond_its_window_is_held_and_in_flight_in_no_window() -> None:
    taken = Service()
    taken.crowd(4, queued=4)

    await taken.take(request())

    assert taken.log.submitted[0][1].submission.held
    assert taken.log.in_flight == [{}]
    assert (len(taken.admission._waiting), len(taken.admission._queued)) == (1, 0)


async def test_the_same_request_again_appends_and_counts_nothing() -> None:
    taken = Service()
    await taken.take(request(repeatable=True))

    handled = await taken.take(request(repeatable=True))

    assert handled.appended == []
    assert list(taken.admission._waiting["alice"]) == [101]


async def test_over_the_quota_a_new_task_is_refused_and_nothing_is_appended() -> None:
    taken = Service(quota=5)
    taken.crowd(5)

    with pytest.raises(QuotaExceeded):
        await taken.take(request(repeatable=True))
    assert taken.log.submitted == []


@pytest.mark.parametrize("refusal", ["quota", "schema", "parent"])
async def test_an_earlier_request_with_the_same_key_wins_over_any_refusal(
    refusal: str, existing: dict[str, int]
) -> None:
    taken = Service(quota=5)
    body = b'{"payload": "x", "dependsOn": ["00000000000000000000000000~alice"]}'
    event = submitted(fingerprint=fingerprint(body))
    taken.log.states[REF] = Known(evolve(UNKNOWN, recorded(event)), 50)
    if refusal == "quota":
        taken.crowd(5)
        existing[history_filter(task_root(TaskRef("alice", "0" * 26)))] = 0
    if refusal == "schema":
        strict = defined("default", "default", payload_schema=Raw(b'{"type": "integer"}'))
        taken._fleet.apply(positions(strict, first=1))

    assert await taken.take(request(body, repeatable=True)) == Handled(taken.log.states[REF], [])
    with pytest.raises((QuotaExceeded, InvalidInput)):
        await taken.take(request(body))
    with pytest.raises(IdempotencyConflict):
        await taken.take(replace(request(body, repeatable=True), fingerprint="another"))
    assert taken.log.submitted == []


async def test_a_task_may_depend_on_tasks_of_its_owner_only(existing: dict[str, int]) -> None:
    taken = Service()
    own, others = (TaskRef(owner, "0" * 26) for owner in ("alice", "bob"))
    for ref in (own, others):
        existing[history_filter(task_root(ref))] = 0

    await taken.take(request(b'{"payload": 1, "dependsOn": ["%s"]}' % own.id.encode()))
    with pytest.raises(InvalidInput) as caught:
        await taken.take(request(b'{"payload": 1, "dependsOn": ["%s", "%s"]}' % (own.id.encode(), others.id.encode())))

    assert (caught.value.path, caught.value.detail) == ("$.dependsOn[1]", f"you have no task {others.id}")
    assert list(existing.values()) == [2, 0]
    assert len(taken.log.submitted) == 1


async def test_no_more_than_64_parents_are_looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Service()
    under_way, most = 0, 0

    async def list_subjects(*_: Any) -> list[str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return ["one"]

    monkeypatch.setattr(service, "list_subjects", list_subjects)
    parents = ",".join(f'"{number:026d}~alice"' for number in range(200))
    await taken.take(request(f'{{"payload": 1, "dependsOn": [{parents}]}}'.encode()))

    assert most == 64


# Concurrency keys that are taken


async def test_a_task_whose_key_is_taken_is_refused_once_the_scheduler_says_so() -> None:
    taken = Service()
    taken.refuses_keys()
    other = TaskRef("alice", "0" * 25 + "9")
    taken.feeds.said = [None, (other, REFUSED), (REF, REFUSED), (REF, QUEUED)]

    with pytest.raises(KeyTaken, match="another task has the key"):
        await taken.take(request(KEYED))

    assert taken.feeds.asked == [(Scope(ref=REF), 101)]
    assert taken.feeds.read == 3


@pytest.mark.parametrize("said", [[(REF, QUEUED), (REF, REFUSED)], [StoreUnavailable("away")], []], ids=str)
async def test_a_task_that_the_scheduler_queued_or_did_not_decide_on_is_accepted(said: list[Any]) -> None:
    taken = Service()
    taken.refuses_keys()
    taken.feeds.said = said

    handled = await taken.take(request(KEYED))

    assert len(handled.appended) == 1
    assert len(taken.feeds.asked) == 1
    assert taken.feeds.read == min(len(said), 1)


@pytest.mark.parametrize(
    ("body", "definition"),
    [
        (b'{"payload": 1, "type": "chapter"}', defined("chapter", "text", on_conflict="refuse")),
        (KEYED, defined("chapter", "text", on_conflict="wait")),
        (KEYED, defined("other", "text", on_conflict="refuse")),
        (b'{"payload": 1, "type": "chapter", "deadline": 9e15}', defined("chapter", "text", on_conflict="refuse")),
    ],
    ids=["no key", "its type waits", "no such type", "a plan without a key"],
)
async def test_nothing_is_waited_for_where_no_key_can_be_taken(body: bytes, definition: Any) -> None:
    taken = Service(definition)
    body = body.replace(b"9e15", b"4102444800000")

    await taken.take(request(body))

    assert taken.feeds.asked == []


async def test_a_repeated_task_is_not_waited_for_again() -> None:
    taken = Service()
    taken.refuses_keys()
    taken.feeds.said = [(REF, QUEUED)]

    for _ in range(2):
        await taken.take(request(KEYED, repeatable=True))

    assert len(taken.feeds.asked) == 1


# Batches


def batch(body: bytes = TWO, sequence: int = 50) -> Batch:
    return Batch(ref=BATCH, owner="alice", size=2, fingerprint=fingerprint(body), created_at=NOW, sequence=sequence)


async def test_the_tasks_of_a_batch_are_appended_together_in_order() -> None:
    taken = Service()

    found = await taken.take_batch(repeatable=True)

    refs = [nth(BATCH, 0), nth(BATCH, 1)]
    assert found == service.SubmittedBatch(refs, is_new=True, refused={})
    assert [ref for ref, _ in taken.log.submitted] == refs
    first = taken.log.submitted[0][1]
    assert first.repeatable
    assert (first.submission.owner, first.submission.batch, first.submission.batch_size) == (
        "alice@example.com",
        BATCH.id,
        2,
    )
    assert taken.log.arguments == [{"by": BY, "cause": "r1"}]
    assert taken.log.in_flight == [{("alice", "normal default default "): 2, ("alice", "normal default"): 2}] * 2
    assert list(taken.admission._waiting["alice"]) == [101, 102]
    assert taken.feeds.asked == []


async def test_a_batch_fills_each_window_and_the_rest_of_it_is_held() -> None:
    taken = Service()
    taken.crowd(2, queued=2)
    body = b'[{"payload": 1}, {"payload": 2, "priority": "low"}, {"payload": 3}, {"payload": 4}, {"payload": 5}]'

    await taken.take_batch(body)

    assert [command.submission.held for _, command in taken.log.submitted] == [False, False, False, True, True]


async def test_a_batch_whose_first_task_is_held_leaves_its_place_to_the_next() -> None:
    taken = Service()
    taken.crowd(3, queued=3)
    body = b'[{"payload": 1, "dependsOn": [1]}, {"payload": 2}, {"payload": 3}]'

    await taken.take_batch(body)

    assert [command.submission.held for _, command in taken.log.submitted] == [True, False, True]
    assert taken.log.submitted[0][1].submission.plan == Plan(depends_on=(nth(BATCH, 1).id,))


async def test_a_complete_batch_of_an_earlier_request_is_returned_before_its_body_is_read() -> None:
    taken = Service()
    taken.found.batch = batch(b"no batch at all")

    found = await taken.take_batch(b"no batch at all", repeatable=True)

    assert found == service.SubmittedBatch([nth(BATCH, 0), nth(BATCH, 1)], is_new=False, refused={})
    assert taken.log.submitted == []


async def test_what_is_missing_of_an_earlier_batch_is_appended_also_over_the_quota() -> None:
    taken = Service(quota=2)
    taken.crowd(2)
    taken.found.batch, taken.found.complete = batch(), False
    first = taken.rules.submitted(request())
    state = evolve(UNKNOWN, recorded(replace(first, fingerprint=fingerprint(TWO))))
    taken.log.states[nth(BATCH, 0)] = Known(state, 50)

    found = await taken.take_batch(repeatable=True)

    assert found.is_new
    assert len(taken.log.submitted) == 2
    assert list(taken.admission._waiting["alice"]) == [102]
    assert not (await taken.take_batch(repeatable=True)).is_new


async def test_a_key_used_for_another_batch_is_refused() -> None:
    taken = Service()
    taken.found.batch = batch(b"another")

    with pytest.raises(IdempotencyConflict):
        await taken.take_batch(repeatable=True)


@pytest.mark.parametrize("repeatable", [False, True])
async def test_a_new_batch_over_the_quota_is_refused_as_a_whole(repeatable: bool) -> None:
    taken = Service(quota=2)
    taken.crowd(1)

    with pytest.raises(QuotaExceeded):
        await taken.take_batch(repeatable=repeatable)
    assert taken.log.submitted == []


async def test_without_a_key_an_earlier_batch_settles_nothing() -> None:
    taken = Service(quota=2)
    taken.crowd(1)
    taken.found.batch = batch()

    with pytest.raises(QuotaExceeded):
        await taken.take_batch(repeatable=False)


async def test_the_parents_of_a_batch_are_its_own_tasks_or_earlier_ones(existing: dict[str, int]) -> None:
    taken = Service()
    earlier, missing = TaskRef("alice", "1" * 26), TaskRef("alice", "2" * 26)
    existing[history_filter(task_root(earlier))] = 0
    known = b'[{"payload": 1, "dependsOn": ["%s", 1]}, {"payload": 2}]' % earlier.id.encode()
    unknown = b'[{"payload": 1}, {"payload": 2, "dependsOn": ["%s", "%s"]}]' % (
        earlier.id.encode(),
        missing.id.encode(),
    )

    assert len((await taken.take_batch(known)).refs) == 2
    with pytest.raises(InvalidItems) as caught:
        await taken.take_batch(unknown)

    assert {place: (error.path, error.detail) for place, error in caught.value.found.items()} == {
        1: ("$.dependsOn[1]", f"you have no task {missing.id}")
    }
    assert "1 of 2 items" in str(caught.value)
    assert len(taken.log.submitted) == 2


async def test_tasks_of_a_batch_whose_keys_are_taken_are_reported_and_the_others_are_not() -> None:
    taken = Service()
    taken.refuses_keys()
    first, second, third = (nth(BATCH, place) for place in range(3))
    taken.feeds.said = [(first, QUEUED), (second, REFUSED), (third, REFUSED)]

    found = await taken.take_batch(b"[" + KEYED + b"," + KEYED + b', {"payload": 1, "type": "chapter"}]')

    assert found.refused == {second: "another task has the key"}
    assert found.is_new
    assert taken.feeds.asked == [(Scope(batch=BATCH), 102)]
    assert taken.feeds.read == 2
