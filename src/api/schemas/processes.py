"""The processes and the settings of the service, as operators read them. Times are ISO 8601 in UTC."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...settings import SettingSource
from .shared import Page


class ApiProcess(Struct, kw_only=True, rename="camel"):
    """The process of the API that answers."""

    name: str
    """Its name in its `taskstream up`, as in `api-1`; empty if it runs alone."""
    host: str
    pid: int
    version: str
    index_lag_events: int | None
    """Events of the log that its index of tasks does not reflect; null: unknown now."""
    missing: list[str]
    """Processes of the same `taskstream up` that do not run now."""
    halted: dict[str, str]
    """Background services that have stopped for good, of all processes of this `up`, by name, each with the reason."""


class WorkerProcess(Struct, kw_only=True, rename="camel"):
    """A worker, as it announces itself."""

    id: str
    host: str | None
    """Name of its machine or container; null: unknown."""
    pid: int
    version: str | None
    """Null: a version that does not announce it."""
    started_at: str | None
    last_seen: str
    """When it last renewed its presence, by NATS' clock."""
    alive: bool
    """False: it has not for longer than `TASKSTREAM_LEASE_TTL`. Others take over its leases, and its entry goes."""
    leases: list[str]
    """The jobs that it alone does now, such as `scheduler`, `reconciler` and `projector.tasks`."""
    servers: int
    """Servers that it dispatches tasks to."""


class SchedulerInfo(Struct, kw_only=True, rename="camel"):
    """The scheduler, which releases held tasks."""

    worker: str | None
    """Id of the worker that has its lease; null: none."""
    reported_at: str | None
    """When its last report to this process was counted; null: it has had none."""


class WorkerPage(Page, kw_only=True, rename="camel"):
    """Workers, by id."""

    workers: list[WorkerProcess]
    api: ApiProcess
    scheduler: SchedulerInfo
    read_at: str
    """By NATS' clock, as `lastSeen`."""


class SettingInfo(Struct, kw_only=True):
    """A setting of the process that answers."""

    name: str
    """Its variable."""
    value: Any
    """Null: unset. A secret is `…`, and a URL has no password."""
    default: Any
    source: SettingSource
    """`environment`, `file` (named by a variable that ends in `_FILE`), `option` of the command line, or chosen by
    `taskstream up` for its processes, or the `default`."""
    secret: bool
    meaning: str


class SettingsAnswer(Struct, kw_only=True):
    """All settings of the process that answers, in the order of `taskstream settings`."""

    settings: list[SettingInfo]
    unknown: list[str]
    """Variables with the prefix `TASKSTREAM_` that are no settings: usually typing errors."""
