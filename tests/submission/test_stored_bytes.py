"""The quota of stored bytes: what is read, what was stored here since, and when a submission is refused."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw

from taskstream.commands.owner import Allowance
from taskstream.errors import StoredTooMuch, StoreUnavailable
from taskstream.projections.fleet import Fleet
from taskstream.projections.usage import Usage, encode
from taskstream.submission import stored_bytes
from taskstream.submission.stored_bytes import StoredBytes, StoredQuota, size_of

from ..deciders.support import NOW, submitted

DAY = timedelta(days=1)
TODAY = (NOW - datetime.fromtimestamp(0, NOW.tzinfo)) // DAY


class Quota:
    """A quota of 1,000 bytes over a bucket and a clock in memory."""

    def __init__(self, *, limit: int | None = 1_000, retention: timedelta = timedelta(0)) -> None:
        self.usages: dict[str, Usage] = {}
        self.error: Exception | None = None
        self.reads: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        bucket: Any = self
        self.stored = StoredQuota(Fleet(Allowance(stored=limit)), bucket, retention.total_seconds())

    async def get_many(self, keys: list[str]) -> dict[str, Any]:
        self.reads.append(keys[0])
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return {key: SimpleNamespace(value=encode(self.usages[key])) for key in keys if key in self.usages}

    def counted(self, size_bytes: int, upto: int = 50, day: int = TODAY) -> None:
        self.usages["owner.alice"] = Usage(upto=upto, days={day: size_bytes})

    async def refused(self, size_bytes: int, owner: str = "alice") -> StoredTooMuch | None:
        """Return the refusal of so many bytes more, once what was begun in the background is done."""
        try:
            await self.stored.check(owner, size_bytes)
        except StoredTooMuch as error:
            return error
        else:
            return None
        finally:
            for _ in range(3):
                await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands."""
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stored_bytes, "time", SimpleNamespace(monotonic=lambda: found.now))
    monkeypatch.setattr(stored_bytes, "utc_now", lambda: NOW)
    return found


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    log = SimpleNamespace(
        warning=lambda event, **more: found.append({"event": event, **more}), debug=lambda *_, **__: 0
    )
    monkeypatch.setattr(stored_bytes, "log", log)
    return found


pytestmark = pytest.mark.usefixtures("clock")


async def test_the_quota_is_reached_and_not_passed() -> None:
    quota = Quota()
    quota.counted(700)

    assert await quota.refused(300) is None
    error = await quota.refused(301)

    assert error is not None
    assert (error.limit, error.waiting, error.retry_after) == (1_000, 700, 3_600)
    assert str(error) == (
        "Quota exceeded: 700 of 1,000 stored bytes. Nothing is freed by itself, as tasks have no retention: ask an "
        "administrator to raise your limit `stored`, or to set TASKSTREAM_TASK_RETENTION."
    )
    assert quota.reads == ["owner.alice"]


async def test_a_submission_of_unknown_size_counts_as_four_messages() -> None:
    quota = Quota(limit=1_024)
    assert await quota.stored.check("alice") is None
    quota.stored.record("alice", 1, 1)

    with pytest.raises(StoredTooMuch):
        await quota.stored.check("alice")
    assert size_of(submitted(payload=Raw(b"12345"))) == 5 + 1_024


async def test_what_is_being_stored_counts_until_it_is_recorded_or_failed() -> None:
    quota = Quota()
    quota.counted(700)
    assert await quota.refused(0) is None

    with quota.stored.in_flight("alice", 200):
        assert await quota.refused(100) is None
        error = await quota.refused(101)
        assert error is not None
        assert error.waiting == 900
        assert await quota.refused(1_000, "bob") is None
    assert await quota.refused(300) is None

    with pytest.raises(StoreUnavailable), quota.stored.in_flight("alice", 200):
        raise StoreUnavailable("no answer")
    assert await quota.refused(300) is None


async def test_without_a_limit_nothing_is_read_or_counted() -> None:
    quota = Quota(limit=None)

    assert await quota.refused(10**15) is None
    quota.stored.record("alice", 1, 10)

    assert quota.reads == []
    assert quota.stored._owners == {}


async def test_what_was_stored_here_counts_until_the_bucket_has_counted_it(clock: SimpleNamespace) -> None:
    quota = Quota()
    assert await quota.refused(0) is None
    for sequence in (60, 70):
        quota.stored.record("alice", sequence, 400)

    assert await quota.refused(201) is not None
    quota.counted(500, upto=60)
    clock.now += 5.1
    assert await quota.refused(201) is not None  # read in the background meanwhile
    assert await quota.refused(100) is None
    error = await quota.refused(101)
    assert error is not None
    assert error.waiting == 900
    quota.stored.record("alice", 60, 400)
    assert await quota.refused(100) is None


async def test_the_bytes_are_read_again_in_the_background_once_they_are_five_seconds_old(
    clock: SimpleNamespace,
) -> None:
    quota = Quota()
    for passed, reads in [(0.0, 1), (4.9, 1), (0.1, 1), (0.1, 2), (5.0, 2), (0.1, 3)]:
        clock.now += passed
        assert await quota.refused(1) is None
        assert len(quota.reads) == reads


async def test_a_read_in_the_background_delays_no_submission(clock: SimpleNamespace) -> None:
    quota = Quota()
    assert await quota.refused(1) is None
    clock.now += 6
    quota.answers.clear()

    async with asyncio.timeout(5):
        assert await quota.refused(1) is None
        assert await quota.refused(1) is None

    assert len(quota.reads) == 2
    quota.answers.set()


async def test_submissions_at_once_wait_for_one_read() -> None:
    quota = Quota()
    quota.counted(1_000)

    refused = await asyncio.gather(*(quota.refused(1) for _ in range(5)))

    assert all(refused)
    assert quota.reads == ["owner.alice"]


async def test_while_nats_is_away_nothing_is_refused_for_what_is_not_known() -> None:
    quota = Quota()
    quota.error = StoreUnavailable("away")

    assert await quota.refused(1_000) is None
    assert await quota.refused(1_000) is None
    assert quota.reads == ["owner.alice"]


async def test_with_a_retention_the_refusal_says_when_the_oldest_day_is_freed() -> None:
    async def advice(retention: timedelta, day: int) -> tuple[int, str]:
        quota = Quota(retention=retention)
        quota.counted(1_000, day=day)
        error = await quota.refused(1)
        assert error is not None
        return error.retry_after, str(error).partition("bytes. ")[2]

    midnight = NOW.replace(hour=0, minute=0, second=0)
    soon = int((midnight + DAY - NOW).total_seconds())
    assert await advice(DAY, TODAY - 1) == (
        soon,
        "The oldest are freed on 2026-01-03 00:00 UTC; an administrator can raise your limit `stored`.",
    )
    assert (await advice(9 * DAY, TODAY))[0] == 86_400
    assert await Quota(retention=DAY).refused(1_001) is not None


async def test_a_refusal_just_before_a_day_is_freed_asks_for_a_whole_second(monkeypatch: pytest.MonkeyPatch) -> None:
    midnight = NOW.replace(hour=0, minute=0, second=0) + DAY
    monkeypatch.setattr(stored_bytes, "utc_now", lambda: midnight - timedelta(milliseconds=300))
    quota = Quota(retention=DAY)
    quota.counted(1_000, day=TODAY - 1)

    error = await quota.refused(1)

    assert error is not None
    assert error.retry_after == 1


async def test_a_day_past_the_retention_does_not_count() -> None:
    quota = Quota(retention=DAY)
    quota.counted(1_000, day=TODAY - 2)

    assert await quota.refused(1_000) is None


async def test_an_owner_near_the_quota_is_warned_of_once_an_hour(
    clock: SimpleNamespace, warned: list[dict[str, Any]]
) -> None:
    quota = Quota()
    quota.counted(800)
    assert await quota.refused(1) is None
    assert (warned, quota.stored.nearly_full) == ([], 0)

    quota.stored.record("alice", 51, 1)
    expected = {"event": "quota.nearly-full", "owner": "alice", "stored_bytes": 801, "limit_bytes": 1_000}
    for passed, times in [(0, 1), (3_600, 1), (0.1, 2)]:
        clock.now += passed
        assert await quota.refused(1) is None
        assert warned == [expected] * times

    assert quota.stored.nearly_full == 1


async def test_what_an_owner_has_stored_is_read_now() -> None:
    quota = Quota(retention=9 * DAY)
    quota.counted(300)
    assert await quota.refused(1) is None
    quota.stored.record("alice", 50, 7)
    quota.stored.record("alice", 60, 5)

    midnight = NOW.replace(hour=0, minute=0, second=0)
    assert await quota.stored.of("alice") == StoredBytes(1_000, 305, midnight + 10 * DAY)
    quota.counted(306, upto=60)
    assert await quota.stored.of("alice") == StoredBytes(1_000, 306, midnight + 10 * DAY)
    assert await quota.stored.of("bob") == StoredBytes(1_000, 0, None)
    quota.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await quota.stored.of("alice")


async def test_no_more_than_ten_thousand_owners_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored_bytes.OWNERS_HELD == 10_000
    monkeypatch.setattr(stored_bytes, "OWNERS_HELD", 2)
    quota = Quota()

    for owner, kept in [("a", 1), ("b", 2), ("c", 1), ("c", 1)]:
        assert await quota.refused(1, owner) is None
        assert len(quota.stored._owners) == kept


async def test_an_owner_whose_limit_is_removed_is_counted_no_more() -> None:
    quota = Quota(limit=1_000)
    assert await quota.refused(1) is None
    quota.stored._fleet = Fleet(Allowance(stored=None))

    assert await quota.refused(10_000) is None
    quota.stored.record("alice", 60, 10_000)

    assert quota.stored._owners == {}


async def test_the_sum_of_what_was_stored_here_is_that_of_its_parts() -> None:
    quota = Quota()
    assert await quota.refused(1) is None
    for sequence in (60, 61, 62):
        quota.stored.record("alice", sequence, 100)
    assert (await quota.stored.of("alice")).used == 300

    quota.counted(250, upto=61)

    assert (await quota.stored.of("alice")).used == 350
