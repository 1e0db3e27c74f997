"""The events of a task type."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, TypeAlias

from msgspec import Raw, Struct

from .envelope import NULL, Event
from .limits import Limits
from .task import Priority

OnConflict: TypeAlias = Literal["wait", "replace", "refuse"]
"""What happens to a new task whose concurrency key is in use: it waits, replaces waiting tasks, or is refused."""

Accepts: TypeAlias = Literal["any", "json"]
"""What a server may answer with status 2xx: JSON only, or also text, a file, or nothing."""


class SchemaSource(Struct, frozen=True, kw_only=True):
    """Where the schema of a type was taken from, once: later changes there are not followed."""

    server_id: str
    url: str
    """Of the description of the server's model."""


class TypeDefined(Event, frozen=True, kw_only=True):
    """A type was given settings, in place of earlier ones. None: the service's default."""

    name: str
    pool: str
    """Pool of its tasks. The same servers serve all types of a pool."""
    payload_schema: Raw = NULL
    """JSON Schema for the payload; null: any payload."""
    attempts: int | None = None
    backoff_base: timedelta | None = None
    backoff_cap: timedelta | None = None
    timeout: timedelta | None = None
    priority: Priority = "normal"
    description: str = ""
    limits: Limits | None = None
    """Limits of all its tasks together; None: none."""
    key_concurrency: int = 1
    """Tasks with the same concurrency key that run concurrently."""
    on_conflict: OnConflict = "wait"
    busy_for: timedelta | None = None
    """How long a task may wait for servers that are all busy."""
    accepts: Accepts = "any"
    indexed: tuple[str, ...] = ()
    """Paths of the payload that lists may be filtered by: `$.customer`."""
    session_affinity: bool = False
    """Tasks of one session go to the same server, as long as it has a free slot."""
    dialect: str = ""
    """Name of the wire format of servers that name none of their own; empty: `taskstream`."""
    schema_source: SchemaSource | None = None
    """None: an admin wrote the schema, or there is none."""
    model: str = ""
    """Name under which façades offer the type, such as `acme/flux`; empty: its own name."""


class TypeDeleted(Event, frozen=True, kw_only=True):
    name: str


class TypePaused(Event, frozen=True, kw_only=True):
    """Its tasks wait, in every pool. Running tasks continue."""

    name: str
    reason: str = ""


class TypeResumed(Event, frozen=True, kw_only=True):
    name: str
    reason: str = ""


TypeEvent: TypeAlias = TypeDefined | TypeDeleted | TypePaused | TypeResumed
