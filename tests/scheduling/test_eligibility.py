"""Why a server is, or is not, a place for a task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.commands.pause import Pause
from taskstream.commands.server import CircuitIsClosed, CircuitIsHalfOpen, CircuitIsOpen, Present, Removed
from taskstream.events.envelope import Actor
from taskstream.events.server import Overflow
from taskstream.events.task import MODEL
from taskstream.scheduling.eligibility import (
    Considered,
    Standing,
    Stop,
    Verdict,
    allowance,
    as_seen_by,
    considered,
    considered_one,
    considered_removed,
    is_able,
    is_there_for,
    missing_label,
    serves,
    stops,
)

from ..deciders.support import NOW, registered


def server(
    server_id: str = "s1",
    *,
    types: tuple[str, ...] = (),
    labels: Any = None,
    models: tuple[str, ...] | None = None,
    **more: Any,
) -> Present:
    settings = registered(server_id, types=types, labels=labels or {}, max_concurrent=2, models=models)
    values: dict[str, Any] = {"registered_at": NOW, "changed_at": NOW, "online": True, "status_reason": "answers"}
    return Present(settings=settings, **(values | more))


OPEN = CircuitIsOpen(until=NOW, failures=1)
CASES: list[tuple[str, str, Standing]] = [
    ("able", "may have a free slot", Standing(server())),
    ("able", "runs 1 of at most 2", Standing(server(), running=1)),
    ("other-types", "does not serve the type 'chapter'", Standing(server(types=("clip",)))),
    ("label-missing", "lacks the label gpu=a100", Standing(server(labels={"gpu": "t4"}))),
    ("model-missing", "does not serve the model 'llama'; served: none", Standing(server(models=()))),
    ("offline", "is offline: refused", Standing(server(online=False, status_reason="refused"))),
    ("maintenance", "takes nothing new: new disk", Standing(server(maintenance=True, maintenance_reason="new disk"))),
    ("circuit-open", "kept failing", Standing(server(circuit=OPEN))),
    ("circuit-half-open", "one is out", Standing(server(circuit=CircuitIsHalfOpen(failures=1)))),
    ("at-limit", "runs 2 of at most 2", Standing(server(), running=2)),
    ("unasked", "no puller of it asks for a task now", Standing(server(), open_asks=0)),
    ("unasked", "asked for 40 s", Standing(server(), open_asks=0, unasked_for=timedelta(seconds=40))),
    ("standby", "only when more tasks wait", Standing(server(), running=0, stands_by=True)),
]


@pytest.mark.parametrize(("verdict", "text", "standing"), CASES, ids=[verdict for verdict, _, _ in CASES])
def test_the_verdict_has_a_code_and_words(verdict: str, text: str, standing: Standing) -> None:
    require = {"label-missing": {"gpu": "a100"}, "model-missing": {MODEL: "llama"}}.get(verdict, {})

    [found] = considered("chapter", require, [standing])

    assert (found.server_id, found.verdict) == ("s1", verdict)
    assert text in found.text
    assert found.until == (NOW if verdict == "circuit-open" else None)


@pytest.mark.parametrize(
    ("cause", "owner", "verdict"),
    [("", "bob", "circuit-open"), ("mallory", "mallory", "circuit-open"), ("mallory", "bob", "circuit-half-open")],
)
def test_a_circuit_that_one_owner_s_tasks_opened_is_on_trial_for_others(cause: str, owner: str, verdict: str) -> None:
    broken = server(circuit=CircuitIsOpen(until=NOW, failures=1, owner=cause))

    [found] = considered("chapter", {}, [Standing(as_seen_by(owner, broken))])

    assert found.verdict == verdict


def test_every_server_is_considered_in_the_order_given() -> None:
    standings = [Standing(server(name)) for name in ("b", "a", "c")]

    assert [found.server_id for found in considered("chapter", {}, standings)] == ["b", "a", "c"]


@given(
    st.sampled_from([(), ("chapter",), ("clip",)]),
    st.sampled_from([None, (), ("llama",), ("llama", "mistral")]),
    st.sampled_from([{}, {"gpu": "a100"}, {"gpu": "a100", "zone": "b"}]),
    st.sampled_from([{}, {"gpu": "a100"}, {"gpu": "a100", "zone": "b"}, {MODEL: "llama"}, {"gpu": "a100", MODEL: "x"}]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([CircuitIsClosed(), OPEN, CircuitIsHalfOpen(failures=1)]),
)
def test_what_dispatch_acts_on_is_what_is_said(
    types: tuple[str, ...],
    models: tuple[str, ...] | None,
    labels: Any,
    require: Any,
    online: bool,
    maintenance: bool,
    circuit: Any,
) -> None:
    one = server(types=types, models=models, labels=labels, online=online, maintenance=maintenance, circuit=circuit)

    [found] = considered("chapter", require, [Standing(one)])

    assert is_able(one, "chapter", require) == (found.verdict == "able")


def test_pauses_are_named_with_who_and_why() -> None:
    pause = Pause(since=NOW, by=Actor("user", "root"), reason="new model")

    found = stops("text", pause, "chapter", pause)

    assert [(stop.kind, stop.name) for stop in found] == [("pool-paused", "text"), ("type-paused", "chapter")]
    assert found[0].text == "the pool 'text' was paused by root: new model"
    assert stops("text", None, "chapter", None) == []


# Overflow servers

MINUTE = timedelta(minutes=1)
NONE = timedelta(0)


@pytest.mark.parametrize(
    ("waiting", "oldest", "begins", "goes_on"),
    [
        (0, NONE, 0, 0),
        (10, NONE, 0, 5),
        (11, NONE, 6, 6),
        (5, NONE, 0, 0),
        (6, NONE, 0, 1),
        (1, MINUTE, 1, 1),
        (4, MINUTE, 2, 2),
        (1, MINUTE / 2, 0, 1),
        (1, MINUTE / 3, 0, 0),
        (0, MINUTE, 0, 0),
    ],
)
def test_it_begins_at_either_bound_and_goes_on_to_half_of_it(
    waiting: int, oldest: timedelta, begins: int, goes_on: int
) -> None:
    overflow = Overflow(waiting=10, oldest=MINUTE)

    assert allowance(overflow, waiting, oldest, 2, helping=False) == begins
    assert allowance(overflow, waiting, oldest, 2, helping=True) == goes_on


def test_a_bound_that_is_not_given_is_never_reached() -> None:
    assert not allowance(Overflow(waiting=10), 1, 100 * MINUTE, 2, helping=False)
    assert not allowance(Overflow(oldest=MINUTE), 10_000, NONE, 2, helping=False)


@given(st.integers(0, 50), st.integers(0, 50), st.booleans())
def test_nothing_that_waits_is_nothing_to_help_with(bound: int, seconds: int, helping: bool) -> None:
    overflow = Overflow(waiting=bound, oldest=timedelta(seconds=1))

    assert not allowance(overflow, 0, timedelta(seconds=seconds), 2, helping=helping)


# Whole results


@pytest.mark.parametrize(
    ("standing", "verdict", "text"),
    [
        (Standing(server()), "able", "may have a free slot"),
        (Standing(server(), running=0), "able", "runs 0 of at most 2 tasks"),
        (Standing(server(), running=1, limit=2), "able", "runs 1 of at most 2 tasks"),
        (Standing(server(), limit=1), "able", "may have a free slot"),
        (Standing(server(), running=2), "at-limit", "runs 2 of at most 2 tasks"),
        (Standing(server(), running=3), "at-limit", "runs 3 of at most 2 tasks"),
        (
            Standing(server(), running=1, limit=1),
            "at-limit",
            "runs 1 tasks, and said that it was busy when sent more; 2 are registered",
        ),
        (Standing(server(), stands_by=True), "standby", "helps out only when more tasks wait, or wait for longer"),
        (Standing(server(types=("chapter", "clip"))), "able", "may have a free slot"),
        (Standing(server(types=("clip",))), "other-types", "does not serve the type 'chapter'"),
        (Standing(server(online=False, status_reason="refused")), "offline", "is offline: refused"),
        (Standing(server(maintenance=True)), "maintenance", "is in maintenance and takes nothing new"),
        (
            Standing(server(maintenance=True, maintenance_reason="disk")),
            "maintenance",
            "is in maintenance and takes nothing new: disk",
        ),
        (
            Standing(server(circuit=CircuitIsHalfOpen(failures=1))),
            "circuit-half-open",
            "its attempts kept failing; one is out to see whether it has recovered",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_verdict_is_whole(standing: Standing, verdict: Verdict, text: str) -> None:
    found = considered_one(standing, "chapter", {})

    since, reason = (NOW, "refused") if verdict == "offline" else (None, "")
    assert found == Considered(server_id="s1", verdict=verdict, text=text, until=None, since=since, reason=reason)


def test_a_verdict_that_ends_says_when_and_since_when() -> None:
    later = NOW + timedelta(seconds=30)
    opened = considered_one(Standing(server(circuit=CircuitIsOpen(until=later, failures=1))), "chapter", {})
    busy = considered_one(Standing(server(), busy_since=NOW, next_try_at=later), "chapter", {})

    text = "its attempts kept failing; nothing is sent for a while"
    assert opened == Considered(server_id="s1", verdict="circuit-open", text=text, until=later)
    assert busy == Considered(server_id="s1", verdict="busy", text=busy.text, until=later, since=NOW)


def test_the_first_label_that_a_server_lacks_is_named() -> None:
    one = server(labels={"gpu": "a100", "disk": "ssd"})

    assert missing_label(one.settings, {}) is None
    assert missing_label(one.settings, {"gpu": "a100", "disk": "ssd"}) is None
    assert missing_label(one.settings, {"gpu": "a100", "disk": "tape", "zone": "x"}) == "disk=tape"
    found = considered_one(Standing(one), "chapter", {"gpu": "h100"})
    assert found == Considered(server_id="s1", verdict="label-missing", text="lacks the label gpu=h100")


@pytest.mark.parametrize(
    ("one", "require", "is_there"),
    [
        (server(), {}, True),
        (server(types=("clip",)), {}, False),
        (server(online=False), {}, False),
        (server(maintenance=True), {}, False),
        (server(), {"gpu": "a"}, False),
        (server(labels={"gpu": "a"}), {"gpu": "a"}, True),
        (server(), {MODEL: "llama"}, False),
        (server(models=("llama",)), {}, True),
        (server(models=("llama",)), {MODEL: "llama"}, True),
        (server(models=("llama",)), {MODEL: "mistral"}, False),
        (server(models=("llama",)), {"gpu": "a", MODEL: "llama"}, False),
        (server(circuit=OPEN), {}, True),
    ],
)
def test_a_server_is_there_for_a_task(one: Present, require: dict[str, str], is_there: bool) -> None:
    assert is_there_for(one, "chapter", require) is is_there
    assert is_able(one, "chapter", require) is (is_there and one.circuit is not OPEN)


def test_a_server_that_finds_its_models_has_those_that_it_said_last() -> None:
    settings = registered(finds_models=True)
    unknown = Present(settings=settings, registered_at=NOW, changed_at=NOW)

    assert unknown.models == ()
    assert replace(unknown, found=("llama",)).models == ("llama",)
    assert replace(unknown, settings=registered(), found=("llama",)).models is None


def test_only_a_few_of_many_models_are_named() -> None:
    models = tuple(f"m{number:02}" for number in range(12))
    found = considered_one(Standing(server(models=models)), "chapter", {MODEL: "llama"})

    assert found.text == "does not serve the model 'llama'; served: " + ", ".join(models[:10]) + " and 2 more"
    assert found.models == models


def test_a_server_without_types_serves_all() -> None:
    assert serves(registered(), "any")
    assert [serves(registered(types=("a", "b")), name) for name in ("a", "b", "c")] == [True, True, False]


def test_another_owner_sees_the_same_server_on_trial() -> None:
    broken = server(circuit=CircuitIsOpen(until=NOW, failures=3, owner="mallory"))

    assert as_seen_by("bob", broken) == server(circuit=CircuitIsHalfOpen(failures=3))
    assert as_seen_by("mallory", broken) is broken
    assert as_seen_by("bob", server()) == server()


def test_pauses_are_whole_and_each_only_if_there_is_one() -> None:
    pool = Pause(since=NOW, by=Actor("user", "root"), reason="new model")
    of_type = Pause(since=NOW, by=Actor("user", "ann"), reason="")

    assert stops("text", pool, "chapter", of_type) == [
        Stop(kind="pool-paused", name="text", pause=pool),
        Stop(kind="type-paused", name="chapter", pause=of_type),
    ]
    [stop] = stops("text", None, "chapter", of_type)
    assert stop.text == "the type 'chapter' was paused by ann"
    assert stops("text", pool, "chapter", None) == [Stop(kind="pool-paused", name="text", pause=pool)]


def test_an_odd_bound_is_halved_downwards() -> None:
    overflow = Overflow(waiting=5)

    assert [allowance(overflow, waiting, MINUTE, 9, helping=False) for waiting in (2, 3, 5, 6)] == [0, 0, 0, 4]
    assert [allowance(overflow, waiting, MINUTE, 9, helping=True) for waiting in (2, 3, 5, 6)] == [0, 1, 3, 4]
    assert type(allowance(overflow, 6, NONE, 9, helping=False)) is int


# Removed servers


def test_a_removed_server_that_would_fit_and_may_return_is_considered() -> None:
    gone = Removed(server_id="s1", removed_at=NOW, reason="offline for more than 180 s: refused", is_kept=True)
    kept = replace(gone, before=server(types=("chapter",), labels={"gpu": "a100"}))

    found = considered_removed(kept, "chapter", {"gpu": "a100"})

    text = "was removed (offline for more than 180 s: refused); it is restored when it answers"
    assert found == Considered(server_id="s1", verdict="removed", text=text, since=NOW, reason=gone.reason)
    assert considered_removed(kept, "clip", {}) is None
    assert considered_removed(kept, "chapter", {"gpu": "h100"}) is None
    assert considered_removed(replace(kept, is_kept=False), "chapter", {}) is None
    assert considered_removed(gone, "chapter", {}) is None
