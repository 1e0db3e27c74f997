"""What may be done with a pool."""

from __future__ import annotations

from taskstream.commands.pause import Pause
from taskstream.commands.pool import NEVER_PAUSED, PausePool, PoolState, ResumePool, decide, evolve
from taskstream.events.pool import PoolPaused, PoolResumed

from .support import BY, NOW, Given

given = Given(decide, evolve, NEVER_PAUSED)
PAUSE = PausePool(name="text", reason="new model")
PAUSED = PoolPaused(name="text", reason="new model")
RESUMED = PoolResumed(name="text", reason="done")


def test_a_pool_is_paused_once_with_who_when_and_why() -> None:
    after = given.when(PAUSE).then(PAUSED)

    after.is_quiet()
    assert after.given.state == PoolState(pause=Pause(since=NOW, by=BY, reason="new model"))


def test_another_reason_does_not_pause_it_again() -> None:
    given(PAUSED).when(PausePool(name="text", reason="another")).is_quiet()


def test_a_paused_pool_is_resumed_once() -> None:
    after = given(PAUSED).when(ResumePool(name="text", reason="done")).then(RESUMED)

    after.is_quiet()
    assert after.given.state == NEVER_PAUSED


def test_a_pool_that_is_not_paused_is_not_resumed() -> None:
    given.when(ResumePool(name="text")).is_quiet()


def test_a_resumed_pool_can_be_paused_again() -> None:
    given(PAUSED, RESUMED).when(PAUSE).then(PAUSED)
