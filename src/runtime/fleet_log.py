"""Log lines and metrics of servers that are removed and restored, by the process that recorded it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import structlog

from . import metrics
from .metrics import labelled

log = structlog.get_logger(__name__)

Removal: TypeAlias = Literal["offline", "cleanup", "deleted"]
"""Why a server was removed, as the metric says it."""


def removed(server_id: str, kind: Removal, reason: str) -> None:
    """Report the removal of a server."""
    labelled(metrics.servers_removed, kind).inc()
    log.warning("server.removed", server=server_id, reason=reason, restored_when_it_answers=kind != "deleted")


def restored(server_id: str, reason: str) -> None:
    """Report that a removed server is back."""
    metrics.servers_restored.inc()
    log.warning("server.restored", server=server_id, reason=reason)


def forgotten(server_id: str, reason: str) -> None:
    """Report that a removed server is checked no more."""
    log.warning("server.forgotten", server=server_id, reason=reason, action="an admin can still restore it")
