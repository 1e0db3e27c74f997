"""What may be done with a server, and what may not."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st
from msgspec.structs import replace

from taskstream.commands.server import (
    ABSENT,
    LONGEST_COOLDOWN,
    NOT_CHECKED,
    NOT_DETECTED,
    REASONS_AT_ONCE,
    ChangeServer,
    Circuit,
    CircuitIsClosed,
    CircuitIsHalfOpen,
    CircuitIsOpen,
    CloseCircuit,
    ForgetServer,
    MarkOffline,
    MarkOnline,
    OpenCircuit,
    Present,
    RecordDialect,
    RecordModels,
    RegisterServer,
    Removed,
    RemoveOffline,
    RemoveServer,
    RestoreServer,
    ServerChange,
    SetMaintenance,
    TryCircuit,
    decide,
    evolve,
)
from taskstream.errors import ApiKeyDestroyed, NotFound
from taskstream.events.server import (
    MODELS_BYTES,
    MOST_MODELS,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    DetectionEvidence,
    DialectDetected,
    MaintenanceEnded,
    MaintenanceStarted,
    ModelsFound,
    ServerForgotten,
    ServerRegistered,
    ServerRemoved,
    ServerRestored,
    ServerStatusReasonChanged,
    ServerWentOffline,
    ServerWentOnline,
)

from .support import BY, NOW, Given, recorded, registered, seconds

given = Given(decide, evolve, ABSENT)

WENT_ONLINE = ServerWentOnline(server_id="s1", reason="answers")
WENT_OFFLINE = ServerWentOffline(server_id="s1", reason="refused")
REMOVED = ServerRemoved(server_id="s1", reason="gone")
HALF_OPENED = CircuitHalfOpened(server_id="s1")
CLOSED = CircuitClosed(server_id="s1", reason="works again")


SOON = NOW + seconds(15)


def changed(reason: str) -> ServerStatusReasonChanged:
    return ServerStatusReasonChanged(server_id="s1", reason=reason)


def opened(failures: int = 1, until: datetime = SOON, owner: str = "") -> CircuitOpened:
    return CircuitOpened(server_id="s1", reason="5 failed", until=until, failures=failures, owner=owner)


new = given(registered())
online = new(WENT_ONLINE)
broken = online(opened())
"""Its circuit is open for 15 s."""
on_trial = broken(HALF_OPENED)
removed = online(REMOVED)
offline = online(WENT_OFFLINE)
KEPT = ServerRemoved(server_id="s1", reason="offline for too long", is_kept=True)
kept = offline(KEPT)
FORGOTTEN = ServerForgotten(server_id="s1", reason="a day")

OPEN = OpenCircuit(reason="5 failed", cooldown=seconds(15))
EVERYTHING_BUT_REGISTER: list[Any] = [
    MarkOnline(reason=""),
    MarkOffline(reason=""),
    RecordModels(models=("a",)),
    SetMaintenance(maintenance=True),
    SetMaintenance(maintenance=False),
    OPEN,
    TryCircuit(),
    CloseCircuit(reason=""),
    RemoveServer(reason=""),
    RemoveOffline(reason="", since=NOW),
    ChangeServer(change=ServerChange(weight=3)),
    RestoreServer(reason="", is_kept=True),
    RecordDialect(detected=DialectDetected(server_id="s1", predict_url="http://h/predict", dialect="cog")),
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
    given.when(ForgetServer(reason="")).is_refused(NotFound)
    removed.when(command).is_refused(NotFound, "s1")


# Health


def test_a_server_that_answers_goes_online_once() -> None:
    new.when(MarkOnline(reason="answers")).then(WENT_ONLINE).is_quiet()


def test_a_server_that_does_not_answer_goes_offline_once() -> None:
    online.when(MarkOffline(reason="refused")).then(WENT_OFFLINE).is_quiet()


def test_the_first_check_of_a_new_server_says_why_it_is_offline() -> None:
    after = new.when(MarkOffline(reason="refused")).then(changed("refused"))

    after.is_quiet()
    assert (after.given.state.status_reason, after.given.state.online) == ("refused", False)


def test_another_reason_changes_since_when_it_holds_not_since_when_it_is_offline() -> None:
    offline = online(WENT_OFFLINE)
    later = NOW + seconds(7)

    offline.when(MarkOffline(reason="health check answered 500"), later).then(changed("health check answered 500"))
    state = evolve(offline.state, recorded(changed("health check answered 500"), later))

    assert isinstance(state, Present)
    assert (state.changed_at, state.status_since) == (NOW, later)


def test_durations_make_no_other_reason() -> None:
    silent = online(ServerWentOffline(server_id="s1", reason="no sign of life for 61 s"))

    silent.when(MarkOffline(reason="no sign of life for 1,062.5 s")).is_quiet()
    silent.when(MarkOffline(reason="health check answered 500")).then(changed("health check answered 500"))


@given_any(st.integers(1, 120), st.integers(1, 4))
def test_reasons_that_alternate_are_recorded_ever_more_seldom(seconds_between: int, hours: int) -> None:
    state = online(WENT_OFFLINE).state
    now, times = NOW, []
    while now < NOW + timedelta(hours=hours):
        now += seconds(seconds_between)
        for event in decide(MarkOffline(reason=f"reason {len(times) % 2}"), state, now):
            state = evolve(state, recorded(event, now))
            times.append(now)
    assert len(times) <= REASONS_AT_ONCE + 6 + hours


def test_since_when_and_why_a_server_is_offline_is_kept() -> None:
    later = NOW + seconds(60)

    state = evolve(online.state, recorded(WENT_OFFLINE, later))

    assert isinstance(state, Present)
    assert (state.online, state.changed_at, state.status_reason) == (False, later, "refused")


# Models

FINDS = registered(finds_models=True)
finds = given(FINDS)


def serving(*names: str) -> ModelsFound:
    return ModelsFound(server_id="s1", models=names)


def test_models_are_recorded_sorted_when_they_are_others_than_before() -> None:
    after = finds.when(RecordModels(models=("b", "a", "b"))).then(serving("a", "b"))

    assert after.given.state.models == ("a", "b")
    after.given.when(RecordModels(models=("b", "a"))).is_quiet()
    finds.when(RecordModels(models=())).then(serving())
    online.when(RecordModels(models=("a",))).is_quiet()


def test_names_of_models_that_are_no_names_are_left_out() -> None:
    names = ("a", "", "x" * 257, "line\nbreak", "x" * 256)

    finds.when(RecordModels(models=names)).then(serving("a", "x" * 256))


def test_of_many_models_the_first_are_kept() -> None:
    by_count = [f"m{number:04}" for number in range(2_000)]
    by_size = [f"{number:04}" + "é" * 200 for number in range(MOST_MODELS)]

    [event] = decide(RecordModels(models=tuple(reversed(by_count))), finds.state, NOW)
    [bounded] = decide(RecordModels(models=tuple(by_size)), finds.state, NOW)

    assert event == serving(*by_count[:MOST_MODELS])
    assert isinstance(bounded, ModelsFound)
    assert bounded.models == tuple(by_size[: len(bounded.models)])
    assert MODELS_BYTES - 404 < len("".join(bounded.models).encode()) <= MODELS_BYTES


@given_any(st.integers(1, 120), st.integers(1, 4))
def test_models_that_alternate_are_recorded_ever_more_seldom(seconds_between: int, hours: int) -> None:
    state: Any = finds.state
    now, times = NOW, []
    while now < NOW + timedelta(hours=hours):
        now += seconds(seconds_between)
        for event in decide(RecordModels(models=(f"m{len(times) % 2}",)), state, now):
            state = evolve(state, recorded(event, now))
            times.append(now)
    assert len(times) <= REASONS_AT_ONCE + 6 + hours


def test_models_that_were_the_same_for_long_are_recorded_at_once() -> None:
    state: Any = finds.state
    for number in range(9):
        state = evolve(state, recorded(serving(f"m{number}"), NOW))
    later = NOW + timedelta(hours=2)

    assert not decide(RecordModels(models=("other",)), state, later - seconds(5_000))
    assert decide(RecordModels(models=("other",)), state, later) == [serving("other")]
    assert evolve(state, recorded(serving("other"), later)).found_changes == 1  # type: ignore[union-attr]


def test_the_models_of_a_server_are_forgotten_with_its_address() -> None:
    moved = registered(finds_models=True, predict_url="http://elsewhere")

    assert finds(serving("a"), registered(finds_models=True, weight=2)).state.models == ("a",)
    assert finds(serving("a"), moved).state.models == ()


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

    assert after.given.state == Removed(
        server_id="s1", removed_at=NOW, reason="gone", before=online.state, by=BY, is_kept=False
    )
    after.is_refused(NotFound, "s1")


def test_a_server_is_removed_for_being_offline_only_if_it_has_been_for_so_long() -> None:
    command = RemoveOffline(reason="offline for too long", since=NOW)

    offline.when(command).then(KEPT)
    online.when(command).is_quiet()
    new.when(RemoveOffline(reason="", since=NOW - seconds(1))).is_quiet()
    for command_to in [*EVERYTHING_BUT_REGISTER[:-5], ChangeServer(change=ServerChange(weight=3))]:
        kept.when(command_to).is_refused(NotFound, "s1")


def test_a_kept_server_comes_back_as_it_was() -> None:
    settings = registered(labels={"gpu": "a100"}, max_concurrent=7, api_key_id="k1")
    before = given(settings, WENT_ONLINE, MaintenanceStarted(server_id="s1", reason="disk"), opened(), WENT_OFFLINE)
    restored = ServerRestored(server_id="s1", reason="heartbeat", api_key_id="k1")

    after = before(KEPT).when(RestoreServer(reason="heartbeat", is_kept=True)).then(restored)

    after.is_quiet()
    assert after.given.state == replace(before.state, status_reason=NOT_CHECKED)


def test_no_sign_of_life_undoes_the_removal_by_an_admin() -> None:
    sign = RestoreServer(reason="heartbeat", is_kept=True)

    removed.when(sign).is_refused(NotFound, "s1")
    kept(REMOVED).when(sign).is_refused(NotFound, "s1")
    kept(FORGOTTEN).when(sign).is_refused(NotFound, "s1")


def test_an_admin_restores_any_removed_server() -> None:
    asked = RestoreServer(reason="by root")
    restored = ServerRestored(server_id="s1", reason="by root")

    for state in (removed, kept, kept(FORGOTTEN), kept(REMOVED)):
        after = state.when(asked).then(restored)
        assert after.given.state.settings == registered()
    online.when(asked).is_quiet()


def test_a_key_that_was_destroyed_must_be_given_again() -> None:
    keyed = given(registered(api_key_id="k1"))
    gone = keyed(REMOVED)

    gone.when(RestoreServer(reason="")).is_refused(ApiKeyDestroyed, "apiKey")
    keyed(KEPT, FORGOTTEN).when(RestoreServer(reason="")).is_refused(ApiKeyDestroyed)
    keyed(KEPT).when(RestoreServer(reason="")).then(ServerRestored(server_id="s1", reason="", api_key_id="k1"))
    gone.when(RestoreServer(reason="", api_key_id="k2")).then(
        ServerRestored(server_id="s1", reason="", api_key_id="k2")
    )
    after = gone.when(RestoreServer(reason="", api_key_id="")).then(ServerRestored(server_id="s1", reason=""))
    assert after.given.state.settings.api_key_id == ""


def test_an_admin_makes_a_removal_final() -> None:
    after = kept.when(RemoveServer(reason="gone")).then(REMOVED)

    assert after.given.state.before == kept.state.before
    after.is_refused(NotFound, "s1")


def test_a_kept_server_is_forgotten_once() -> None:
    kept.when(ForgetServer(reason="a day")).then(FORGOTTEN).is_quiet()
    online.when(ForgetServer(reason="a day")).is_quiet()


def test_one_setting_is_changed_and_the_others_stay() -> None:
    first = registered(labels={"gpu": "a100"}, max_concurrent=7, api_key_id="k1")
    state = given(first, WENT_ONLINE)

    after = state.when(ChangeServer(change=ServerChange(weight=5, busy_status=()))).then(
        replace(first, weight=5, busy_status=())
    )

    after.is_quiet()
    assert after.given.state.online
    state.when(ChangeServer(change=ServerChange())).is_quiet()


def test_every_setting_of_a_server_but_its_id_can_be_changed() -> None:
    assert set(ServerChange.__struct_fields__) == {*ServerRegistered.__struct_fields__} - {"server_id"}


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


# Detection


def found(dialect: str = "oip", **more: Any) -> DialectDetected:
    url = registered().predict_url
    evidence = (DetectionEvidence(path="/v2", status=200, sign="JSON with `extensions`"),)
    return DialectDetected(server_id="s1", predict_url=url, dialect=dialect, evidence=evidence, **more)


AUTO = registered(dialect="auto")
undetected = given(AUTO)
detected = undetected(found())


def test_a_dialect_that_is_detected_applies_and_the_registration_stays_auto() -> None:
    state: Present = undetected.when(RecordDialect(detected=found())).then(found()).given.state

    assert state.settings == registered(dialect="oip")
    assert state.registered == AUTO
    assert state.detected is not None
    assert (state.detected.event, state.detected.at) == (found(), NOW)


def test_a_server_whose_dialect_is_not_known_stays_offline_whatever_is_heard_of_it() -> None:
    undetected.when(MarkOnline(reason="heartbeat")).then(changed(NOT_DETECTED))
    detected.when(MarkOnline(reason="answers")).then(WENT_ONLINE)


def test_the_same_finding_again_changes_nothing_and_another_one_applies() -> None:
    detected.when(RecordDialect(detected=replace(found(), evidence=()))).is_quiet()
    detected.when(RecordDialect(detected=found("cog"))).then(found("cog"))


@pytest.mark.parametrize(
    "settings", [registered(dialect="cog"), registered(dialect="auto", predict_url="http://other/")]
)
def test_a_finding_about_another_registration_changes_nothing(settings: ServerRegistered) -> None:
    given(settings).when(RecordDialect(detected=found())).is_quiet()


def test_a_registration_with_auto_again_keeps_what_was_detected() -> None:
    detected.when(RegisterServer(settings=AUTO)).is_quiet()

    heavier = replace(AUTO, weight=3)
    state: Present = detected(WENT_ONLINE).when(RegisterServer(settings=heavier)).then(heavier).given.state

    assert (state.settings.dialect, state.settings.weight, state.online) == ("oip", 3, True)
    assert state.detected is not None


def test_a_change_of_a_detected_server_keeps_auto_unless_it_names_a_dialect() -> None:
    detected.when(ChangeServer(change=ServerChange(weight=3))).then(replace(AUTO, weight=3))

    named: Present = (
        detected(WENT_ONLINE)
        .when(ChangeServer(change=ServerChange(dialect="cog")))
        .then(registered(dialect="cog"))
        .given.state
    )

    assert (named.settings.dialect, named.detected, named.online) == ("cog", None, False)


def test_another_address_needs_another_detection() -> None:
    moved = replace(AUTO, predict_url="http://other/")

    state: Present = detected(WENT_ONLINE).when(RegisterServer(settings=moved)).then(moved).given.state

    assert (state.is_undetected, state.online) == (True, False)


def test_what_was_detected_comes_back_with_a_removed_server() -> None:
    back = detected(KEPT).when(RestoreServer(reason="answers", is_kept=True))

    state: Present = back.then(ServerRestored(server_id="s1", reason="answers")).given.state

    assert (state.settings.dialect, state.registered.dialect) == ("oip", "auto")
