"""The events of a file: bytes in the object store that tasks may refer to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import field

from .envelope import Event

FileEnd = Literal[
    "requested",  # its owner, or an admin, deleted it
    "expired",  # its own `expiresAt` has passed
    "age",  # it was older than the retention of files
    "tasks",  # the last task that referred to it is gone
]
"""Why a file was deleted."""


class FileCreated(Event, frozen=True, kw_only=True):
    """A file was stored. Its bytes were on disk before this event."""

    owner: str
    """Subject of the JWT, unchanged."""
    name: str
    """Without directories; empty: it has none."""
    media_type: str
    size_bytes: int
    sha256: str
    """Of its bytes, hex."""
    object_name: str
    """Of its bytes in the object store."""
    purpose: str = ""
    """What it is for, such as `batch`; empty: not said."""
    metadata: dict[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    """UTC. It is deleted after this instant, and kept until then; None: the retention of files decides."""
    task: str = ""
    """Id of the task whose attempt stored it; empty: none. It is deleted with that task."""
    attempt: int = 0
    """Number of that attempt."""


class FileReferenced(Event, frozen=True, kw_only=True):
    """Tasks are about to be submitted that refer to the file: it must not be deleted while one of them may run."""

    tasks: tuple[str, ...]
    """Their ids: of one task, or of those of one batch; none: a schedule refers to it."""
    schedule: str = ""
    """Id of the schedule whose runs refer to it; empty: none."""


class FileDeleted(Event, frozen=True, kw_only=True):
    """The file was deleted. Nothing follows."""

    reason: FileEnd
    size_bytes: int
    """Of the file: no longer counted towards the quota of its owner."""


FileEvent: TypeAlias = FileCreated | FileReferenced | FileDeleted
