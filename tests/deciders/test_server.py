"""What may be done with a server, and what may not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from taskstream.commands.server import (
    ABSENT,
    LONGEST_COOLDOWN,
    Circuit,
    CircuitIsClosed,
    CircuitIsHalfOpen,
    CircuitIsOpen,
    CloseCircuit,
    MarkOffline,
    MarkOnline,
    OpenCircuit,
    Present,
    RegisterServer,
    Removed,
    RemoveServer,
    SetMaintenance,
    TryCircuit,
    decide,
    evolve,
)
from taskstream.errors import NotFound
from taskstream.events.server import (
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    MaintenanceEnded,
    MaintenanceStarted,
    ServerRemoved,
    ServerWentOffline,
    ServerWentOnline,
)

from .support import NOW, Given, recorded, registered, seconds

given = Given(decide, evolve, ABSENT)

WENT_ONLINE = ServerWentOnline(server_id="s1", reason="answers")
WENT_OFFLINE = ServerWentOffline(server_id="s1", reason="refused")
REMOVED = ServerRemoved(server_id="s1", reason="gone")
HALF_OPENED = CircuitHalfOpened(server_id="s1")
CLOSED = CircuitClosed(server_id="s1", reason="works again")


SOON = NOW + seconds(15)


def opened(failures: int = 1, until: datetime = SOON, owner: str = "") -> CircuitOpened:
    return CircuitOpened(server_id="s1", reason="5 failed", until=until, failures=failures, owner=owner)


new = given(registered())
online = new(WENT_ONLINE)
broken = online(opened())
"""Its circuit is open for 15 s."""
on_trial = broken(HALF_OPENED)
removed = online(REMOVED)

OPEN = OpenCircuit(reason="5 failed", cooldown=seconds(15))
EVERYTHING_BUT_REGISTER: list[Any] = [
    MarkOnline(reason=""),
    MarkOffline(reason=""),
    SetMaintenance(maintenance=True),
    SetMaintenance(maintenance=False),
    OPEN,
    TryCircuit(),
    CloseCircuit(reason=""),
    RemoveServer(reason=""),
]


# Registering


def test_a_server_is_registered_with_its_settings_and_is_offline_until_a_check() -> None:
    settings = registered(max_concurrent=3, types=("chapter",), labels={"gpu": "yes"})

    after = given.when(RegisterServer(settings=settings)).then(settings)

    state: Present = after.given.state
    assert state.settings == settings
    assert (state.online, state.maintenance, state.circuit) == (False, False, CircuitIsClosed())
    assert (state.registered_at, state.changed_at) == (NOW, NOW)


def test_a_server_registered_again_with_the_same_settings_stays_as_it_is() -> None:
    given.when(RegisterServer(settings=registered())).then(registered()).is_quiet()
    broken.when(RegisterServer(settings=registered())).is_quiet()


def test_a_server_registered_again_takes_new_settings_and_keeps_its_conditions() -> None:
    other = registered(max_concurrent=99)
    state = broken(MaintenanceStarted(server_id="s1", reason="disk"))

    after = state.when(RegisterServer(settings=other)).then(other).given.state

    assert after.settings.max_concurrent == 99
    assert (after.online, after.maintenance) == (True, True)
    assert isinstance(after.circuit, CircuitIsOpen)


@pytest.mark.parametrize("command", EVERYTHING_BUT_REGISTER, ids=lambda command: type(command).__name__)
def test_nothing_is_done_with_a_server_that_is_not_registered(command: Any) -> None:
    given.when(command).is_refused(NotFound)
    removed.when(command).is_refused(NotFound, "s1")


# Health


def test_a_server_that_answers_goes_online_once() -> None:
    new.when(MarkOnline(reason="answers")).then(WENT_ONLINE).is_quiet()


def test_a_server_that_does_not_answer_goes_offline_once() -> None:
    online.when(MarkOffline(reason="refused")).then(WENT_OFFLINE).is_quiet()


def test_a_new_server_that_does_not_answer_was_offline_already() -> None:
    new.when(MarkOffline(reason="refused")).is_quiet()


def test_since_when_and_why_a_server_is_offline_is_kept() -> None:
    later = NOW + seconds(60)

    state = evolve(online.state, recorded(WENT_OFFLINE, later))

    assert isinstance(state, Present)
    assert (state.online, state.changed_at, state.status_reason) == (False, later, "refused")


# Maintenance


def test_maintenance_begins_once_and_ends_once() -> None:
    within = online.when(SetMaintenance(maintenance=True, reason="disk")).then(
        MaintenanceStarted(server_id="s1", reason="disk")
    )
    within.is_quiet()
    assert (within.given.state.maintenance, within.given.state.maintenance_reason) == (True, "disk")

    after = within.given.when(SetMaintenance(maintenance=False, reason="done")).then(
        MaintenanceEnded(server_id="s1", reason="done")
    )
    after.is_quiet()
    assert (after.given.state.maintenance, after.given.state.maintenance_reason) == (False, "")


def test_maintenance_and_health_and_circuit_do_not_touch_one_another() -> None:
    state = new(
        MaintenanceStarted(server_id="s1", reason="disk"), WENT_ONLINE, opened(), WENT_OFFLINE, HALF_OPENED
    ).state

    tried = CircuitIsHalfOpen(failures=1, reason="5 failed")
    assert (state.online, state.maintenance, state.circuit) == (False, True, tried)


# Circuit


def circuit(state: Given) -> Circuit:
    return state.state.circuit  # type: ignore[no-any-return]


def test_a_circuit_opens_for_its_cool_down_and_only_once() -> None:
    after = online.when(OPEN).then(opened(1, until=NOW + seconds(15)))

    after.is_quiet()
    assert circuit(after.given) == CircuitIsOpen(until=NOW + seconds(15), failures=1, reason="5 failed")


def opens_for(owner: str) -> OpenCircuit:
    return OpenCircuit(reason="5 failed", cooldown=seconds(15), owner=owner)


def test_a_circuit_that_opens_on_account_of_one_owner_says_so() -> None:
    after = online.when(opens_for("mallory")).then(opened(1, owner="mallory"))

    after.is_quiet()
    assert circuit(after.given) == CircuitIsOpen(until=SOON, failures=1, reason="5 failed", owner="mallory")


def test_a_circuit_open_for_one_owner_is_open_for_all_once_another_s_tasks_fail() -> None:
    after = online(opened(2, owner="mallory")).when(opens_for("bob"), at=NOW + seconds(5)).then(opened(2))

    assert circuit(after.given) == CircuitIsOpen(until=SOON, failures=2, reason="5 failed")
    for owner in ("", "bob", "mallory"):
        after.given.when(opens_for(owner), at=NOW + seconds(5)).is_quiet()


def test_a_failed_trial_is_of_the_owner_whose_task_it_was() -> None:
    on_trial.when(opens_for("mallory")).then(opened(2, until=NOW + seconds(30), owner="mallory"))


def test_a_circuit_lets_one_attempt_try_when_its_time_is_up_and_not_before() -> None:
    broken.when(TryCircuit(), at=NOW + seconds(14.999)).is_quiet()

    after = broken.when(TryCircuit(), at=NOW + seconds(15)).then(HALF_OPENED)

    after.is_quiet()
    assert circuit(after.given) == CircuitIsHalfOpen(failures=1, reason="5 failed")


@pytest.mark.parametrize("state", [new, online, on_trial])
def test_only_an_open_circuit_is_tried(state: Given) -> None:
    state.when(TryCircuit(), at=NOW + seconds(3600)).is_quiet()


@pytest.mark.parametrize("state", [broken, on_trial])
def test_a_circuit_closes_once(state: Given) -> None:
    after = state.when(CloseCircuit(reason="works again")).then(CLOSED)

    after.is_quiet()
    assert circuit(after.given) == CircuitIsClosed()


def test_a_closed_circuit_is_not_closed() -> None:
    online.when(CloseCircuit(reason="works")).is_quiet()


def cooldowns(cooldown_seconds: float, trials: int) -> list[float]:
    """Return the seconds a circuit stays open while one trial after another fails."""
    state = online
    found = []
    for _ in range(trials):
        (event,) = state.when(OpenCircuit(reason="", cooldown=seconds(cooldown_seconds))).events
        assert isinstance(event, CircuitOpened)
        found.append((event.until - NOW).total_seconds())
        state = state(event, HALF_OPENED)
    return found


def test_the_cool_down_doubles_while_trials_fail_up_to_its_cap() -> None:
    assert seconds(300) == LONGEST_COOLDOWN
    assert cooldowns(15, 8) == [15, 30, 60, 120, 240, 300, 300, 300]


def test_the_cool_down_of_a_circuit_that_never_closes_stays_at_the_cap() -> None:
    assert cooldowns(366 * 86400, 40)[-1] == 300
    assert cooldowns(0.001, 40)[14:18] == [16.384, 32.768, 65.536, 65.536]


def test_a_circuit_that_closed_begins_with_the_first_cool_down_again() -> None:
    state = on_trial(opened(2), HALF_OPENED, opened(3), CLOSED)

    state.when(OPEN).then(opened(1, until=NOW + seconds(15)))


# Removal


def test_a_server_is_removed_once() -> None:
    after = online.when(RemoveServer(reason="gone")).then(REMOVED)

    assert after.given.state == Removed(server_id="s1", removed_at=NOW, reason="gone")
    after.is_refused(NotFound, "s1")


def test_a_removed_server_that_registers_again_begins_anew() -> None:
    state = broken(MaintenanceStarted(server_id="s1", reason="disk"), REMOVED)

    after = state.when(RegisterServer(settings=registered())).then(registered())

    assert after.given.state == new.state
    after.is_quiet()


def test_what_comes_after_a_removal_changes_nothing() -> None:
    assert removed(WENT_OFFLINE, opened(), CLOSED).state == removed.state


def test_what_comes_before_any_registration_changes_nothing() -> None:
    assert given(WENT_ONLINE, opened(), REMOVED).state is ABSENT


def test_a_server_announced_at_another_address_is_unknown_until_it_is_checked() -> None:
    moved = registered(predict_url="http://elsewhere.example/predict")
    state = given(registered(), ServerWentOnline(server_id="s1", reason="ok"), moved).state

    assert isinstance(state, Present)
    assert not state.online
    assert state.status_reason == "not checked yet"


def test_maintenance_has_a_beginning_until_it_ends() -> None:
    started = MaintenanceStarted(server_id="s1", reason="new disk")

    assert new(started).state.maintenance_since == NOW
    assert new(started, registered(predict_url="http://two.example/predict")).state.maintenance_since == NOW
    assert new(started, MaintenanceEnded(server_id="s1")).state.maintenance_since is None
