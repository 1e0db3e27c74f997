"""The seam between the transport and the wire formats of backend servers.

A dialect holds one conversation per attempt: it builds requests and reads replies. It does no I/O and reads no clock.
The transport (`backends.exchanges`) sends, pauses, limits sizes and time, lets no request go to another origin, splits
a streamed answer into texts, and removes the keys from everything before a dialect reads it.
"""

from __future__ import annotations

import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, NamedTuple, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

from ...commands.task_commands import Reporter, ReportProgress
from ...events.envelope import NULL
from ...events.server import ServerRegistered
from ...events.stream_parts import StreamParts
from ...events.task import CancelOutcome, ErrorAnswer, FacadeRequest, FailureKind, ModelChoice
from ...events.task_type import Accepts
from ...wire.trace import Trace

NO_TRACE = Trace()


class ParentResult(Struct, frozen=True, kw_only=True):
    """A task that another depends on, as the other's server receives it."""

    task_id: str
    status: str
    """A task's status, or GONE: its history is past its retention."""
    result: Any = NULL
    """Its TaskResult, JSON; null if it has none; a large one as `{"$ref": URL, "bytes": n}`."""
    error: str | None = None
    file: dict[str, Any] | UnsetType = UNSET
    """The file that the result is: `{"$ref": URL, "mediaType": …, "bytes": n}`."""
    files: list[dict[str, Any]] | UnsetType = UNSET
    """The files in the result, in their order."""


class Call(Struct, frozen=True, kw_only=True):
    """One attempt: what a server needs to know of it."""

    task_id: str
    task_type: str
    attempt: int
    payload: Raw
    deadline: datetime
    callback_url: str
    callback_token: str
    api_key: str | None = None
    """The server's own."""
    model: ModelChoice | None = None
    model_key: str | None = None
    parents: list[ParentResult] | None = None
    accepts: Accepts = "any"
    """What the task's type accepts as an answer."""
    facade: FacadeRequest | None = None
    """The request of another service's API that the task is; None: it is none."""
    trace: Trace = NO_TRACE
    """The request that submitted the task."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The secrets that the server receives, and may echo."""
        return tuple(filter(None, (self.api_key, self.model_key)))

    def __repr__(self) -> str:
        return f"Call({self.task_id}, attempt {self.attempt})"  # without its secrets


def attempt_id(task_id: str, attempt: int) -> str:
    """Return the id of an attempt for servers, a UUID: always the same, of this attempt alone, without the owner."""
    digest = hashlib.sha256(f"attempt:{task_id}.{attempt}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


class Request(Struct, frozen=True, kw_only=True):
    """A request to a server."""

    method: str
    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    within: timedelta | None = None
    """How long its answer may take, until it counts as lost; None: as long as the attempt."""


class Reply(Struct, frozen=True, kw_only=True):
    """A whole answer to a request."""

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    body: bytes
    retry_after: timedelta | None = None
    """Read from the header, a date made a pause."""
    elapsed_ms: int = 0
    """Milliseconds since the attempt's first request was sent."""


class File(Struct, frozen=True):
    """The bytes of an answer that is neither JSON nor text."""

    media_type: str
    content: bytes


class Completed(Struct, frozen=True):
    """The task succeeded; `result` is a TaskResult, JSON."""

    result: bytes
    notes: tuple[str, ...] = ()
    """What of the answer was left out, clamped or shortened."""
    file: File | None = None
    """The file that the data of `result` is."""
    files: tuple[File, ...] = ()
    """Files in the data of `result`, each a `{"$ref", "mediaType", "bytes"}` with its place here, from 0."""


class FailedByBackend(Struct, frozen=True):
    """The server did the work and reports that the task failed; `result` is a TaskResult, JSON."""

    result: bytes
    error: str
    notes: tuple[str, ...] = ()


class Accepted(Struct, frozen=True):
    """The server will report by callback; or a puller has the attempt."""

    backend_task_id: str | None
    lease: timedelta | None = None
    """How often the puller must renew the attempt; None: it was not pulled."""


class Failed(Struct, frozen=True, kw_only=True):
    """The attempt came to nothing."""

    kind: FailureKind
    error: str
    retry_after: timedelta | None = None
    is_neutral: bool = False
    """It says nothing about the server: it is about this request, or about this service."""
    is_unreached: bool = False
    """The server got nothing of the task, so no payload can be the cause."""
    answer: ErrorAnswer | None = None
    """What the server answered, if a client gets it as it is."""


class Busy(Struct, frozen=True, kw_only=True):
    """The server is healthy and takes no task now. The attempt does not count; another server may take the task."""

    error: str
    retry_after: timedelta | None = None
    """How long the server asks to be left alone; None: it does not say."""


class Unsent(Struct, frozen=True, kw_only=True):
    """The request was not sent because of an error of this process. It counts against neither task nor server."""

    error: str


Ending: TypeAlias = Completed | FailedByBackend
"""The server's own verdict: it ends the task."""
Answer: TypeAlias = Ending | Accepted | Busy | Unsent | Failed


class Update(Struct, frozen=True, kw_only=True):
    """Progress of an attempt."""

    progress: float | None = None
    """Percent, 0 to 100."""
    message: str | None = None
    custom_data: Raw = NULL
    lines: tuple[str, ...] = ()
    """Of the server's log."""
    output: str = ""
    """What the task has produced since the last update, as text."""
    notes: tuple[str, ...] = ()
    """What of the update was left out, clamped or shortened."""
    data: Raw = NULL
    """The result as far as it is known."""
    parts: StreamParts | None = None
    """Parts of the answer as they came, for clients that get them as they are."""

    def command(self, reporter: Reporter) -> ReportProgress:
        """Return the command that records this update."""
        return ReportProgress(
            reporter=reporter,
            progress=self.progress,
            message=self.message,
            custom_data=self.custom_data,
            lines=self.lines,
            output=self.output,
            notes=self.notes,
            parts=self.parts,
        )


class Probe(NamedTuple):
    """What a health check found."""

    well: bool
    reason: str
    latency_ms: float | None = None
    timed_out: bool = False
    is_ours: bool = False
    """True: this process could not make the check, which says nothing about the server."""


class Next(Struct, frozen=True, kw_only=True):
    """A further request of the same attempt."""

    request: Request
    after: timedelta = timedelta(0)
    """Pause before it is sent. Without one, only the first few requests of an attempt are sent at once."""
    update: Update | None = None
    """Progress to report first."""


class Final(Struct, frozen=True, kw_only=True):
    """An answer that comes with a last update: log lines, output."""

    update: Update
    answer: Answer


Turn: TypeAlias = Answer | Next | Final


class BadAnswer(Exception):
    """An answer cannot be read; the message completes "the answer …", or "part 2 of the streamed answer …"."""


class StreamReader(ABC):
    """Reads one streamed answer, text by text: the data of a server-sent event, or a line."""

    @abstractmethod
    def read(self, text: bytes, elapsed_ms: int, event: str) -> Update | Answer | Final | None:
        """Return what a text says. An answer ends the attempt: nothing after it is read. Raises BadAnswer.

        `event`: the name of the server-sent event; empty if it has none. Keys are not removed from it.
        """

    @abstractmethod
    def end(self) -> Turn:
        """Return what follows if the server ended the stream without an answer."""


class Conversation(ABC):
    """One attempt at one server, from the first request to the answer.

    Keeps what it learns from one reply for the next request. All replies are hostile until they are understood: what
    cannot be understood is never a Completed.
    """

    @property
    def mark(self) -> str:
        """Return a text of the attempt's own that its requests have, and answers to nothing else; empty: the task's id.

        An answer with it is known to be the attempt's, so that its connection may serve other requests.
        """
        return ""

    @abstractmethod
    def begin(self) -> Request | Failed:
        """Return the first request; a Failed for a payload that cannot be sent."""

    def open_stream(self, status: int, headers: Mapping[str, str]) -> StreamReader | None:  # noqa: ARG002
        """Return a reader for an answer whose media type is a stream's; None to have it read whole."""
        return None

    @abstractmethod
    def read(self, reply: Reply) -> Turn:
        """Return what follows a whole answer. Never raises: a reply that makes no sense is a Failed.

        A status for which `Dialect.means_busy` is true is a Busy.
        """

    def lost(self, failure: Failed) -> Turn:
        """Return what follows a request that could not be sent, or whose answer was cut: the failure, or a Next."""
        return failure

    @property
    def awaits_report(self) -> bool:
        """Return True if only a report by callback can end the attempt well: then the call ends with the report."""
        return False

    def cancel(self) -> Request | None:
        """Return the request that stops the attempt; None if closing the connection is all that can be done.

        The connection is closed first either way. Also called after an attempt ran out of time.
        """
        return None

    def read_cancel(self, reply: Reply | None) -> CancelOutcome | Next:
        """Return what came of the cancellation, or a request that finds it out.

        `reply`: the answer to the last request; None: `cancel` returned none. Never raises. A request without an answer
        is `unconfirmed`, without a call of this.
        """
        return "requested" if reply is None or 200 <= reply.status < 300 else "unconfirmed"


def auth_headers(server: ServerRegistered, api_key: str | None) -> dict[str, str]:
    """Return the header that carries a server's API key; none without a key."""
    if not api_key:
        return {}
    return {server.auth_header: api_key} if server.auth_header else {"Authorization": f"Bearer {api_key}"}


MOST_MODELS_BYTES = 1024 * 1024
"""Bytes of a list of models. A proxy may list thousands."""


class Dialect(ABC):
    """One wire format."""

    name: ClassVar[str]
    busy_status: ClassVar[frozenset[int]]
    """Statuses of answers that mean that a server is busy, unless its registration names others."""

    @abstractmethod
    def converse(self, server: ServerRegistered, call: Call) -> Conversation:
        """Return the conversation of one attempt."""

    def means_busy(self, server: ServerRegistered, status: int) -> bool:
        """Return True if a status means that the server is busy."""
        return status in (self.busy_status if server.busy_status is None else server.busy_status)

    def health(self, server: ServerRegistered, api_key: str | None = None) -> Request | None:
        """Return the request that checks a server's health; None if it has no address for it: then heartbeats count.

        A dialect may know an address where the registration names none. `api_key`: the server's own, if its check
        carries it.
        """
        if server.health_url is None:
            return None
        return Request(method="GET", url=server.health_url, headers=auth_headers(server, api_key))

    def health_needs_key(self, server: ServerRegistered) -> bool:
        """Return True if the health check carries the server's API key."""
        return server.health_auth

    def list_models(self, server: ServerRegistered, api_key: str | None) -> Request | None:  # noqa: ARG002
        """Return the request for the models that a server serves; None if the dialect has none."""
        return None

    def read_models(self, status: int, body: bytes) -> list[str] | None:  # noqa: ARG002
        """Return the names in the answer, of at most MOST_MODELS_BYTES; None if it is no list of models."""
        return None

    @property
    def most_health_bytes(self) -> int:
        """Return how many bytes of a health answer `read_health` needs; 0: none are waited for."""
        return 0

    def read_health(self, status: int, body: bytes) -> Probe:  # noqa: ARG002
        """Return what a health answer means: any 2xx is healthy."""
        return Probe(200 <= status < 300, f"health check answered {status}")

    def read_health_of(self, server: ServerRegistered, status: int, body: bytes) -> Probe:  # noqa: ARG002
        """Return the same, where it depends on the server."""
        return self.read_health(status, body)
