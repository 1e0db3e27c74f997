"""Every error of the service, in one tree.

    TaskstreamError
    ├── Refused                     the request is not allowed; nothing was written
    │   ├── InvalidInput            the request is malformed; names the path
    │   │   ├── InvalidItems        … one or more of several items sent together; names each
    │   │   └── FileMissing         … it refers to a file that does not exist, or is not the caller's
    │   ├── QuotaExceeded           the owner's quota of waiting tasks is used up
    │   │   ├── StoredTooMuch       … the owner's quota of stored bytes
    │   │   ├── RateExceeded        … the requests per second of an API key
    │   │   ├── TooManyStreams      … the caller's quota of open streams
    │   │   └── TooManyAsks         … the open requests of a server's pullers, or of all
    │   ├── FileTooLarge            the file is larger than files may be
    │   ├── UploadTooSlow           the upload took too long
    │   ├── Forbidden               the caller is known and lacks the role
    │   ├── NotFound                no such task, server or type, or none that the caller may see
    │   ├── RevisionChanged         the settings are not those that the change was made for
    │   ├── RangeNotSatisfiable     the range of bytes begins after the last one
    │   └── RuleBroken              well-formed, and not possible in the present state
    │       ├── AlreadyEnded        the task has another final state
    │       ├── AttemptNotCurrent   the report belongs to an attempt that was replaced or has ended
    │       ├── ResultExpired       the result of the report was stored too long ago to be kept
    │       ├── NotDue              the next attempt waits for its backoff
    │       ├── NotQueued           the task is held
    │       ├── NotGranted          the scheduler has not counted the task towards its limits yet
    │       ├── TimeIsUp            the task's latest start has passed
    │       ├── KeyTaken            another task has the concurrency key, and the type refuses a second one
    │       ├── NotRetryable        only failed and cancelled tasks can be retried
    │       ├── KeyDestroyed        the task needs the key it came with, which was destroyed at its end
    │       ├── ApiKeyDestroyed     the removed server needs its API key again
    │       ├── ApiKeyReplaced      another request replaced the server's API key meanwhile: seal it again
    │       ├── RetryTooLate        a retry could not start in time
    │       ├── AlreadyExists       a task with this id exists
    │       ├── FileInUse           tasks that have not ended refer to the file
    │       ├── KeyMade             an earlier request made the API key, which is shown once
    │       └── IdempotencyConflict the Idempotency-Key was used with another body
    ├── StreamsExhausted            this process serves as many streams as it may, of all users together
    └── StoreError
        ├── Conflict                another writer appended first: load, decide again
        ├── StoreUnavailable        NATS did not take the write; it is not stored
        │   ├── StoreFull           … because its storage is full
        │   │   └── StoreReserved   … because the rest of its space is kept for accepted work
        │   ├── TooManyReads        … because too many large results are being read now
        │   ├── TooManyUploads      … because too many files are being stored now
        │   ├── IndexNotReady       the index of tasks is being filled, or is far behind the log
        │   ├── IndexBusy           … because too many queries of one user wait
        │   ├── QueryTooSlow        a query of the index took too long and was ended
        │   └── OutcomeUnknown      no answer came: load and look, never append again blindly
        ├── UnreadableEvent         an event does not decode; its reader stops and reports it
        └── TopologyMismatch        a stream on the server differs from what this version needs; names the field

HTTP status codes meet these errors in `taskstream.api.problems` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping


class TaskstreamError(Exception):
    """Base of all errors raised on purpose."""


class Refused(TaskstreamError):
    """The request is not allowed; nothing was written."""


class InvalidInput(Refused):
    """The request is malformed. `path` is where, as in `$.payload.width`; empty for the whole request."""

    def __init__(self, detail: str, path: str = "") -> None:
        self.detail = detail
        self.path = path
        super().__init__(f"{path}: {detail}" if path else detail)


class InvalidItems(InvalidInput):
    """One or more of several items sent together are malformed; none was stored."""

    def __init__(self, found: Mapping[int, InvalidInput], count: int) -> None:
        self.found = found
        """The error of each malformed item, by its index from 0."""
        first = min(found)
        super().__init__(
            f"{len(found)} of {count} items are invalid, nothing was stored. First: [{first}]: {found[first]}"
        )


class FileMissing(InvalidInput):
    """The request refers to a file that does not exist, or is not the caller's."""

    def __init__(self, file_id: str, path: str) -> None:
        self.file_id = file_id
        super().__init__(
            f"you have no file {file_id!r}; upload it with `POST /api/files`, and use the id it gets", path
        )


class QuotaExceeded(Refused):
    """The owner's quota of waiting tasks is used up."""

    policy = "waiting"
    """Name of the quota, in problem documents and header fields."""

    def __init__(self, limit: int, waiting: int, retry_after: int) -> None:
        self.limit = limit
        """Waiting tasks the owner may have."""
        self.waiting = waiting
        """Waiting tasks the owner has, without the refused ones."""
        self.retry_after = retry_after
        """Seconds after which a retry may succeed."""
        super().__init__(self.text_of(limit, waiting))

    def text_of(self, limit: int, waiting: int) -> str:
        return f"Quota exceeded: {waiting} of {limit} waiting tasks. Retry when some of them have started."


class StoredTooMuch(QuotaExceeded):
    """The owner's quota of stored bytes is used up."""

    policy = "stored"

    def __init__(self, limit: int, stored: int, retry_after: int, remedy: str) -> None:
        """`remedy`: what frees bytes, as a sentence."""
        self._remedy = remedy
        super().__init__(limit, stored, retry_after)

    def text_of(self, limit: int, waiting: int) -> str:
        return f"Quota exceeded: {waiting:,} of {limit:,} stored bytes. {self._remedy}"


class RateExceeded(QuotaExceeded):
    """The API key has made as many requests as it may."""

    policy = "rate"

    def __init__(self, per_second: float, retry_after: int) -> None:
        self.per_second = per_second
        allowed = max(1, int(per_second))
        super().__init__(allowed, allowed, retry_after)

    def text_of(self, limit: int, waiting: int) -> str:  # noqa: ARG002 - a rate may be below 1
        return f"Rate limit exceeded: {self.per_second:g} requests per second of this API key."


class TooManyStreams(QuotaExceeded):
    """The caller's quota of open streams is used up."""

    policy = "streams"
    RETRY_AFTER_SECONDS = 5

    def __init__(self, limit: int, open_now: int) -> None:
        super().__init__(limit, open_now, self.RETRY_AFTER_SECONDS)

    def text_of(self, limit: int, waiting: int) -> str:
        return (
            f"Quota exceeded: {waiting} of {limit} open streams, waiting requests and subscriptions. Follow all tasks "
            "over one: `GET /api/tasks/stream`, or `all` of the WebSocket; or close some."
        )


class TooManyAsks(QuotaExceeded):
    """The open requests of a server's pullers, or of all pullers, at this process are used up."""

    policy = "asks"
    RETRY_AFTER_SECONDS = 5

    def __init__(self, limit: int, open_now: int) -> None:
        super().__init__(limit, open_now, self.RETRY_AFTER_SECONDS)

    def text_of(self, limit: int, waiting: int) -> str:
        return (
            f"Quota exceeded: {waiting} of {limit} open requests of pullers. Ask for several attempts in one (`max`)."
        )


class FileTooLarge(Refused):
    """The file is larger than files may be."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"a file may have {limit:,} bytes at most here")


class UploadTooSlow(Refused):
    """The upload took too long."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"an upload may take {seconds:,} s; send the file over a faster line, or in several files")


class Forbidden(Refused):
    """The caller is known and lacks the role."""


class RangeNotSatisfiable(Refused):
    """The range of bytes that was asked for begins after the last one."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"the range has none of the {size} bytes; ask for `bytes=0-`, or leave out `Range`")


class NotFound(Refused):
    """Nothing has this name, or nothing that the caller may see."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no {kind} {name!r}")


class RevisionChanged(Refused):
    """The settings are not those that the change was made for: somebody else changed them meanwhile."""

    def __init__(self, present: str) -> None:
        self.present = present
        """The present revision."""
        super().__init__(
            f'somebody else has changed this since it was read; its `ETag` now begins with "{present}": read it again, '
            "and repeat the change on what it is now"
        )


class RuleBroken(Refused):
    """Well-formed, and not possible in the present state."""

    text = ""
    """The message of a class whose instances need no other."""

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text or self.text)


class AlreadyEnded(RuleBroken):
    """The task has another final state."""

    def __init__(self, outcome: str) -> None:
        self.outcome = outcome
        super().__init__(f"the task has already ended: {outcome}")


class AttemptNotCurrent(RuleBroken):
    """The report belongs to an attempt that was replaced or has ended."""

    def __init__(self, current: int | None) -> None:
        self.current = current
        """Ordinal of the running attempt, None if none runs."""
        state = f"attempt {current} is running" if current else "no attempt is running"
        super().__init__(f"this attempt was replaced or has ended ({state}); stop working on it")


class ResultExpired(RuleBroken):
    """The result of the report was stored too long ago to be kept."""

    text = "recording this result took too long; send the update again"


class NotDue(RuleBroken):
    """The next attempt waits for its backoff."""

    text = "the next attempt is not due yet"


class NotQueued(RuleBroken):
    """The task is held and must not start."""

    text = "the task is held"


class NotGranted(RuleBroken):
    """The scheduler has not counted the task towards its limits yet, so it must not start."""

    text = "the task waits for a free place under its limits"


class TimeIsUp(RuleBroken):
    """The task's latest start has passed."""

    text = "the latest start of the task has passed"


class KeyTaken(RuleBroken):
    """Another task has the concurrency key, and the type refuses a second one."""


class NotRetryable(RuleBroken):
    """Only failed and cancelled tasks can be retried."""

    def __init__(self, status: str) -> None:
        super().__init__(f"only a failed or cancelled task can be retried; this task is {status}")


class KeyDestroyed(RuleBroken):
    """The task needs the key it came with, which was destroyed at its end."""

    text = "the key this task came with was destroyed when it ended; submit the task again with the key"


class ApiKeyDestroyed(RuleBroken):
    """The API key of a removed server was destroyed."""

    def __init__(self, server_id: str) -> None:
        super().__init__(
            f"the API key of {server_id!r} was destroyed: send `apiKey` with the restore, or null to restore it without"
        )


class ApiKeyReplaced(RuleBroken):
    """The API key that a command keeps is not the server's any more, and may be destroyed."""

    def __init__(self) -> None:
        super().__init__("the server's API key was changed by other requests all the time; send the request again")


class RetryTooLate(RuleBroken):
    """The task's latest start has passed, so a retry would fail at once."""

    def __init__(self, option: str) -> None:
        self.option = option
        """The option of the submission that sets the latest start."""
        super().__init__(f"`{option}` of the task has passed; submit it again with a later `{option}`")


class AlreadyExists(RuleBroken):
    """A task with this id exists."""

    text = "a task with this id exists"


class FileInUse(RuleBroken):
    """Tasks that have not ended refer to the file."""


class KeyMade(RuleBroken):
    """An earlier request with this Idempotency-Key made the API key, which is shown once."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(
            f"an earlier request with this Idempotency-Key made the API key {key_id!r}, and a key is shown once: if it "
            "was lost, revoke it and make another one with a new Idempotency-Key"
        )


class IdempotencyConflict(RuleBroken):
    """The Idempotency-Key was used with another body."""

    text = "this Idempotency-Key was used with another body; use a new key for a new task"


class StreamsExhausted(TaskstreamError):
    """This process serves as many streams as it may, of all users together."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} streams are open, the most that this process serves: try again in some seconds")


class StoreError(TaskstreamError):
    """The event log cannot be read or written."""


class Conflict(StoreError):
    """Another writer appended first. Nothing was written: load and decide again."""


class StoreUnavailable(StoreError):
    """NATS did not take the write; it is not stored."""


class OutcomeUnknown(StoreUnavailable):
    """The write was sent and no answer came: it may be stored or not. Load and look."""


class StoreFull(StoreUnavailable):
    """NATS refuses writes because its storage is full. Everything acknowledged is stored."""


class StoreReserved(StoreFull):
    """The rest of the store's space is kept for accepted work; nothing was sent to NATS."""


class TooManyReads(StoreUnavailable):
    """Too many large results are being read now; nothing was read."""

    def __init__(self) -> None:
        super().__init__("too many large results are being read now; retry later, with fewer requests at once")


class TooManyUploads(StoreUnavailable):
    """Too many files are being stored now; nothing was stored."""

    def __init__(self) -> None:
        super().__init__("too many files are being stored now; retry later, with fewer uploads at once")


class IndexNotReady(StoreUnavailable):
    """The index of tasks does not reflect the log now. Tasks can be submitted, read one by one, and run."""


class IndexBusy(StoreUnavailable):
    """Too many queries of one user wait for the index; nothing was read."""

    def __init__(self) -> None:
        super().__init__("too many of your queries are waiting; retry later, with fewer requests at once")


class QueryTooSlow(StoreUnavailable):
    """A query of the index took too long and was ended."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the query took more than {seconds:g} s and was ended; use narrower filters")


class UnreadableEvent(StoreError):
    """An event does not decode; its reader stops and reports it."""

    def __init__(self, subject: str, sequence: int, reason: str) -> None:
        self.subject = subject
        self.sequence = sequence
        super().__init__(f"event {sequence} ({subject}) does not decode: {reason}")


class TopologyMismatch(StoreError):
    """A stream on the server differs from what this version needs."""

    def __init__(self, name: str, field: str, wanted: object, found: object, advice: str = "") -> None:
        self.name = name
        self.field = field
        text = f"{name}: `{field}` is {found!r} on the server and must be {wanted!r}"
        super().__init__(f"{text}; {advice}" if advice else text)
