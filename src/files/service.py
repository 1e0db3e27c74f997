"""The one way in for files: check, store the bytes part by part, append, count; find, list, read, delete.

The bytes are on disk before the event that names them. So a crash in between leaves bytes without an event, which are
swept, and never an event without its bytes. A deletion is the other way round: the event, then the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import structlog
from msgspec import Struct, field

from ..clock import random_bits, unique_id, utc_now
from ..commands.commands import Commands
from ..commands.file import CreateFile, DeleteFile, FilePresent, FileState, is_same
from ..commands.handler import Known
from ..errors import (
    FileInUse,
    FileTooLarge,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    StoreError,
    TooManyReads,
    TooManyUploads,
    UploadTooSlow,
)
from ..events.envelope import Actor
from ..events.file import FileCreated, FileEnd
from ..events.ids import FileRef, TaskRef, file_for_key, new_file_ref, owner_token, parse_schedule_id, parse_task_id
from ..events.kinds import OVER_WORDS, word_of
from ..events.schedule import ScheduleDeleted
from ..events.subjects import history_filter, schedule_root, task_root, task_word
from ..instants import iso
from ..projections.files import FilePage, list_files, references
from ..projections.usage import MESSAGE_BYTES, OF_FILES, CountedLog
from ..settings import Settings
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import last_position
from ..streams.objects import Objects, PutObject
from ..streams.topology.definitions import SCHEDULES, TASKS
from ..streams.turns import Turns
from ..vault.file_links import FileLinks

log = structlog.get_logger(__name__)

ANY_BYTES = "application/octet-stream"
UPLOADS_AT_ONCE = 128
"""Uploads of a process. Each holds a part (128 KiB) and what the HTTP server has read ahead."""
UPLOADS_OF_ONE_USER = 16
MOST_WAITING = 64
PATIENCE_SECONDS = 10.0
"""How long an upload may wait to begin."""
LONGEST_UPLOAD_SECONDS = 2 * 3600.0
"""How long an upload may take. Bytes that no file names are swept only when they are older than that."""
LONGEST_NAME = 255
LONGEST_TYPE = 255
MOST_METADATA = 32
LONGEST_METADATA = 512
LONGEST_PURPOSE = 64
LONGEST_SUBMISSION = timedelta(minutes=2)
"""How long after its reference a task may be submitted. A submission gives up after seconds."""
MOST_NAMED = 5
"""Tasks that the refusal of a deletion names."""
RACES = 5
"""How often a deletion is decided again because tasks referred to the file meanwhile."""

_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(?:\s*;[ -~]*)?", re.ASCII)
"""A media type, perhaps with parameters (RFC 6838, 4.2; RFC 9110, 8.3.1)."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that reverse the direction of text: a name must read as it is."""
_PURPOSE = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class FileDetails(Struct, frozen=True, kw_only=True):
    """What is said of a file beside its bytes."""

    name: str = ""
    media_type: str = ANY_BYTES
    purpose: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    sha256: str = ""
    """Hex. The bytes must have this digest; empty: any."""


class MadeBy(NamedTuple):
    """The attempt that stored a file."""

    task: str = ""
    """Id of its task; empty: no attempt stored it."""
    attempt: int = 0


class StoredUpload(NamedTuple):
    """The outcome of an upload."""

    ref: FileRef
    file: FilePresent
    is_new: bool
    """False if an earlier request with the same Idempotency-Key stored it."""


class Reserved(Protocol):
    """Bytes of an owner that count as stored while they are being stored."""

    def __enter__(self) -> Reserved: ...

    def __exit__(self, *_: object) -> None: ...

    def grow(self, size_bytes: int) -> None: ...


class StoredBytesQuota(Protocol):
    """The quota of stored bytes of each owner."""

    def in_flight(self, owner: str, size_bytes: int) -> Reserved: ...

    def record(self, owner: str, sequence: int, size_bytes: int, of: CountedLog) -> None: ...


class ByteChecks(Protocol):
    """Whether bytes of new work may be stored."""

    @property
    def stored(self) -> StoredBytesQuota: ...

    async def check_bytes(self, owner: str, size_bytes: int) -> None: ...


class FileService:
    """The files of all owners."""

    def __init__(
        self,
        settings: Settings,
        commands: Commands,
        reading: Connection,
        objects: Objects,
        checks: ByteChecks,
        links: FileLinks,
    ) -> None:
        self.links = links
        self.objects = objects
        self.most_bytes = settings.max_file
        self._commands = commands
        self._reading = reading
        self._checks = checks
        self.uploads = Turns(UPLOADS_AT_ONCE, UPLOADS_OF_ONE_USER, MOST_WAITING)

    async def create(
        self,
        owner: str,
        content: AsyncIterator[bytes],
        details: FileDetails | Callable[[], FileDetails],
        *,
        by: Actor,
        cause: str = "",
        most_bytes: int | None = None,
        size_bytes: int | None = None,
        idempotency_key: str | None = None,
        made_by: MadeBy | None = None,
        ref: FileRef | None = None,
    ) -> StoredUpload:
        """Store a file of an owner (the `sub` of their token) from a stream of bytes, one part of which is in memory.

        `details`: may be a function, called when the stream has ended: a form may say them after the bytes.
        `most_bytes`: a limit below that of all files. `size_bytes`: the size if it is known before, to refuse at once.
        `ref`: a new key of the owner, for one who must find the file again; default: a new one, or that of the key.

        Raises InvalidInput, FileTooLarge, UploadTooSlow, StoredTooMuch, StoreReserved, TooManyUploads,
        IdempotencyConflict, and what `content` raises: nothing is stored. Raises StoreError as `Handler.handle` does.
        """
        token = owner_token(owner)
        most = min(most_bytes or self.most_bytes, self.most_bytes)
        if size_bytes is not None and size_bytes > most:
            raise FileTooLarge(most)
        if isinstance(details, FileDetails):
            check_details(details, utc_now())

        def made(put: PutObject, object_name: str) -> FileCreated:
            given = details if isinstance(details, FileDetails) else details()
            return _created(owner, given, put, object_name, made_by or MadeBy())

        async with self._turn(token):
            if idempotency_key is None:
                ref = ref or new_file_ref(token, utc_now(), random_bits(80))
            else:
                ref = file_for_key(token, idempotency_key)
                earlier = (await self._commands.files.load(ref)).state
                if isinstance(earlier, FilePresent):
                    if not is_same(made(await _digested(content, most), ""), earlier.created):
                        raise IdempotencyConflict
                    return StoredUpload(ref, earlier, is_new=False)
            object_name = f"{ref.owner}.{ref.unique}.{unique_id()}"
            await self._checks.check_bytes(token, (size_bytes or 0) + MESSAGE_BYTES)
            with self._checks.stored.in_flight(token, size_bytes or 0) as reserved:
                put = await self._put(object_name, token, content, most, size_bytes or 0, reserved)
                try:
                    command = CreateFile(created=made(put, object_name), repeatable=idempotency_key is not None)
                    handled = await self._commands.files.handle(ref, command, by=by, cause=cause)
                except OutcomeUnknown:
                    raise  # the event may be stored, and name the object
                except BaseException:
                    await asyncio.shield(self._discard(object_name))
                    raise
            state = _present(handled.known.state, ref)
            if handled.appended:
                self._checks.stored.record(token, handled.known.sequence, put.size_bytes, OF_FILES)
            elif state.created.object_name != object_name:
                await self._discard(object_name)
            return StoredUpload(ref, state, is_new=bool(handled.appended))

    async def _put(
        self, object_name: str, owner: str, content: AsyncIterator[bytes], most: int, counted: int, reserved: Reserved
    ) -> PutObject:
        """Store the bytes; check limit, quota and space as they come. `counted`: bytes that are counted already."""

        async def check(size: int) -> None:
            nonlocal counted
            if size > most:
                raise FileTooLarge(most)
            if (more := size - counted) > 0:
                await self._checks.check_bytes(owner, more)
                reserved.grow(more)
                counted = size

        return await self.objects.put_stream(object_name, content, check)

    @contextlib.asynccontextmanager
    async def _turn(self, owner: str) -> AsyncIterator[None]:
        try:
            await self.uploads.take(owner, PATIENCE_SECONDS)
        except TooManyReads:
            raise TooManyUploads from None
        try:
            async with asyncio.timeout(LONGEST_UPLOAD_SECONDS) as limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise UploadTooSlow(int(LONGEST_UPLOAD_SECONDS)) from None
            raise
        finally:
            self.uploads.give_back(owner)

    async def find(self, ref: FileRef) -> FilePresent:
        """Return a file. Raises NotFound if there is none, or it was deleted; StoreError."""
        return _present((await self._commands.files.load(ref)).state, ref)

    async def list(
        self, owner: str | None, before: int | None = None, limit: int = 50, purpose: str | None = None
    ) -> FilePage:
        """Return a page of the files of an owner token, newest first; of everybody for None. Raises StoreError."""
        return await list_files(self._reading, owner, limit, before, purpose)

    def opened(
        self, file: FilePresent, user: str, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Return a context manager of a file's bytes, in parts. `Objects.opened` says what it raises."""
        return self.objects.opened(file.created.object_name, user, start, end)

    async def delete(self, ref: FileRef, *, by: Actor, cause: str = "", reason: FileEnd = "requested") -> FilePresent:
        """Delete a file, and return what it was.

        Raises NotFound; FileInUse if tasks that have not ended refer to it, with their ids; StoreError.
        """
        for _ in range(RACES):
            known = await self._commands.files.load(ref)
            state = _present(known.state, ref)
            if unfinished := await self.unfinished(ref):
                raise FileInUse(_in_use(unfinished))
            try:
                await self.delete_as_seen(ref, known, reason=reason, by=by, cause=cause)
            except FileInUse:
                continue
            return state
        raise FileInUse("tasks keep being submitted that refer to this file; stop them, and try again")

    async def delete_as_seen(
        self, ref: FileRef, known: Known[FileState], *, reason: FileEnd, by: Actor, cause: str = ""
    ) -> None:
        """Delete a file unless a task has referred to it since it was loaded. Raises FileInUse then, and StoreError."""
        state = _present(known.state, ref)
        command = DeleteFile(reason=reason, last_reference=state.last_reference)
        await self._commands.files.handle(ref, command, by=by, cause=cause, known=known)
        await self._discard(state.created.object_name)

    async def unfinished(self, ref: FileRef) -> Sequence[str]:
        """Return ids of tasks that refer to a file and have not ended, and of schedules; MOST_NAMED + 1 at most.

        Raises StoreError.
        """
        found: list[str] = []
        created = await self._commands.files.load(ref)
        if isinstance(created.state, FilePresent) and (task := created.state.created.task):
            found += await self._that_have_not_ended((task,))
        now = utc_now()
        async for reference in references(self._reading, ref):
            is_new = reference.at + LONGEST_SUBMISSION > now
            found += await self._that_have_not_ended(reference.event.tasks, is_new=is_new)
            schedule = reference.event.schedule
            if schedule and (is_new or await self.has_schedule(schedule)):
                found.append(schedule)
            if len(found) > MOST_NAMED:
                break
        return list(dict.fromkeys(found))[: MOST_NAMED + 1]

    async def _that_have_not_ended(self, tasks: Sequence[str], *, is_new: bool = False) -> Sequence[str]:
        """Return those that have not ended. `is_new`: one that is not in the log may be about to be submitted."""
        found = []
        for task_id in tasks:
            word = await self.last_word(parse_task_id(task_id))
            if is_new if word is None else word not in OVER_WORDS:
                found.append(task_id)
                if len(found) > MOST_NAMED:
                    break
        return found

    async def last_word(self, ref: TaskRef) -> str | None:
        """Return the kind of the last event of a task, None if it has none: not submitted, or past its retention."""
        last = await last_position(self._reading, TASKS, history_filter(task_root(ref)))
        return task_word(last.subject) if last is not None else None

    async def has_schedule(self, schedule_id: str) -> bool:
        """Return True unless a schedule was deleted, or never made."""
        root = schedule_root(parse_schedule_id(schedule_id))
        last = await last_position(self._reading, SCHEDULES, history_filter(root))
        return last is not None and not last.subject.endswith(f".{word_of(ScheduleDeleted)}")

    async def _discard(self, object_name: str) -> None:
        """Delete bytes that no file names. What NATS does not delete now is swept."""
        try:
            await self.objects.delete(object_name)
        except StoreError as error:
            log.debug("file.bytes-left", object=object_name, reason=str(error))


def _created(owner: str, details: FileDetails, put: PutObject, object_name: str, made_by: MadeBy) -> FileCreated:
    """Return the event of a file whose bytes are stored. Raises InvalidInput."""
    check_details(details, utc_now())
    if details.sha256 not in ("", put.sha256):
        raise InvalidInput(f"the bytes that came have the SHA-256 {put.sha256}; send the file again", "sha256")
    return FileCreated(
        owner=owner,
        name=details.name,
        media_type=details.media_type,
        size_bytes=put.size_bytes,
        sha256=put.sha256,
        object_name=object_name,
        purpose=details.purpose,
        metadata=dict(details.metadata),
        expires_at=details.expires_at,
        task=made_by.task,
        attempt=made_by.attempt,
    )


def check_details(details: FileDetails, now: datetime) -> None:
    """Raise InvalidInput for a name, a type or other details that no file may have."""
    name, media_type = details.name, details.media_type
    if len(name.encode(errors="replace")) > LONGEST_NAME or _UNPRINTABLE.search(name) or not _is_unicode(name):
        raise InvalidInput(f"must be at most {LONGEST_NAME} bytes of text without control characters", "name")
    if "/" in name or "\\" in name or name in (".", ".."):
        raise InvalidInput("must be the name of a file, without folders", "name")
    if len(media_type) > LONGEST_TYPE or not _TYPE.fullmatch(media_type):
        raise InvalidInput("must be a media type, as in `image/png`", "type")
    if len(details.purpose) > LONGEST_PURPOSE or not _PURPOSE.fullmatch(details.purpose):
        raise InvalidInput(f"must be at most {LONGEST_PURPOSE} letters, digits, dashes and underscores", "purpose")
    if len(details.metadata) > MOST_METADATA or any(
        len(key) > LONGEST_PURPOSE or len(value) > LONGEST_METADATA for key, value in details.metadata.items()
    ):
        raise InvalidInput(
            f"must be at most {MOST_METADATA} texts of {LONGEST_METADATA} characters, with names of {LONGEST_PURPOSE}",
            "metadata",
        )
    if details.expires_at is not None and details.expires_at <= now:
        raise InvalidInput(f"must be later than now ({iso(now)})", "expiresAt")
    if details.sha256 and not _SHA256.fullmatch(details.sha256):
        raise InvalidInput("must be 64 hexadecimal digits in lower case", "sha256")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _present(state: FileState, ref: FileRef) -> FilePresent:
    if not isinstance(state, FilePresent):
        raise NotFound("file", ref.id)
    return state


def _in_use(tasks: Sequence[str]) -> str:
    more = " and more" if len(tasks) > MOST_NAMED else ""
    return (
        f"tasks that have not ended, or schedules, refer to this file: {', '.join(tasks[:MOST_NAMED])}{more}; "
        "cancel or delete them, or wait until they have ended"
    )


async def _digested(content: AsyncIterator[bytes], most: int) -> PutObject:
    """Return the size and the SHA-256 of a stream of bytes, which are dropped. Raises FileTooLarge."""
    size, digest = 0, hashlib.sha256()
    async for chunk in content:
        size += len(chunk)
        if size > most:
            raise FileTooLarge(most)
        digest.update(chunk)
    return PutObject(size, digest.hexdigest())
