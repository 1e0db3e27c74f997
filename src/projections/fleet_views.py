"""What is kept of each thing of the fleet, in memory and in the registry bucket: its state as of an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from ..events.codec import Codec
from ..events.envelope import Event, Recorded
from ..streams.jetstream.messages import Position
from ..streams.log import decode

S = TypeVar("S")
E = TypeVar("E", bound=Event)

_encode = msgspec.json.Encoder().encode


class View(Struct, Generic[S], frozen=True, kw_only=True, omit_defaults=True):
    """A thing as of `sequence`: the value of `<kind>.<token>` in the registry bucket."""

    name: str = ""
    """Of a type or a pool; the states of servers and owners have it themselves."""
    sequence: int
    state: S


class Change(NamedTuple):
    """A key of the registry and its value after an event."""

    key: str
    value: bytes


def no_name(_event: Event) -> str:
    return ""


class Views(dict[str, View[S]], Generic[S, E]):
    """All views of one kind, by token."""

    def __init__(
        self,
        kind: str,
        codec: Codec[E],
        unknown: S,
        evolve: Callable[[S, Recorded[E]], S],
        state_type: Any,
        name_of: Callable[[E], str] = no_name,
    ) -> None:
        """`unknown`: the state of what the log has nothing of; `state_type`: what states decode as."""
        super().__init__()
        self.kind = kind
        self._codec = codec
        self._unknown = unknown
        self._evolve = evolve
        self._name_of = name_of
        self._decoder = msgspec.json.Decoder(View[state_type])

    def state(self, token: str) -> S:
        """Return the state of a thing, also of one there is not."""
        view = self.get(token)
        return view.state if view is not None else self._unknown

    def fold(self, token: str, position: Position) -> Change | None:
        """Fold an event; None for one that is reflected already. Raises UnreadableEvent."""
        view = self.get(token)
        if view is not None and view.sequence >= position.sequence:
            return None
        recorded = decode(self._codec, position).recorded
        state = self._evolve(self.state(token), recorded)
        self[token] = view = View(name=self._name_of(recorded.event), sequence=position.sequence, state=state)
        return Change(f"{self.kind}.{token}", _encode(view))

    def restore(self, token: str, value: bytes) -> None:
        """Take a view over from the registry bucket."""
        self[token] = self._decoder.decode(value)
