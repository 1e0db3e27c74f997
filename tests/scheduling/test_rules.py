"""The limits in force: whole bounds, as the fleet's log has them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec import Struct

from taskstream.commands.server import Present
from taskstream.commands.task_type import TypeState
from taskstream.events.ids import TaskRef
from taskstream.events.limits import NO_LIMITS, Limits
from taskstream.events.task import MODEL, Plan
from taskstream.events.task_type import TypeDefined
from taskstream.scheduling.limit import Bounds, LimitKey
from taskstream.scheduling.rules import FleetRules, needs_grant

from ..deciders.support import NOW, registered


def server(
    name: str,
    *,
    slots: int = 2,
    online: bool = True,
    maintenance: bool = False,
    labels: str = "",
    models: tuple[str, ...] | None = None,
) -> Present:
    of = dict([labels.split("=")] if labels else [])
    settings = registered(name, max_concurrent=slots, types=("song",), labels=of, models=models)
    return Present(
        settings=settings, registered_at=NOW, changed_at=NOW, online=online, status_reason="", maintenance=maintenance
    )


class Fleet(Struct):
    """The parts of a fleet, as a test sets them. Each server is in the pools it is listed with."""

    placed: list[tuple[Present, tuple[str, ...]]] = []
    paused_pools: set[str] = set()
    paused_types: set[str] = set()
    definitions: dict[str, TypeDefined] = {}
    of_types: dict[str, Limits] = {}
    of_owners: dict[str, Limits] = {}

    def servers(self) -> Iterable[Present]:
        return [server for server, _ in self.placed]

    def pools(self) -> Iterable[str]:
        return ["a", "b", "empty"]

    def pools_of(self, server: Present) -> Iterable[str]:
        return next(pools for each, pools in self.placed if each is server)

    def is_paused(self, name: str) -> bool:
        return name in self.paused_pools

    def pool_waits(self, name: str) -> bool:
        return name in self.paused_pools

    def type_waits(self, name: str) -> bool:
        return name in self.paused_types

    def type_state(self, name: str) -> TypeState:
        return TypeState(definition=self.definitions.get(name))

    def type_limits(self, name: str) -> Limits:
        return self.of_types.get(name, NO_LIMITS)

    def owner_limits(self, owner: str) -> Limits:
        return self.of_owners.get(owner, NO_LIMITS)


SONG_IN_A = LimitKey("servers", ("a", "song"))


def test_limits_of_owners_and_types_are_taken_over_whole() -> None:
    limits = Limits(concurrency=7, per_second=0.5, burst=3)
    rules = FleetRules(Fleet(of_types={"song": limits}, of_owners={"alice": limits}))

    assert rules.bounds(LimitKey("type", ("song",))) == Bounds(7, 0.5, 3)
    assert rules.bounds(LimitKey("owner", ("alice",))) == Bounds(7, 0.5, 3)
    assert rules.bounds(LimitKey("type", ("other",))) == Bounds(None, None, None)
    assert rules.bounds(LimitKey("owner", ("bob",))) == Bounds(None, None, None)


def test_a_changed_rate_of_a_type_is_in_force_at_once() -> None:
    fleet = Fleet(of_types={"song": Limits(per_second=1)})
    rules = FleetRules(fleet)
    assert rules.bounds(LimitKey("type", ("song",))) == Bounds(None, 1, None)

    fleet.of_types["song"] = Limits(per_second=9, burst=2)

    assert rules.bounds(LimitKey("type", ("song",))) == Bounds(None, 9, 2)


def test_tasks_with_one_concurrency_key_run_one_at_a_time_unless_the_type_says_more() -> None:
    rules = FleetRules(Fleet(definitions={"song": TypeDefined(name="song", pool="a", key_concurrency=3)}))

    assert rules.bounds(LimitKey("key", ("alice", "song", "k"))) == Bounds(3)
    assert rules.bounds(LimitKey("key", ("alice", "other", "k"))) == Bounds(1)


def test_what_happens_to_a_key_in_use_is_as_the_type_says_and_else_it_waits() -> None:
    rules = FleetRules(Fleet(definitions={"song": TypeDefined(name="song", pool="a", on_conflict="refuse")}))

    assert rules.on_conflict("song") == "refuse"
    assert rules.on_conflict("other") == "wait"


def test_a_window_is_as_large_as_its_pool_needs_and_has_four_tasks_without_one() -> None:
    fleet = Fleet(
        placed=[
            (server("one", slots=5), ("a", "b")),
            (server("two", slots=3), ("a", "unlisted")),
            (server("offline", slots=100, online=False), ("a",)),
            (server("maintained", slots=100, maintenance=True), ("a",)),
        ]
    )
    rules = FleetRules(fleet)

    rules.observe({"a": 2_000}, 1.0)

    assert rules.windows.sizes == {"a": 8 + 20, "b": 5, "empty": 4, "unlisted": 4}
    assert rules.bounds(LimitKey("window", ("alice", "name", "a"))) == Bounds(28)
    assert rules.bounds(LimitKey("window", ("alice", "name", "nowhere"))) == Bounds(4)
    fleet.placed.clear()
    fleet.placed.append((server("five", slots=5), ("unlisted",)))
    rules.observe({}, 1.0)
    assert rules.windows.sizes["unlisted"] == 5


@pytest.mark.parametrize(
    ("fleet", "labels", "is_served"),
    [
        (Fleet(placed=[(server("s"), ("a",))]), (), True),
        (Fleet(placed=[(server("s"), ("b",))]), (), False),
        (Fleet(), (), False),
        (Fleet(placed=[(server("s", online=False), ("a",))]), (), False),
        (Fleet(placed=[(server("s"), ("a",))], paused_pools={"a"}), (), False),
        (Fleet(placed=[(server("s"), ("a",))], paused_types={"song"}), (), False),
        (Fleet(placed=[(server("s"), ("a",))]), ("gpu=a100",), False),
        (Fleet(placed=[(server("s", labels="gpu=a100"), ("a",))]), ("gpu=a100",), True),
        (Fleet(placed=[(server("s", models=("x=y",)), ("a",))]), (f"{MODEL}=x=y",), True),
        (Fleet(placed=[(server("s", models=("x=y",)), ("a",))]), (f"{MODEL}=x",), False),
    ],
    ids=[
        "served",
        "other pool",
        "nobody",
        "offline",
        "pool paused",
        "type paused",
        "label missing",
        "label",
        "model",
        "model missing",
    ],
)
def test_what_no_server_can_take_has_no_capacity(fleet: Fleet, labels: tuple[str, ...], is_served: bool) -> None:
    bounds = FleetRules(fleet).bounds(LimitKey("servers", ("a", "song", *labels)))

    assert bounds == Bounds(None if is_served else 0)


def test_the_value_of_a_label_may_have_equals_signs() -> None:
    one = server("s")
    fleet = Fleet(placed=[(one, ("a",))])
    one.settings.labels["rule"] = "x=y=z"

    assert FleetRules(fleet).bounds(LimitKey("servers", ("a", "song", "rule=x=y=z"))) == Bounds()


def test_who_serves_a_kind_is_found_out_again_once_the_fleet_changed() -> None:
    fleet = Fleet()
    rules = FleetRules(fleet)
    assert rules.bounds(SONG_IN_A) == Bounds(0)

    fleet.placed.append((server("s"), ("a",)))
    assert rules.bounds(SONG_IN_A) == Bounds(0)
    rules.forget_servers()

    assert rules.bounds(SONG_IN_A) == Bounds()


@pytest.mark.parametrize(
    ("plan", "fleet", "needs"),
    [
        (None, Fleet(), False),
        (Plan(require={"gpu": "a100"}), Fleet(), False),
        (Plan(concurrency_key="k"), Fleet(), True),
        (None, Fleet(of_types={"song": Limits(concurrency=1)}), True),
        (None, Fleet(of_owners={"alice": Limits(per_second=1)}), True),
        (None, Fleet(of_types={"other": Limits(concurrency=1)}, of_owners={"bob": Limits(concurrency=1)}), False),
    ],
    ids=["nothing", "labels", "key", "type", "owner", "others"],
)
def test_a_task_that_shares_a_limit_needs_a_grant(plan: Plan | None, fleet: Fleet, needs: bool) -> None:
    assert needs_grant(fleet, TaskRef("alice", "1"), "song", plan) is needs


def test_tasks_that_no_server_takes_wait_for_the_end_of_a_pause_or_for_a_server() -> None:
    def unserved(**paused: set[str]) -> str:
        return FleetRules(Fleet(**paused)).unserved(SONG_IN_A)  # type: ignore[arg-type]

    assert unserved() == "no-server"
    assert unserved(paused_types={"song"}) == "type-paused"
    assert unserved(paused_types={"song"}, paused_pools={"a"}) == "pool-paused"
