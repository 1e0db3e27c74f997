"""Deciders of a task type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from ..errors import NotFound, RuleBroken
from ..events.envelope import Recorded
from ..events.task_type import TypeDefined, TypeDeleted, TypeEvent, TypePaused, TypeResumed
from .pause import Pause, begun

DEFAULT_TYPE = "default"
"""The type of tasks that name none. It always exists."""
DEFAULT_POOL = "default"
"""The pool of undefined types."""


class TypeState(Struct, frozen=True, kw_only=True):
    definition: TypeDefined | None = None
    """None: never defined, or deleted."""
    pools: tuple[str, ...] = (DEFAULT_POOL,)
    """Every pool in which its tasks may wait: all pools it has had, and the default one."""
    pause: Pause | None = None
    """None: not paused."""


UNDEFINED = TypeState()


class DefineType(Struct, frozen=True, kw_only=True):
    definition: TypeDefined
    keeps_pool: bool = False
    """A type that is defined keeps its pool, whatever the definition says: its tasks wait there."""


class DeleteType(Struct, frozen=True, kw_only=True):
    name: str


class PauseType(Struct, frozen=True, kw_only=True):
    name: str
    reason: str = ""


class ResumeType(Struct, frozen=True, kw_only=True):
    name: str
    reason: str = ""


TypeCommand: TypeAlias = DefineType | DeleteType | PauseType | ResumeType


def decide(command: TypeCommand, state: TypeState) -> Sequence[TypeEvent]:
    """Return the events of a command; none if it is done already.

    Raises NotFound for an undefined type that is not the default one, RuleBroken for deleting the default one.
    """
    match command:
        case DefineType():
            definition = command.definition
            if command.keeps_pool and state.definition is not None:
                definition = replace(definition, pool=state.definition.pool)
            return [] if state.definition == definition else [definition]
        case DeleteType() if command.name == DEFAULT_TYPE:
            raise RuleBroken("the type `default` always exists; put other settings instead of deleting it")
        case DeleteType():
            if state.definition is None:
                raise NotFound("type", command.name)
            return [TypeDeleted(name=command.name)]
        case PauseType() | ResumeType() if state.definition is None and command.name != DEFAULT_TYPE:
            raise NotFound("type", command.name)
        case PauseType():
            return [TypePaused(name=command.name, reason=command.reason)] if state.pause is None else []
        case ResumeType():
            return [TypeResumed(name=command.name, reason=command.reason)] if state.pause is not None else []
        case _:
            assert_never(command)


def evolve(state: TypeState, recorded: Recorded[TypeEvent]) -> TypeState:
    """Return the state after one more event."""
    event = recorded.event
    match event:
        case TypeDefined():
            pools = state.pools if event.pool in state.pools else (*state.pools, event.pool)
            return replace(state, definition=event, pools=pools)
        case TypeDeleted():
            return TypeState(definition=None, pools=state.pools)
        case TypePaused():
            return replace(state, pause=begun(recorded))
        case TypeResumed():
            return replace(state, pause=None)
        case _:
            assert_never(event)
