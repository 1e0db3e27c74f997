"""The sweep of files: those whose end has come, references of tasks that are gone, and bytes that no file names.

A reference is younger than the submission that it was made for, which takes seconds. So one older than SAFE_AGE whose
task is not in the log is of a task that never came, or is past its retention. Bytes older than the longest upload that
no file names are of an upload that a killed process left, or of a file that was deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from ..commands.file import FilePresent
from ..container import Container
from ..errors import FileInUse, NotFound, UnreadableEvent
from ..events.codec import file_codec
from ..events.envelope import Actor
from ..events.file import FileCreated, FileDeleted, FileReferenced
from ..events.ids import FileRef, parse_task_id
from ..events.kinds import OVER_WORDS, word_of
from ..events.subjects import (
    FILE_SUBJECTS,
    file_creation_filter,
    file_deletion_subject,
    file_ref,
    file_root,
    history_filter,
)
from ..events.task import TaskDeleted
from ..files.lifetime import Standing, ending_of
from ..files.service import LONGEST_UPLOAD_SECONDS
from ..projections.files import references
from ..runtime import metrics
from ..streams.jetstream.api import api
from ..streams.jetstream.messages import Position, last_position, read
from ..streams.log import decode
from ..streams.objects import DescribedObject
from ..streams.topology.definitions import FILES

log = structlog.get_logger(__name__)

BY = Actor("system", "files")
SAFE_AGE = timedelta(hours=1)
"""Age below which a reference stays, though its task is not in the log: it may be about to be submitted."""
SAFE_BYTES_AGE = timedelta(seconds=LONGEST_UPLOAD_SECONDS) + timedelta(hours=1)
FORGOTTEN_AFTER = timedelta(days=30)
"""How long the history of a deleted file is kept."""
READ_AT_ONCE = 1_000
"""Events per run. With more, a run takes up where the last one stopped."""
LOOKED_AT = 200
"""Files, or tasks of references, that a run asks NATS about."""
OBJECTS_AT_ONCE = 100
DELETED = word_of(TaskDeleted)


class FileSweeper:
    """Walks through the log of files and their bytes, oldest first, again and again."""

    def __init__(self, container: Container) -> None:
        self._files = container.files
        self._commands = container.commands
        self._reading = container.reading
        self._retention = timedelta(seconds=container.settings.file_retention)
        self._position = 0
        """How far this walk through the log has come."""
        self._object = 0
        """The same for the bytes."""
        self._looks = 0

    async def run_once(self, now: datetime) -> Mapping[str, int]:
        """Look at the next files; return how many were deleted, and what else was removed."""
        counts: Counter[str] = Counter()
        self._looks = 0
        found = await read(self._reading, FILES, FILE_SUBJECTS, self._position + 1, READ_AT_ONCE)
        for position in found:
            try:
                await self._look_at(position, now, counts)
            except UnreadableEvent as error:
                log.warning("file-sweeper.unreadable", reason=str(error))
                counts["unreadable"] += 1
            self._position = position.sequence
            if self._looks >= LOOKED_AT:
                break
        else:
            if len(found) < READ_AT_ONCE:
                self._position = 0
        await self._sweep_bytes(now, counts)
        return counts

    async def _look_at(self, position: Position, now: datetime, counts: Counter[str]) -> None:
        recorded = decode(file_codec, position).recorded
        ref, event = file_ref(position.subject), recorded.event
        match event:
            case FileCreated():
                ends_at = event.expires_at or (recorded.at + self._retention if self._retention else None)
                is_due = ends_at is not None and ends_at <= now
                if is_due or (event.task and recorded.at + SAFE_AGE <= now):
                    await self._settle(ref, now, counts)
            case FileReferenced():
                self._looks += 1
                if recorded.at + SAFE_AGE <= now and await self._standing(event) == "gone":
                    await self._settle(ref, now, counts)
            case FileDeleted():
                if recorded.at + FORGOTTEN_AFTER <= now:
                    await self._purge(history_filter(file_root(ref)))
                    counts["files_forgotten"] += 1

    async def _settle(self, ref: FileRef, now: datetime, counts: Counter[str]) -> None:
        """Delete a file whose end has come; else remove its references of tasks that are gone."""
        self._looks += 1
        known = await self._commands.files.load(ref)
        if not isinstance(known.state, FilePresent):
            return
        created = known.state.created
        maker = await self._standing_of((created.task,)) if created.task else None
        standings: list[Standing] = []
        gone: list[Position] = []
        async for each in references(self._reading, ref):
            standing = await self._standing(each.event) if each.at + SAFE_AGE <= now else "unfinished"
            standings.append(standing)
            gone += [each.position] if standing == "gone" else []
        reason = ending_of(known.state, maker, standings, self._retention, now)
        if reason is not None:
            try:
                await self._files.delete_as_seen(ref, known, reason=reason, by=BY)
            except (FileInUse, NotFound):
                return  # it changed meanwhile: the next walk sees it
            metrics.files_swept.labels(reason).inc()
            log.info("file-sweeper.deleted", file=ref.id, reason=reason, size_bytes=created.size_bytes)
            counts["files_deleted"] += 1
            return
        for position in gone:
            await self._purge(position.subject, before=position.sequence + 1)
            counts["references_removed"] += 1

    async def _standing(self, event: FileReferenced) -> Standing:
        """Return how what refers to a file is; a schedule that was not deleted may run again."""
        if event.schedule:
            return "unfinished" if await self._files.has_schedule(event.schedule) else "gone"
        return await self._standing_of(event.tasks)

    async def _standing_of(self, tasks: tuple[str, ...]) -> Standing:
        """Return `gone` if all of these tasks are, else `unfinished` if one has not ended."""
        found: Standing = "gone"
        for task_id in tasks:
            word = await self._files.last_word(parse_task_id(task_id))
            if word is not None and word not in OVER_WORDS:
                return "unfinished"
            if word not in (None, DELETED):
                found = "ended"
        return found

    async def _purge(self, subjects: str, before: int | None = None) -> None:
        which: dict[str, object] = {"filter": subjects}
        await api(self._reading, f"STREAM.PURGE.{FILES}", which if before is None else {**which, "seq": before})

    async def _sweep_bytes(self, now: datetime, counts: Counter[str]) -> None:
        found = await self._files.objects.descriptions(self._object, OBJECTS_AT_ONCE)
        for each in found:
            if each.stored_at + SAFE_BYTES_AGE <= now and not await self._is_named(each):
                await self._files.objects.remove(each)
                log.info("file-sweeper.bytes-deleted", object=each.name, size_bytes=each.size_bytes)
                counts["file_bytes_swept"] += 1
            self._object = each.sequence
        if len(found) < OBJECTS_AT_ONCE:
            self._object = 0

    async def _is_named(self, found: DescribedObject) -> bool:
        """Return True if a file that is not deleted has these bytes; also for bytes that are not ours."""
        match found.name.split("."):
            case [owner, unique, _]:
                ref = FileRef(owner, unique)
            case _:
                return True
        created = await last_position(self._reading, FILES, file_creation_filter(ref))
        if created is None or await last_position(self._reading, FILES, file_deletion_subject(ref)) is not None:
            return False
        event = decode(file_codec, created).recorded.event
        return isinstance(event, FileCreated) and event.object_name == found.name
