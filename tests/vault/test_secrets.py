"""Stored secrets and the keys that they are sealed with, on a real NATS."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from taskstream.container import Container, open_container
from taskstream.streams.buckets import Bucket
from taskstream.vault.sealing import DoesNotOpen, Sealer, SealingUnavailable, SecretMissing, fingerprint, new_key
from taskstream.vault.secrets import SecretStore
from testkit.service import quick_settings

OLD, NEW = new_key(), new_key()


def store(container: Container, *keys: str) -> SecretStore:
    return SecretStore(container.buckets.secrets, Sealer(keys))


async def test_resealed_secrets_open_without_the_old_key(container: Container) -> None:
    before = store(container, OLD)
    ids = {name: await before.put(name, f"key of {name}") for name in ("a", "b")}
    both = store(container, NEW, OLD)
    newest = await both.put("c", "key of c")

    done = await both.reseal()

    assert (done.resealed, done.current, done.closed) == (2, 1, [])
    only_new = store(container, NEW)
    assert [await only_new.get(name, ids[name]) for name in ("a", "b")] == ["key of a", "key of b"]
    assert await only_new.get("c", newest) == "key of c"
    assert (await both.reseal()).resealed == 0


async def test_reseal_reports_what_no_key_opens_and_changes_it_not(container: Container) -> None:
    secret_id = await store(container, OLD).put("a", "its key")

    done = await store(container, NEW).reseal()

    assert (done.resealed, len(done.closed)) == (0, 1)
    assert await store(container, OLD).get("a", secret_id) == "its key"
    with pytest.raises(SealingUnavailable):
        await store(container).reseal()


async def test_a_secret_destroyed_during_a_reseal_stays_destroyed(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store(container, OLD)
    secret_id = await before.put("a", "its key")
    put = Bucket.put

    async def destroyed_first(self: Bucket, key: str, value: bytes, *, expected: int | None = None) -> int:
        if expected is not None:
            await before.destroy("a", secret_id)
        return await put(self, key, value, expected=expected)

    monkeypatch.setattr(Bucket, "put", destroyed_first)
    done = await store(container, NEW, OLD).reseal()

    assert (done.resealed, done.closed) == (0, [])
    with pytest.raises(SecretMissing):
        await before.get("a", secret_id)


async def test_a_missing_secret_differs_from_one_whose_key_is_missing(container: Container) -> None:
    secret_id = await store(container, OLD).put("a", "its key")

    with pytest.raises(DoesNotOpen) as closed:
        await store(container, NEW).get("a", secret_id)
    assert not isinstance(closed.value, SecretMissing)
    with pytest.raises(SecretMissing):
        await store(container, OLD).get("a", "another-id")


async def test_a_process_with_another_key_is_warned_of_at_start(container: Container, nats_url: str) -> None:
    settings = container.settings

    async def warnings(*keys: str) -> list[tuple[str, str]]:
        with capture_logs() as logged:
            async with await open_container(quick_settings(seal_keys=keys), nats_url, durability="always"):
                pass
        return [(line["event"], line.get("missing", "")) for line in logged if line["log_level"] == "warning"]

    (first,) = settings.seal_keys
    assert await warnings(first) == []
    assert await warnings(OLD) == [("seal-keys.differ", fingerprint(first))]
    assert await warnings(OLD) == [("seal-keys.differ", fingerprint(first))]  # until they are the same
    assert await warnings() == [("secrets.unavailable", ""), ("seal-keys.differ", fingerprint(first))]
    assert await warnings(first, OLD) == []  # a new key is first added to all, then put before the others
    assert await warnings(OLD, first) == []
    assert await warnings(first) == [("seal-keys.differ", fingerprint(OLD))]
