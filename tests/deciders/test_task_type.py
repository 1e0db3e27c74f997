"""What may be done with a task type, and what may not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from taskstream.commands import task_type
from taskstream.commands.task_type import (
    DEFAULT_TYPE,
    UNDEFINED,
    DefineType,
    DeleteType,
    PauseType,
    ResumeType,
    TypeState,
)
from taskstream.errors import NotFound, RuleBroken
from taskstream.events.envelope import Event
from taskstream.events.task_type import TypeDefined, TypeDeleted, TypePaused, TypeResumed

from .support import Given, defined


def decide(command: Any, state: Any, now: datetime) -> Sequence[Event]:
    """Decide as the others do; a type has no use for the time."""
    return task_type.decide(command, state)


given = Given(decide, task_type.evolve, UNDEFINED)
DELETED = TypeDeleted(name="chapter")


def test_a_type_is_defined_once() -> None:
    definition = defined(payload_schema=Raw(b'{"type":"object"}'), attempts=5)

    after = given.when(DefineType(definition=definition)).then(definition)

    after.is_quiet()
    assert after.given.state.definition == definition


def test_a_type_defined_otherwise_has_its_new_settings_only() -> None:
    after = (
        given(defined(attempts=5)).when(DefineType(definition=defined(priority="low"))).then(defined(priority="low"))
    )

    assert after.given.state.definition.attempts is None


def test_a_schema_that_differs_is_another_definition() -> None:
    before = defined(payload_schema=Raw(b'{"type":"object"}'))
    other = defined(payload_schema=Raw(b'{"type":"array"}'))

    given(before).when(DefineType(definition=other)).then(other)


def test_a_defined_type_is_deleted_once() -> None:
    after = given(defined()).when(DeleteType(name="chapter")).then(DELETED)

    assert after.given.state.definition is None
    after.is_refused(NotFound, "chapter")


def test_a_type_that_nobody_defined_is_not_deleted() -> None:
    given.when(DeleteType(name="chapter")).is_refused(NotFound)


def test_the_default_type_is_never_deleted() -> None:
    given.when(DeleteType(name=DEFAULT_TYPE)).is_refused(RuleBroken)
    given(defined(DEFAULT_TYPE, "default")).when(DeleteType(name=DEFAULT_TYPE)).is_refused(RuleBroken)


def test_a_deleted_type_can_be_defined_again() -> None:
    given(defined(), DELETED).when(DefineType(definition=defined())).then(defined()).is_quiet()


def test_every_pool_that_a_type_had_is_kept_once_and_in_order() -> None:
    state: TypeState = given(
        defined(pool="a"), defined(pool="b"), DELETED, defined(pool="a"), defined(pool="default"), defined(pool="c")
    ).state

    assert state.pools == ("default", "a", "b", "c")


def test_a_deleted_type_keeps_the_pools_where_its_tasks_may_wait() -> None:
    assert given(defined(pool="a"), DELETED).state == TypeState(definition=None, pools=("default", "a"))


def test_an_undefined_type_waits_in_the_default_pool() -> None:
    assert given.state.pools == ("default",)


def test_a_definition_says_what_it_leaves_to_the_service() -> None:
    state: TypeState = given(TypeDefined(name="chapter", pool="text")).state

    assert state.definition is not None
    assert (state.definition.attempts, state.definition.timeout, state.definition.backoff_base) == (None, None, None)


def test_a_definition_without_a_pool_keeps_the_pool_in_which_tasks_wait() -> None:
    other = TypeDefined(name="chapter", pool="chapter", attempts=5)

    given.when(DefineType(definition=other, keeps_pool=True)).then(other)
    given(defined()).when(DefineType(definition=other, keeps_pool=True)).then(replace(other, pool=defined().pool))
    given(defined()).when(DefineType(definition=other)).then(other)
    given(defined(), DELETED).when(DefineType(definition=other, keeps_pool=True)).then(other)


PAUSED = TypePaused(name="chapter", reason="new model")


def test_a_type_is_paused_and_resumed_once() -> None:
    paused = given(defined()).when(PauseType(name="chapter", reason="new model")).then(PAUSED)
    resumed = paused.given.when(ResumeType(name="chapter")).then(TypeResumed(name="chapter"))

    paused.is_quiet()
    resumed.is_quiet()
    assert (paused.given.state.pause.reason, resumed.given.state.pause) == ("new model", None)


def test_other_settings_do_not_end_a_pause_and_a_deletion_does() -> None:
    redefined = given(defined(), PAUSED, defined(attempts=5)).state
    deleted = given(defined(), PAUSED, DELETED, defined()).state

    assert (redefined.definition.attempts, redefined.pause.reason) == (5, "new model")
    assert deleted.pause is None


def test_a_type_that_nobody_defined_is_not_paused_unless_it_is_the_default_one() -> None:
    given.when(PauseType(name="chapter")).is_refused(NotFound, "chapter")
    given.when(ResumeType(name="chapter")).is_refused(NotFound, "chapter")
    given.when(PauseType(name=DEFAULT_TYPE)).then(TypePaused(name=DEFAULT_TYPE)).is_quiet()
