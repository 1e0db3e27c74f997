"""The protocol as data. A flow is a generator: it yields what it wants done, is sent what came of it, and returns.

Flows do no I/O, so one flow serves both clients: `drivers.py` has the two that carry out what a flow yields.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """A body that is sent piece by piece. It can be sent again: `opened` returns it from its start."""

    opened: Callable[[], BinaryIO]
    size: int | None
    """Bytes; None: not known."""
    closes: bool = False
    """True: what `opened` returns is closed when it was sent."""


@dataclass(frozen=True)
class Request:
    """An HTTP request, without the address of the service."""

    method: str
    path: str
    """Begins with a slash. A whole URL is one of another service: it gets no token."""
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Upload | None = None
    seconds: float = 30.0
    """The longest pause before and within the answer."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """An answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Broken:
    """There is no answer, or only a part of one."""

    reason: str
    unsent: bool = False
    """True: the service cannot have seen the request."""


class Opened(NamedTuple):
    """An answer whose body is read piece by piece."""

    answer: Answer
    """Without its body if the status is below 400."""
    handle: object


# What a flow may yield, and what it is sent


@dataclass(frozen=True)
class Exchange:
    """Send a request. Gets an Answer or Broken."""

    request: Request
    shielded: bool = False
    """True: also while the caller is being cancelled."""


@dataclass(frozen=True)
class Open:
    """Send a request and leave its answer open. Gets Opened or Broken."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Read from an open answer. Gets bytes, None at its end, or Broken."""

    handle: object


@dataclass(frozen=True)
class Close:
    """Close an open answer. Gets None. What is still open at the end of a flow is closed by the driver."""

    handle: object


@dataclass(frozen=True)
class Pause:
    """Wait. Gets None."""

    seconds: float


@dataclass(frozen=True)
class Call:
    """Call a function of the user's, which may be asynchronous. Gets what it returns."""

    function: Callable[[], Any | Awaitable[Any]]


@dataclass(frozen=True)
class Emit:
    """Hand an item to the user who iterates. Gets None."""

    item: Any


Effect = Exchange | Open | Read | Close | Pause | Call | Emit
Flow = Generator[Effect, Any, T]
