"""The fleet is the same in every process, however often an event is delivered."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.commands.owner import Allowance
from taskstream.commands.server import Removed
from taskstream.errors import NotFound, UnreadableEvent
from taskstream.events.codec import Codec, owner_codec, pool_codec, server_codec, type_codec
from taskstream.events.envelope import Event
from taskstream.events.limits import NO_LIMITS, Limits
from taskstream.events.owner import OwnerLimited, OwnerLimitsRemoved
from taskstream.events.pool import PoolPaused, PoolResumed
from taskstream.events.server import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    MaintenanceStarted,
    ModelsFound,
    ServerForgotten,
    ServerRemoved,
    ServerRestored,
    ServerStatusReasonChanged,
    ServerWentOffline,
    ServerWentOnline,
)
from taskstream.events.subjects import event_subject, owner_root, pool_root, server_root, type_root
from taskstream.events.task_type import TypeDefined, TypeDeleted, TypePaused, TypeResumed
from taskstream.projections.checkpoint import CHECKPOINT
from taskstream.projections.fleet import Change, Fleet
from taskstream.streams.buckets import BucketEntry
from taskstream.streams.jetstream.messages import Position

from ..deciders.support import NOW, defined, recorded, registered


def _history(event: Any) -> tuple[str, Codec[Any]]:
    if isinstance(event, PoolPaused | PoolResumed):
        return pool_root(event.name), pool_codec
    if isinstance(event, TypeDefined | TypeDeleted | TypePaused | TypeResumed):
        return type_root(event.name), type_codec
    if isinstance(event, OwnerLimited | OwnerLimitsRemoved):
        return owner_root(event.owner), owner_codec
    return server_root(event.server_id), server_codec


def positions(*events: Event, first: int = 1) -> list[Position]:
    """Return events as the SERVERS stream would hold them."""
    found = []
    for sequence, event in enumerate(events, first):
        root, codec = _history(event)
        found.append(Position(sequence, event_subject(root, event), codec.encode(recorded(event))))
    return found


def fleet_of(*events: Event) -> Fleet:
    fleet = Fleet()
    fleet.apply(positions(*events))
    return fleet


class FakeBucket:
    """A registry bucket that holds what changes put there."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def put(self, changes: list[Change], checkpoint: int) -> None:
        self.values |= {change.key: change.value for change in changes}
        self.values[CHECKPOINT] = str(checkpoint).encode()

    async def scan(self, *_: str) -> list[BucketEntry]:
        return [BucketEntry(key=key, value=value, revision=1) for key, value in self.values.items()]


def snapshot(fleet: Fleet) -> Any:
    types = {name: fleet.type_state(name) for name in ("chapter", "outline")}
    known = [name for name in ("s1", "s2") if fleet.knows(name)]
    waits = {name: (fleet.pool_state(name), fleet.pool_waits(name)) for name in ("text", "a", "b", "default")}
    owners = [fleet.allowance(name) for name in ("alice", "bob")]
    servers = [sorted(group, key=lambda server: server.server_id) for group in (fleet.servers(), fleet.removed())]
    return fleet.sequence, servers, types, known, waits, owners


# Servers


async def test_views_of_servers_that_an_older_version_wrote_are_read() -> None:
    fleet, bucket = Fleet(), FakeBucket()
    settings = msgspec.json.encode(registered("s1"))
    at = b'"2026-01-02T03:04:05Z"'
    bucket.values = {
        "server.s1": b'{"sequence":3,"state":{"type":"present","settings":%b,"registered_at":%b,"changed_at":%b,'
        b'"status_reason":"refused"}}' % (settings, at, at),
        "server.s2": b'{"sequence":4,"state":{"type":"removed","server_id":"s2","removed_at":%b,"reason":"gone"}}' % at,
        CHECKPOINT: b"4",
    }

    await fleet.restore(bucket)  # type: ignore[arg-type]

    assert fleet.server("s1").status_since == NOW
    assert list(fleet.removed()) == [Removed(server_id="s2", removed_at=NOW, reason="gone")]
    assert fleet.removed_by_token("s1") is None


def test_a_removed_server_is_known_with_what_brings_it_back() -> None:
    fleet = fleet_of(registered("s1", api_key_id="k1"), ServerRemoved(server_id="s1", reason="gone", is_kept=True))

    (removed,) = fleet.removed()

    assert removed is fleet.removed_by_token("s1")
    assert removed.is_kept
    assert removed.before is not None
    assert removed.before.settings.api_key_id == "k1"


def test_a_registered_server_is_found_by_its_id_and_by_its_token() -> None:
    fleet = fleet_of(registered("gpu 1", max_concurrent=3))

    assert fleet.server("gpu 1").settings == registered("gpu 1", max_concurrent=3)
    assert fleet.by_token("gpu=201") is fleet.find("gpu 1")
    assert [server.server_id for server in fleet.servers()] == ["gpu 1"]


def test_a_server_that_nobody_registered_is_not_found() -> None:
    fleet = fleet_of(registered("s1"))

    assert fleet.find("s2") is None
    assert fleet.find("") is None
    assert not fleet.knows("s2")
    assert not fleet.knows("")
    with pytest.raises(NotFound):
        fleet.server("s2")


def test_a_removed_server_is_gone_but_still_known() -> None:
    fleet = fleet_of(registered("s1"), ServerRemoved(server_id="s1", reason="gone"))

    assert fleet.find("s1") is None
    assert list(fleet.servers()) == []
    assert fleet.knows("s1")


def test_a_server_has_the_condition_its_events_lead_to() -> None:
    fleet = fleet_of(registered("s1"), registered("s2"), ServerWentOnline(server_id="s1", reason="answers"))

    assert fleet.server("s1").online
    assert not fleet.server("s2").online


# Pools


def pools(fleet: Fleet, *types: str) -> set[str]:
    fleet.apply(positions(registered("s9", types=types), first=1000))
    return fleet.pools_of(fleet.server("s9"))


def test_a_server_of_a_type_serves_the_pool_of_that_type_and_the_default_one() -> None:
    fleet = fleet_of(defined("chapter", "text"), defined("clip", "video"))

    assert pools(fleet, "chapter") == {"text", "default"}
    assert pools(fleet_of(defined("chapter", "text"), defined("clip", "video")), "chapter", "clip") == {
        "text",
        "video",
        "default",
    }


def test_a_server_of_a_type_that_nobody_defined_serves_the_default_pool() -> None:
    assert pools(fleet_of(defined("clip", "video")), "chapter") == {"default"}


def test_a_server_serves_every_pool_that_its_type_ever_had() -> None:
    fleet = fleet_of(defined("chapter", "text"), defined("chapter", "slow"))

    assert pools(fleet, "chapter") == {"text", "slow", "default"}


def test_a_server_of_a_deleted_type_serves_what_may_still_wait_there() -> None:
    fleet = fleet_of(defined("chapter", "text"), TypeDeleted(name="chapter"))

    assert pools(fleet, "chapter") == {"text", "default"}


def test_a_server_of_all_types_serves_all_pools() -> None:
    fleet = fleet_of(
        defined("chapter", "text"), defined("clip", "video"), defined("clip", "gpu"), TypeDeleted(name="chapter")
    )

    assert pools(fleet) == fleet.pools() == {"text", "video", "gpu", "default"}


def test_an_empty_fleet_has_the_default_pool() -> None:
    assert Fleet().pools() == {"default"}


# Types


def test_only_types_that_are_defined_now_are_listed() -> None:
    fleet = fleet_of(defined("chapter"), defined("outline"), TypeDeleted(name="chapter"))

    assert [state.definition for state in fleet.types()] == [defined("outline")]
    assert fleet.type_state("chapter").definition is None
    assert fleet.type_state("never").pools == ("default",)


def test_a_type_whose_name_is_no_token_is_found() -> None:
    assert fleet_of(defined("a.b")).type_state("a.b").definition == defined("a.b")


def test_a_server_and_a_type_of_one_name_are_kept_apart() -> None:
    fleet = fleet_of(registered("chapter"), defined("chapter"))

    assert fleet.find("chapter") is not None
    assert fleet.type_state("chapter").definition is not None


# Pauses


def test_a_paused_pool_waits_until_it_is_resumed() -> None:
    fleet = fleet_of(defined("chapter", "text"), PoolPaused(name="text", reason="new model"))

    assert fleet.pool_waits("text")
    assert not fleet.pool_waits("default")
    assert not fleet.type_waits("chapter")
    fleet.apply(positions(PoolResumed(name="text"), first=3))
    assert not fleet.pool_waits("text")


def test_a_pool_waits_when_all_its_types_are_paused_but_the_default_one_never() -> None:
    both = [defined("chapter", "text"), defined("outline", "text")]
    one = fleet_of(*both, TypePaused(name="chapter"))
    all_of_them = fleet_of(*both, TypePaused(name="chapter"), TypePaused(name="outline"))

    assert (one.type_waits("chapter"), one.type_waits("outline"), one.pool_waits("text")) == (True, False, False)
    assert all_of_them.pool_waits("text")
    assert not all_of_them.pool_waits("default")  # where tasks of types that nobody defined wait


def test_a_deleted_type_of_a_pool_may_have_tasks_there_and_is_not_paused() -> None:
    fleet = fleet_of(
        defined("chapter", "text"), defined("outline", "text"), TypeDeleted(name="outline"), TypePaused(name="chapter")
    )

    assert not fleet.pool_waits("text")
    assert fleet.types_of("text") == ["chapter", "outline"]


def test_a_pool_or_type_with_an_event_that_does_not_decode_waits() -> None:
    fleet = fleet_of(defined("chapter", "default"), defined("clip", "video"))
    pool, kind = positions(PoolPaused(name="video"), TypePaused(name="chapter"), first=3)

    fleet.reflect([pool._replace(data=b"{}"), kind._replace(data=b"{}")])

    assert set(fleet.unreadable) == {"pool.video", "type.chapter"}
    assert fleet.pool_waits("video")
    assert fleet.type_waits("chapter")
    assert not fleet.pool_waits("default")


# Limits

SERVICE = Allowance(limits=Limits(concurrency=10, per_second=2.0, burst=4), waiting=100)


def test_owners_without_limits_of_their_own_have_the_services() -> None:
    fleet = Fleet(SERVICE)
    fleet.apply(positions(OwnerLimited(owner="a.b", concurrency=1)))

    assert fleet.allowance("bob") == SERVICE
    assert fleet.owner_limits("a=2Eb") == Limits(concurrency=1, per_second=2.0, burst=4)
    assert fleet.allowance("a=2Eb").waiting == 100


def test_an_owner_whose_limits_are_removed_has_the_services_again() -> None:
    fleet = Fleet(SERVICE)
    fleet.apply(positions(OwnerLimited(owner="alice", waiting=1), OwnerLimitsRemoved(owner="alice")))

    assert fleet.allowance("alice") == SERVICE
    assert list(fleet.limited_owners()) == []


def test_only_owners_with_limits_of_their_own_are_listed() -> None:
    own = OwnerLimited(owner="bob", waiting=1)

    assert list(fleet_of(OwnerLimited(owner="alice"), own, OwnerLimitsRemoved(owner="alice")).limited_owners()) == [own]


def test_a_type_has_the_limits_it_was_defined_with() -> None:
    limits = Limits(concurrency=3)
    fleet = fleet_of(defined("chapter", limits=limits), defined("outline"))

    assert fleet.type_limits("chapter") == limits
    assert fleet.type_limits("outline") == fleet.type_limits("never") == NO_LIMITS


def test_watchers_of_limits_are_called_for_owners_and_types_and_not_for_servers() -> None:
    fleet, calls = Fleet(), []
    fleet.watch_limits(lambda: calls.append(fleet.sequence))

    fleet.apply(positions(registered("s1")))
    fleet.apply(positions(defined("chapter"), first=2))
    fleet.apply(positions(OwnerLimited(owner="alice", concurrency=1), registered("s2"), first=3))
    fleet.apply(positions(OwnerLimited(owner="alice", concurrency=1), first=3))

    assert calls == [2, 4]


def test_undecodable_owner_limits_fall_back_to_the_services_and_watchers_are_called() -> None:
    fleet, calls = Fleet(SERVICE), []
    fleet.apply(positions(OwnerLimited(owner="alice", waiting=1)))
    fleet.watch_limits(lambda: calls.append(fleet.sequence))
    (position,) = positions(OwnerLimited(owner="alice", waiting=2), first=2)

    fleet.reflect([position._replace(data=b"\xff")])

    assert fleet.allowance("alice") == SERVICE
    assert calls == [2]
    assert list(fleet.unreadable) == ["owner.alice"]


# Folding

events: Any = st.lists(
    st.sampled_from(
        [
            registered("s1"),
            registered("s1", types=("chapter",)),
            registered("s2"),
            registered("s1", types=("chapter", "clip"), finds_models=True),
            registered("s2", models=("llama",)),
            ModelsFound(server_id="s1", models=("llama",)),
            ServerWentOnline(server_id="s1", reason=""),
            ServerWentOffline(server_id="s1", reason=""),
            MaintenanceStarted(server_id="s2"),
            CircuitOpened(server_id="s1", reason="", until=NOW, failures=1),
            CircuitHalfOpened(server_id="s1"),
            CircuitClosed(server_id="s1", reason=""),
            ServerStatusReasonChanged(server_id="s1", reason="refused"),
            ServerRemoved(server_id="s1", reason=""),
            ServerRemoved(server_id="s2", reason="", is_kept=True),
            ServerRestored(server_id="s1", reason=""),
            ServerRestored(server_id="s2", reason="", api_key_id="k1"),
            ServerForgotten(server_id="s2", reason=""),
            defined("chapter", "a"),
            defined("chapter", "b"),
            defined("outline"),
            TypeDeleted(name="chapter"),
            TypePaused(name="chapter"),
            TypeResumed(name="chapter"),
            PoolPaused(name="a", reason="new model"),
            PoolResumed(name="a"),
            OwnerLimited(owner="alice", concurrency=5),
            OwnerLimited(owner="alice", waiting=7),
            OwnerLimitsRemoved(owner="alice"),
            OwnerLimited(owner="bob", per_second=0.5),
        ]
    ),
    max_size=20,
)


@given(events, st.data())
def test_anything_delivered_again_changes_nothing(happened: list[Event], data: st.DataObject) -> None:
    log = positions(*happened)
    fleet = Fleet()
    fleet.apply(log)
    before = snapshot(fleet)

    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(log))] * 2)))
    assert fleet.apply(log[begin:end]) == []

    assert snapshot(fleet) == before


@given(events, st.data())
def test_the_size_of_batches_makes_no_difference(happened: list[Event], data: st.DataObject) -> None:
    log = positions(*happened)
    cut = data.draw(st.integers(0, len(log)))
    at_once, in_two = Fleet(), Fleet()

    whole = {change.key: change.value for change in at_once.apply(log)}
    parts = {change.key: change.value for half in (log[:cut], log[cut:]) for change in in_two.apply(half)}

    assert parts == whole
    assert snapshot(in_two) == snapshot(at_once)


@given(events)
async def test_a_fleet_restored_from_what_it_wrote_is_the_same(happened: list[Event]) -> None:
    fleet, restored, bucket = Fleet(), Fleet(), FakeBucket()
    bucket.put(fleet.apply(positions(*happened)), fleet.sequence)

    await restored.restore(bucket)  # type: ignore[arg-type]

    assert snapshot(restored) == snapshot(fleet)
    assert restored.apply(positions(*happened)) == []


@given(events)
def test_which_types_choose_servers_by_model_follows_from_the_servers(happened: list[Event]) -> None:
    fleet = fleet_of(*happened)

    for name in ("chapter", "clip", "other"):
        chosen = [each for each in fleet.servers() if not each.settings.types or name in each.settings.types]
        assert fleet.chooses_by_model(name) is any(each.settings.is_chosen_by_model for each in chosen)


def test_a_server_that_is_left_out_does_not_make_its_type_choose_by_model() -> None:
    fleet = fleet_of(registered("s1", models=("llama",)))
    (position,) = positions(ServerWentOnline(server_id="s1", reason=""), first=2)

    fleet.reflect([position._replace(data=b"\xff")])

    assert not fleet.chooses_by_model("chapter")


def test_each_key_is_written_once_a_batch_with_its_last_value() -> None:
    fleet, later = Fleet(), Fleet()
    log = positions(registered("s1"), ServerWentOnline(server_id="s1", reason=""), defined("chapter"))

    changes = fleet.apply(log)

    later.apply(log[:1])
    assert [change.key for change in changes] == ["server.s1", "type.chapter"]
    assert changes[0] == later.apply(log[1:2])[0]


def test_an_event_that_does_not_decode_stops_the_fold_before_it() -> None:
    fleet = Fleet()
    good, other = positions(registered("s1"), registered("s2"))

    with pytest.raises(UnreadableEvent, match="event 2"):
        fleet.apply([good, other._replace(data=b"\xff")])

    assert fleet.find("s1") is not None
    assert fleet.sequence == 1


def test_watchers_are_called_after_changes_only() -> None:
    fleet, calls = Fleet(), []
    fleet.watch(lambda names: calls.append((fleet.sequence, sorted(names))))
    log = positions(registered("s1"), registered("s2"))

    fleet.apply(log)
    fleet.apply(log)
    fleet.apply([])

    assert calls == [(2, ["s1", "s2"])]


def test_a_change_of_a_type_is_one_of_every_server() -> None:
    fleet, calls = fleet_of(registered("s1"), registered("s2")), []
    fleet.watch(lambda names: calls.append(sorted(names)))

    fleet.apply(positions(defined("chapter", "text"), first=3))

    assert calls == [["s1", "s2"]]


def test_watchers_are_called_for_what_came_before_an_event_that_does_not_decode() -> None:
    fleet, calls = Fleet(), []
    fleet.watch(lambda names: calls.append(sorted(names)))
    good, other = positions(registered("s1"), registered("s2"))

    fleet.reflect([good, other._replace(data=b"\xff")])

    assert ["s1"] in calls


async def test_a_sequence_already_reached_is_not_waited_for() -> None:
    fleet = fleet_of(registered("s1"), registered("s2"))

    await fleet.reached(2, timeout_seconds=0)

    assert fleet.sequence == 2
