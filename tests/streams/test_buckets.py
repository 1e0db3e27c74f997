"""KV buckets: guarded writes, current reads, scans in order of the last write."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from taskstream.container import Container, open_container
from taskstream.errors import Conflict, StoreFull, StoreUnavailable
from taskstream.streams import buckets
from taskstream.streams.buckets import Bucket, BucketEntry, Write
from taskstream.streams.jetstream import messages
from taskstream.streams.jetstream.api import ApiError
from testkit.nats import NatsServer
from testkit.outage import begin, end, limit_store, restart
from testkit.service import quick_settings
from testkit.waiting import wait_until


@pytest.fixture
async def container(nats_url: str) -> AsyncIterator[Container]:
    """Without a seal key, so no fingerprint of one is in the bucket."""
    settings = quick_settings(seal_keys=(), jwt_secret=None)
    async with await open_container(settings, nats_url, durability="always") as container:
        yield container


@pytest.fixture
def bucket(container: Container) -> Bucket:
    return container.buckets.secrets


async def test_what_is_put_is_read_back_with_its_revision(bucket: Bucket) -> None:
    revision = await bucket.put("a.b", b"one")
    assert await bucket.get("a.b") == BucketEntry("a.b", b"one", revision)

    again = await bucket.put("a.b", b"two")
    assert again > revision
    assert await bucket.get("a.b") == BucketEntry("a.b", b"two", again)


async def test_what_is_erased_is_gone_and_overwritten_on_disk(
    container: Container, bucket: Bucket, nats: NatsServer
) -> None:
    def on_disk() -> bool:
        return any(b"sealed value" in path.read_bytes() for path in nats.folder.rglob("*.blk"))

    await bucket.put("a", b"sealed value")
    assert on_disk()

    for _ in range(2):
        await bucket.erase("a")
    assert await bucket.get_with_revision("a") is None
    assert not on_disk()
    await container.buckets.leases.put("a", b"x")
    with pytest.raises(ApiError):  # this one is not for secrets
        await container.buckets.leases.erase("a")


async def test_a_key_that_never_was_reads_as_none(bucket: Bucket) -> None:
    assert await bucket.get("a") is None
    assert await bucket.get_with_revision("a") is None
    assert await bucket.scan() == []
    assert await bucket.get_many(["a"]) == {}


async def test_a_write_guarded_by_an_old_revision_is_a_conflict_and_changes_nothing(bucket: Bucket) -> None:
    first = await bucket.put("a", b"one", expected=0)
    second = await bucket.put("a", b"two", expected=first)

    for old in (0, first):
        with pytest.raises(Conflict):
            await bucket.put("a", b"three", expected=old)

    assert await bucket.get("a") == BucketEntry("a", b"two", second)


async def test_of_many_guarded_writes_at_once_one_wins(bucket: Bucket) -> None:
    outcomes = await asyncio.gather(
        *(bucket.put("a", b"%d" % number, expected=0) for number in range(20)), return_exceptions=True
    )

    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19


async def test_a_deleted_key_reads_like_one_that_never_was(bucket: Bucket) -> None:
    await bucket.put("a", b"one")
    await bucket.put("b", b"two")

    await bucket.delete("a")

    assert await bucket.get("a") is None
    assert set(await bucket.get_many(["a", "b"])) == {"b"}
    assert [entry.key for entry in await bucket.scan()] == ["b"]


async def test_a_deleted_key_can_be_written_again_at_once_guarded_by_its_mark(bucket: Bucket) -> None:
    await bucket.put("a", b"one")
    await bucket.delete("a")

    mark = await bucket.get_with_revision("a")
    assert mark is not None
    assert mark.value == b""
    revision = await bucket.put("a", b"two", expected=mark.revision)

    assert await bucket.get("a") == BucketEntry("a", b"two", revision)


async def test_deleting_is_guarded_too_and_may_be_repeated(bucket: Bucket) -> None:
    first = await bucket.put("a", b"one")
    await bucket.put("a", b"two", expected=first)

    with pytest.raises(Conflict):
        await bucket.delete("a", expected=first)

    await bucket.delete("a")
    await bucket.delete("a")
    await bucket.delete("never")
    assert await bucket.scan() == []


async def test_the_mark_of_a_deleted_key_goes_away_by_itself(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MARKER_TTL", "1s")
    await bucket.put("a", b"one")
    await bucket.delete("a")

    async def gone() -> bool:
        return await bucket.get_with_revision("a") is None

    await wait_until(gone, "the mark to go")
    await bucket.put("a", b"two", expected=0)


async def test_many_keys_are_read_at_once_beyond_what_one_request_takes(bucket: Bucket) -> None:
    keys = [f"k.{number}" for number in range(1_050)]
    for start in range(0, 1_050, 350):
        await asyncio.gather(*(bucket.put(key, key.encode()) for key in keys[start : start + 350]))

    found = await bucket.get_many([*keys, "never"])

    assert {key: entry.value for key, entry in found.items()} == {key: key.encode() for key in keys}
    assert len(await bucket.scan("k.*")) == 1_050


async def test_many_writes_at_once_are_each_what_one_would_be(bucket: Bucket) -> None:
    first = await bucket.put("a", b"one")
    await bucket.put("gone", b"one")

    revisions = await bucket.put_many(
        [Write("a", b"two", first), Write("new", b"three", 0), Write("gone", None)]
        + [Write(f"k.{number}", b"%d" % number) for number in range(2 * buckets.WRITES_AT_ONCE)]
    )

    found = await bucket.get_many(["a", "new", "gone", "k.0", "k.300"])
    assert {key: entry.value for key, entry in found.items()} == {
        "a": b"two", "new": b"three", "k.0": b"0", "k.300": b"300",
    }  # fmt: skip
    assert revisions[:2] == [found["a"].revision, found["new"].revision]
    assert await bucket.put_many([]) == []


async def test_of_many_writes_those_with_an_old_revision_are_a_conflict_and_change_nothing(bucket: Bucket) -> None:
    await bucket.put("a", b"one")
    second = await bucket.put("b", b"one")

    with pytest.raises(Conflict):
        await bucket.put_many([Write("a", b"two", 0), Write("b", b"two", second)])

    assert (await bucket.get("a") or BucketEntry("", b"", 0)).value == b"one"
    assert (await bucket.get("b") or BucketEntry("", b"", 0)).value == b"two"


async def test_many_writes_say_so_when_the_connection_is_lost_before_their_answers(
    container: Container, nats: NatsServer, bucket: Bucket
) -> None:
    writes = [Write(f"k.{number}", b"v") for number in range(buckets.WRITES_AT_ONCE)]
    os.kill(nats.pid, signal.SIGSTOP)
    under_way = asyncio.create_task(bucket.put_many(writes))
    await asyncio.sleep(0)
    await end(nats, container.reading)

    with pytest.raises(StoreUnavailable):
        await under_way


async def test_pages_bring_every_entry_once_and_no_mark_of_a_deleted_one(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "READ_BATCH", 3)
    await bucket.put_many([Write(f"k.{number}", b"v") for number in range(9)])
    await bucket.put_many([Write(f"k.{number}", None) for number in (0, 3, 4, 5)])

    keys = [entry.key async for page in bucket.pages() for entry in page]

    assert keys == ["k.1", "k.2", "k.6", "k.7", "k.8"]
    assert await bucket.count() >= 5


async def test_what_matches_a_filter_is_read_at_once_unless_it_is_too_much(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bucket.put_many([Write(f"{letter}.{number}", b"v") for letter in "ab" for number in range(3)])
    await bucket.put_many([Write("a.1", None)])

    assert {entry.key for entry in await bucket.get_matching("a.*") or []} == {"a.0", "a.2"}
    assert await bucket.get_matching("never.*") == []
    await bucket.put_many([Write(f"b.{number}", b"v") for number in range(1_025)])
    assert await bucket.get_matching("b.*") is None


async def test_a_scan_goes_by_the_last_write_and_its_filter(bucket: Bucket) -> None:
    for key in ("a.1", "b.1", "a.2", "a.1.x"):
        await bucket.put(key, b"v")
    last = await bucket.put("a.1", b"w")

    assert [entry.key for entry in await bucket.scan()] == ["b.1", "a.2", "a.1.x", "a.1"]
    assert [entry.key for entry in await bucket.scan("a.*")] == ["a.2", "a.1"]
    assert await bucket.scan("a.*", from_revision=last) == [BucketEntry("a.1", b"w", last)]
    assert len(await bucket.scan(limit=2)) == 2


async def test_buckets_do_not_see_each_other(container: Container) -> None:
    await container.buckets.secrets.put("a", b"one")

    assert await container.buckets.leases.get("a") is None
    assert await container.buckets.leases.scan() == []


async def test_what_was_put_outlives_a_kill(container: Container, nats: NatsServer, bucket: Bucket) -> None:
    await bucket.put("a", b"one")

    await restart(nats, container.reading)

    assert (await bucket.get("a") or BucketEntry("", b"", 0)).value == b"one"


async def test_without_nats_a_bucket_is_unavailable_and_no_write_lands_later(
    container: Container, nats: NatsServer, bucket: Bucket
) -> None:
    await end(nats, container.reading)
    for attempt in (
        bucket.put("a", b"one"),
        bucket.delete("a"),
        bucket.get("a"),
        bucket.scan(),
        bucket.get_many(["a"]),
    ):
        with pytest.raises(StoreUnavailable):
            await attempt

    await begin(nats, container.reading)
    assert await bucket.get("a") is None


async def test_a_write_into_a_full_store_says_so(container: Container, nats: NatsServer, bucket: Bucket) -> None:
    await bucket.put("a", b"x" * 1_100_000)
    await limit_store(nats, 1, container.reading)

    with pytest.raises(StoreFull):
        await bucket.put("b", b"one")
