"""The open requests of the pullers of one server, as the worker that dispatches to it knows them. Pure.

A puller's request to an API process becomes an *ask*: that process sends it to the worker again and again while the
request is open, and the worker forgets an ask that it has not heard of for a while. So a killed process of either kind
leaves nothing behind. The worker answers an ask with attempts, one message each; the process says whether it took it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct, field

from ..events.envelope import NULL
from ..events.server import ServerRegistered

MOST_ASKS = 5_000
"""Open asks of one server that its worker knows; further ones wait, unknown."""


class AskMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An open request, or its end (`wants` is 0), sent to the worker. The reply subject takes the attempts."""

    id: str
    wants: int
    """How many more attempts it takes."""
    lives_seconds: float
    """How long the worker remembers it without another message."""
    types: tuple[str, ...] = ()
    """Only tasks of these types; empty: of all that the server serves."""
    labels: dict[str, str] | None = None
    """The puller has only these of the server's labels; None: all."""


class HandedModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model that the submitter of a task chose."""

    provider: str = ""
    model: str = ""
    base_url: str = ""
    key: str | None = None


class HandedInput(Struct, frozen=True, kw_only=True):
    """What a task consists of: in the message, or in an object if it is too large for one."""

    payload: Raw
    parents: Raw = NULL
    """The results of the tasks that it depends on, as pushed servers get them; null: it depends on none."""


class HandOver(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt, handed to the process that holds a puller's request."""

    owner: str
    unique: str
    attempt: int
    task_type: str
    deadline: int
    """Milliseconds since the epoch."""
    token: str
    lease_seconds: float
    input: HandedInput | None = None
    object_name: str = ""
    """Object of the input, if it is not here."""
    model: HandedModel | None = None
    trace: dict[str, str] = field(default_factory=dict)
    """Headers that name the request that submitted the task."""
    coming: int = 0
    """How many more attempts for this ask the worker is starting."""


TAKEN = b"taken"
GONE = b"gone"
"""The answers to a hand-over: the request was open and has the attempt; it was over."""


class AskReport(Struct, frozen=True, kw_only=True):
    """How many requests are open now."""

    asks: int
    wants: int
    asked_seconds_ago: float | None = None
    """When a puller asked last; None: not since this worker dispatches to the server."""


class OpenAsk(Struct):
    """An open request of a puller."""

    id: str
    reply: str
    """Subject that takes attempts."""
    types: tuple[str, ...]
    labels: Mapping[str, str] | None
    wants: int
    """Attempts that may still be started for it."""
    until: float
    """Monotonic seconds: when it is forgotten."""
    coming: int = 0
    """Attempts that were started for it and not handed over yet."""

    def fits(self, task_type: str, require: Mapping[str, str]) -> bool:
        """Return True if its puller takes tasks of a type that require labels, provided that the server does."""
        if self.types and task_type not in self.types:
            return False
        return self.labels is None or all(self.labels.get(key) == value for key, value in require.items())


class OpenAsks:
    """The asks of one server, oldest first. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._asks: dict[str, OpenAsk] = {}
        self._asked_at: float | None = None

    def __len__(self) -> int:
        return len(self._asks)

    @property
    def wanted(self) -> int:
        """How many attempts may be started now."""
        return sum(ask.wants for ask in self._asks.values())

    def put(self, message: AskMessage, reply: str, now: float) -> bool:
        """Add, renew or end an ask; return True if another number of attempts may be started now."""
        ask = self._asks.get(message.id)
        if message.wants <= 0:
            return self._end(ask)
        self._asked_at = now
        if ask is None:
            if len(self._asks) >= MOST_ASKS:
                return False
            self._asks[message.id] = OpenAsk(
                id=message.id,
                reply=reply,
                types=message.types,
                labels=message.labels,
                wants=message.wants,
                until=now + message.lives_seconds,
            )
            return True
        ask.until = now + message.lives_seconds
        if ask.coming or ask.wants == message.wants:
            return False  # what is on its way is counted by one side and not yet by the other
        ask.wants = message.wants
        return True

    def reserve(self, task_type: str, require: Mapping[str, str], now: float) -> OpenAsk | None:
        """Take the oldest ask that a task fits; None: there is none. `served`, `give_back` or `close` follows."""
        for ask in self._asks.values():
            if ask.wants > 0 and ask.until > now and ask.fits(task_type, require):
                ask.wants -= 1
                ask.coming += 1
                return ask
        return None

    def served(self, ask: OpenAsk) -> None:
        """Record that an attempt was handed over. An ask that wants no more is forgotten."""
        ask.coming -= 1
        if not (ask.wants or ask.coming):
            self._end(ask)

    def give_back(self, ask: OpenAsk) -> None:
        """Record that an attempt was not started after all."""
        ask.coming -= 1
        ask.wants += 1

    def close(self, ask: OpenAsk) -> None:
        """Record that the request of an ask was over when an attempt came."""
        ask.coming -= 1
        self._end(ask)

    def forget_silent(self, now: float) -> bool:
        """Forget the asks that were not renewed; return True if there were some."""
        silent = [ask for ask in self._asks.values() if ask.until <= now]
        for ask in silent:
            self._end(ask)
        return bool(silent)

    def fit(self, task_type: str, require: Mapping[str, str]) -> bool:
        """Return True if an attempt of such a task may be started now."""
        return any(ask.wants > 0 and ask.fits(task_type, require) for ask in self._asks.values())

    def types(self, server: ServerRegistered) -> tuple[str, ...]:
        """Return the types that are asked for now; empty: all."""
        asked: set[str] = set()
        for ask in self._asks.values():
            if ask.wants > 0:
                if not ask.types:
                    return server.types
                asked.update(ask.types if not server.types else set(ask.types) & set(server.types))
        return tuple(sorted(asked)) or server.types

    def report(self, now: float) -> AskReport:
        """Return how many asks there are."""
        ago = None if self._asked_at is None else now - self._asked_at
        return AskReport(asks=len(self._asks), wants=self.wanted, asked_seconds_ago=ago)

    def _end(self, ask: OpenAsk | None) -> bool:
        if ask is None:
            return False
        return self._asks.pop(ask.id, None) is not None


encode = msgspec.json.Encoder().encode
decode_ask = msgspec.json.Decoder(AskMessage).decode
decode_hand_over = msgspec.json.Decoder(HandOver).decode
decode_input = msgspec.json.Decoder(HandedInput).decode
decode_report = msgspec.json.Decoder(AskReport).decode
