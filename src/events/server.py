"""The events of a backend server."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from msgspec import Struct, field

from .envelope import Event
from .exchange import BareExchange

MOST_MODELS = 1_000
"""Names of models that are kept of one server, the first in order. Together, they have at most MODELS_BYTES."""
MODELS_BYTES = 16 * 1024
LONGEST_MODEL = 256
"""Characters of a model's name. A longer one is left out, and a task that names it names none."""


class Overflow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The bounds of an overflow server: it takes tasks once either is exceeded. At least one is set."""

    waiting: int | None = None
    """Number of tasks that wait in its pools."""
    oldest: timedelta | None = None
    """How long a task has waited there."""


Mode: TypeAlias = Literal["push", "pull"]

Scalar: TypeAlias = str | int | float | bool | None


class HealthExpectation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the answer to a health check must have. At least one is set."""

    status: tuple[int, ...] = ()
    """One of these statuses; empty: any 2xx."""
    json: dict[str, Scalar] = field(default_factory=dict)
    """Values in its JSON body, by path: `{"$.model.loaded": true}`."""


class ServerRegistered(Event, frozen=True, kw_only=True):
    """A server was registered, or registered again with other settings."""

    server_id: str
    name: str
    provider: str
    predict_url: str
    """Empty for a pulled server: it has no address."""
    health_url: str | None = None
    is_async: bool = False
    """It may answer 202 and report later."""
    callback: bool = False
    """It reports by PUT to the callback URL."""
    types: tuple[str, ...] = ()
    """Task types it serves; empty: all."""
    max_concurrent: int = 10
    weight: int = 1
    api_key_id: str = ""
    """Name of its API key, which is sealed in the `secrets` bucket and never here; empty: none."""
    labels: dict[str, str] = field(default_factory=dict)
    overflow: Overflow | None = None
    """None: it takes tasks whenever it has a free slot."""
    busy_status: tuple[int, ...] | None = None
    """Statuses of answers that mean that it is busy; None: those of its dialect."""
    auth_header: str = ""
    """Header that carries its API key as it is; empty: `Authorization`, as a bearer token."""
    health_auth: bool = False
    """Its health check carries its API key."""
    health_expect: HealthExpectation | None = None
    """None: any 2xx is healthy."""
    remove_after: timedelta | None = None
    """Time offline after which it is removed; None: as the service's setting says."""
    is_permanent: bool = False
    """It is never removed for being offline."""
    dialect: str = ""
    """Name of the wire format it speaks; empty: that of the task's type, else `taskstream`."""
    mode: Mode = "push"
    """`push`: its tasks are sent to it. `pull`: its pullers ask for them."""
    exchange: BareExchange | None = None
    """Of the dialect `bare`; None: the payload is the body, and the answer the result."""
    preset: str = ""
    """Name of the preset that it was registered with, which is expanded here; empty: none."""
    model: str = ""
    """Name of its model there, for a dialect whose addresses have it (`oip`); empty: its URL names it."""
    models: tuple[str, ...] | None = None
    """Names of the models it serves: of the tasks whose payload names a model, it gets those of these. None: it is not
    chosen by model, or `finds_models`."""
    finds_models: bool = False
    """The server is asked for its models, with each health check."""

    @property
    def is_chosen_by_model(self) -> bool:
        """Return True if it gets only tasks of its models, and those that name none."""
        return self.finds_models or self.models is not None

    @property
    def reports_later(self) -> bool:
        """Return True if it may report by callback, or is pulled: the outcome comes by a request of its own."""
        return self.is_async or self.callback or self.is_pulled

    @property
    def is_pulled(self) -> bool:
        """Return True if its pullers ask for tasks."""
        return self.mode == "pull"


class DetectionEvidence(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One probe of a detection."""

    path: str
    """Below the server's base address."""
    status: int = 0
    """Of the answer; 0: there was none."""
    sign: str = ""
    """What the answer had; empty: nothing that is known."""


class DialectDetected(Event, frozen=True, kw_only=True):
    """A server that is registered with the dialect `auto` was found to speak a dialect, which applies from now on."""

    server_id: str
    predict_url: str
    """The address that was probed; a registration with another one needs another detection."""
    dialect: str
    preset: str = ""
    """Name of the preset that fits its program; empty: none."""
    program: str = ""
    """Its program, as it says."""
    exchange: BareExchange | None = None
    """Of that preset; it applies as if it were registered."""
    evidence: tuple[DetectionEvidence, ...] = ()
    """What was asked, in order, and what the answers had."""


class ServerWentOnline(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str


class ServerWentOffline(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str


class MaintenanceStarted(Event, frozen=True, kw_only=True):
    """The server finishes its tasks and gets no new ones."""

    server_id: str
    reason: str = ""


class MaintenanceEnded(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str = ""


class CircuitOpened(Event, frozen=True, kw_only=True):
    """Attempts failed repeatedly: nothing is sent to the server before `until`."""

    server_id: str
    reason: str
    until: datetime
    """UTC."""
    failures: int
    """Consecutive openings. The cool-down doubles with each."""
    owner: str = ""
    """Token of the only owner whose tasks failed: a task of another one may probe the server at once. Empty: there are
    several, or no task can be the cause."""


class CircuitHalfOpened(Event, frozen=True, kw_only=True):
    """One attempt may probe whether the server has recovered."""

    server_id: str


class CircuitClosed(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str


class ServerStatusReasonChanged(Event, frozen=True, kw_only=True):
    """The server stays online or offline, for another reason."""

    server_id: str
    reason: str


class ModelsFound(Event, frozen=True, kw_only=True):
    """The server said which models it serves, and they are others than before."""

    server_id: str
    models: tuple[str, ...]
    """Their names, sorted."""


class ServerRemoved(Event, frozen=True, kw_only=True):
    server_id: str
    reason: str
    is_kept: bool = False
    """It was removed for being offline: its registration and API key are kept, and it is restored when it answers a
    health check or sends a heartbeat. False: its API key is destroyed, and only an admin can restore it."""


class ServerRestored(Event, frozen=True, kw_only=True):
    """A removed server is back with its registration, in maintenance if it was. It is offline until a check."""

    server_id: str
    reason: str
    api_key_id: str = ""
    """Name of its API key from now on; empty: none."""


class ServerForgotten(Event, frozen=True, kw_only=True):
    """The API key of a removed server is destroyed, and nothing checks it any more. Only an admin can restore it."""

    server_id: str
    reason: str


ServerEvent: TypeAlias = (
    ServerRegistered
    | ServerWentOnline
    | ServerWentOffline
    | MaintenanceStarted
    | MaintenanceEnded
    | CircuitOpened
    | CircuitHalfOpened
    | CircuitClosed
    | ServerStatusReasonChanged
    | ModelsFound
    | ServerRemoved
    | ServerRestored
    | ServerForgotten
    | DialectDetected
)
