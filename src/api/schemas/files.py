"""Files as clients see them. Times are ISO 8601."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...commands.file import FilePresent
from ...events.ids import FileRef
from ...instants import iso
from .shared import Page

LONGEST_LINK_SECONDS = 7 * 86_400
LinkSeconds = Annotated[float, Meta(ge=1, le=LONGEST_LINK_SECONDS, extra={"unit": "seconds"})]


class FileSummary(Struct, kw_only=True, rename="camel"):
    """A file."""

    id: str
    name: str
    """Empty: it has none."""
    media_type: str
    bytes: int
    sha256: str
    """Of its bytes, hex."""
    purpose: str
    """Empty: not said."""
    metadata: dict[str, str]
    owner: str
    """The `sub` of its owner."""
    task_id: str | None
    """The task whose attempt stored it; null: none."""
    created_at: str
    expires_at: str | None
    """It is deleted after this instant. Null: the retention of files decides, and the tasks that refer to it."""
    url: str
    """Of its bytes; it needs a token of the API."""


class FilesPage(Page, kw_only=True, rename="camel"):
    """Files, newest first."""

    files: list[FileSummary]


class FileLinkBody(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """How long a link is valid."""

    expires_in: LinkSeconds = 3600
    """Seconds, at most a week. The link ends earlier if the file is deleted."""


class FileLink(Struct, kw_only=True, rename="camel"):
    """A signed link: whoever has it may read the file, without any header."""

    url: str
    expires_at: str


def file_summary(ref: FileRef, file: FilePresent, url: str) -> FileSummary:
    """Return a file as clients see it."""
    created = file.created
    return FileSummary(
        id=ref.id,
        name=created.name,
        media_type=created.media_type,
        bytes=created.size_bytes,
        sha256=created.sha256,
        purpose=created.purpose,
        metadata=created.metadata,
        owner=created.owner,
        task_id=created.task or None,
        created_at=iso(file.created_at),
        expires_at=iso(created.expires_at) if created.expires_at is not None else None,
        url=url,
    )
