"""The envelope of an event: who caused it, when, and why.

The wire form is JSON: `{"id", "at", "by": {"kind", "id", "key"?}, "cause", "event": {"type", …}}`.

A stored event must decode in every later version. Add a field with a default; never rename, retype or drop one; a new
meaning is a new event. `tests/events/golden` has one file per event, which must decode and encode to the same again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar

from msgspec import Raw, Struct

NULL = Raw(b"null")
"""JSON null. The default of a field that is kept as the JSON text it came in: msgspec has no `Raw | None`."""

ActorKind = Literal["user", "server", "worker", "timer", "system"]


class Actor(Struct, frozen=True, omit_defaults=True):
    """The author of an event: a JWT subject, a server id, a worker id, the kind of a timer, or a service of ours.

    Of kind `server`: the server of the callback token, otherwise the subject of a JWT with the role `service`.
    """

    kind: ActorKind
    id: str
    key: str = ""
    """Id of the API key that was used; empty: none was."""

    def shown(self) -> dict[str, str]:
        """Return the actor as clients see it: `kind`, `id`, and `key` if a key was used."""
        shown = {"kind": self.kind, "id": self.id}
        return shown | {"key": self.key} if self.key else shown


class Event(Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of all events: a fact, named in the past tense."""


E = TypeVar("E", bound=Event)


class Recorded(Struct, Generic[E], frozen=True, kw_only=True, omit_defaults=True):
    """An event with its circumstances, as it is stored."""

    id: str
    """Unique per append to a history. Shows whether an append of unknown outcome was stored."""
    at: datetime
    """UTC, by the clock of the process that decided."""
    by: Actor
    cause: str = ""
    """Cause of the event: a request id, the sequence of an earlier event, `operation:<id>` or `batch_job:<id>`."""
    event: E


class Stored(NamedTuple, Generic[E]):
    """A recorded event at its place in the log."""

    sequence: int
    """Place in the stream, from 1."""
    recorded: Recorded[E]
