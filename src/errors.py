"""Every error of ours, in one tree.

    TaskstreamError
    ├── Refused                     the caller asked for something that may not be
    │   ├── InvalidInput            what was sent is malformed; names the path
    │   │   └── InvalidItems        … several things sent together, of which some are; names each
    │   ├── QuotaExceeded           as much of the owner's waits as may
    │   ├── Forbidden               known, but not allowed to this caller
    │   ├── NotFound                no such task, server or type (or none the caller may see)
    │   └── RuleBroken              well-formed, but not in the present state; nothing was written
    │       ├── AlreadyEnded        the task has another final state
    │       ├── AttemptNotCurrent   the report is of an attempt that no longer counts
    │       ├── NotDue              a retry's time has not come
    │       ├── NotRetryable        only failed and cancelled tasks can be retried
    │       ├── KeyDestroyed        the key that came with the task is gone, and it cannot run without
    │       ├── RetryTooLate        a retry could not start: the task's time is up
    │       ├── AlreadyExists       a submit met a task with this id
    │       └── IdempotencyConflict the key was used with another body
    └── StoreError
        ├── Conflict                somebody appended first: load, decide again
        ├── StoreUnavailable        NATS did not take the write; it is known not to be stored
        │   ├── StoreFull           … for lack of room
        │   └── OutcomeUnknown      … or did, and the answer was lost: load and look, never append again blindly
        ├── UnreadableEvent         an event does not decode; whoever reads it stops and says so
        └── TopologyMismatch        a stream on the server is not what this version needs; names the field

HTTP status codes meet these errors in `taskstream.api.problems` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping


class TaskstreamError(Exception):
    """Base of all errors raised on purpose."""


class Refused(TaskstreamError):
    """Asked for something that may not be; nothing was written."""


class InvalidInput(Refused):
    """What was sent is malformed. `path` is where, as in `$.payload.width`; empty for the whole."""

    def __init__(self, detail: str, path: str = "") -> None:
        self.detail = detail
        self.path = path
        super().__init__(f"{path}: {detail}" if path else detail)


class InvalidItems(InvalidInput):
    """Of things sent together some are malformed, and so none was taken."""

    def __init__(self, found: Mapping[int, InvalidInput], count: int) -> None:
        self.found = found
        """What is wrong with each, by its place from 0."""
        first = min(found)
        super().__init__(
            f"{len(found)} of {count} are wrong, and nothing was stored; the first is [{first}]: {found[first]}"
        )


class QuotaExceeded(Refused):
    """The owner has as many tasks waiting as may."""

    def __init__(self, limit: int, waiting: int, retry_after: int) -> None:
        self.limit = limit
        """Tasks of the owner that may wait."""
        self.waiting = waiting
        """Tasks of the owner that wait now, without what was refused."""
        self.retry_after = retry_after
        """Seconds after which it may be worth another try."""
        super().__init__(
            f"{waiting} of your tasks wait, and no more than {limit} may; try again when some of them have started"
        )


class Forbidden(Refused):
    """The caller is known, but lacks the role."""


class NotFound(Refused):
    """There is no such thing, or none that the caller may see."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no {kind} {name!r}")


class RuleBroken(Refused):
    """Well-formed, but not possible in the present state."""


class AlreadyEnded(RuleBroken):
    def __init__(self, outcome: str) -> None:
        self.outcome = outcome
        super().__init__(f"the task has already ended: {outcome}")


class AttemptNotCurrent(RuleBroken):
    def __init__(self, current: int | None) -> None:
        self.current = current
        state = f"attempt {current} is running now" if current else "no attempt is running"
        super().__init__(f"this report belongs to an attempt that no longer counts; {state}")


class NotDue(RuleBroken):
    def __init__(self) -> None:
        super().__init__("the next attempt is not due yet")


class NotQueued(RuleBroken):
    """The task is held: nobody is to start it yet."""

    def __init__(self) -> None:
        super().__init__("the task is held")


class NotGranted(RuleBroken):
    """The task shares a limit with others, and was not counted in for this start."""

    def __init__(self) -> None:
        super().__init__("the task shares a limit with others, and has no room yet")


class TimeIsUp(RuleBroken):
    """The instant has passed after which the task was not to start any more."""

    def __init__(self) -> None:
        super().__init__("the task was to have started by now")


class KeyTaken(RuleBroken):
    """Another task has the concurrency key, and the type refuses newcomers then."""


class NotRetryable(RuleBroken):
    def __init__(self, status: str) -> None:
        super().__init__(f"only a failed or cancelled task can be retried; this one is {status}")


class KeyDestroyed(RuleBroken):
    def __init__(self) -> None:
        super().__init__("the key this task came with was destroyed when it ended; submit it again with the key")


class RetryTooLate(RuleBroken):
    """The instant has passed after which the task was not to start any more: it would fail again at once."""

    def __init__(self, option: str) -> None:
        self.option = option
        """Which of the options of its submission says so."""
        super().__init__(f"its `{option}` has passed, so that it could not start; submit it again with a new one")


class AlreadyExists(RuleBroken):
    def __init__(self) -> None:
        super().__init__("a task with this id exists")


class IdempotencyConflict(RuleBroken):
    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used before with another body; use a new key for a new task")


class StoreError(TaskstreamError):
    """Something between us and the log."""


class Conflict(StoreError):
    """Somebody appended first. Nothing was written: load and decide again."""


class StoreUnavailable(StoreError):
    """NATS did not take the write; it is known not to be stored."""


class OutcomeUnknown(StoreUnavailable):
    """The write was sent and no answer came: it may or may not be stored. Load and look."""


class StoreFull(StoreUnavailable):
    """NATS refuses writes for lack of room. Nothing acknowledged is lost; nothing more is taken."""


class UnreadableEvent(StoreError):
    def __init__(self, subject: str, sequence: int, reason: str) -> None:
        self.subject = subject
        self.sequence = sequence
        super().__init__(f"event {sequence} ({subject}) does not decode: {reason}")


class TopologyMismatch(StoreError):
    def __init__(self, name: str, field: str, wanted: object, found: object, advice: str = "") -> None:
        self.name = name
        self.field = field
        text = f"{name}: `{field}` is {found!r} on the server and must be {wanted!r}"
        super().__init__(f"{text}; {advice}" if advice else text)
