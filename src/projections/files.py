"""The reader of files: pages of them for lists, and the tasks that refer to one. Read from the log itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import NamedTuple

from ..commands.file import ABSENT, FilePresent, evolve
from ..events.codec import file_codec
from ..events.file import FileReferenced
from ..events.ids import FileRef
from ..events.subjects import file_deletion_subject, file_ref, file_references_filter, files_filter
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import Position, last_sequence, pages, read_backwards, read_last
from ..streams.log import decode
from ..streams.topology.definitions import FILES


class ListedFile(NamedTuple):
    """A file that is not deleted."""

    sequence: int
    """Of its creation in the log."""
    ref: FileRef
    file: FilePresent


class FileReference(NamedTuple):
    """A reference to a file."""

    position: Position
    at: datetime
    event: FileReferenced


class FilePage(NamedTuple):
    """Files, newest first, and the sequence before which the next page starts; None after the last page."""

    files: list[ListedFile]
    before: int | None


async def list_files(
    reading: Connection, owner: str | None, limit: int, before: int | None = None, purpose: str | None = None
) -> FilePage:
    """Return a page of the files of an owner token, of everybody for None; of one purpose, or of any.

    Raises UnreadableEvent, StoreUnavailable.
    """
    subjects = files_filter(owner, purpose)
    if before is None:
        before = await last_sequence(reading, FILES, subjects) + 1
    found: list[ListedFile] = []
    steps = read_backwards(reading, FILES, subjects, 1, before, limit)
    async for positions, _ in steps:
        for start in range(0, len(positions), limit):
            found += await _present(reading, positions[start : start + limit])
            if len(found) > limit:
                return FilePage(found[:limit], found[limit - 1].sequence)
    return FilePage(found, None)


async def _present(reading: Connection, positions: list[Position]) -> list[ListedFile]:
    """Return the files among creations that are not deleted."""
    refs = [file_ref(position.subject) for position in positions]
    deletions = await read_last(reading, FILES, [file_deletion_subject(ref) for ref in refs])
    deleted = {file_ref(position.subject) for position in deletions}
    return [
        ListedFile(position.sequence, ref, _file(position))
        for position, ref in zip(positions, refs, strict=True)
        if ref not in deleted
    ]


def _file(position: Position) -> FilePresent:
    recorded = decode(file_codec, position).recorded
    state = evolve(ABSENT, recorded)
    assert isinstance(state, FilePresent)
    return state


async def references(reading: Connection, ref: FileRef) -> AsyncIterator[FileReference]:
    """Yield the references to a file that have not been purged, oldest first."""
    async for positions in pages(reading, FILES, file_references_filter(ref)):
        for position in positions:
            recorded = decode(file_codec, position).recorded
            if isinstance(recorded.event, FileReferenced):
                yield FileReference(position, recorded.at, recorded.event)
