"""One attempt of a task, as the function that does the work sees it."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Callable, Mapping
from typing import Any

MOST_OUTPUT = 64 * 1024
"""Characters of output in one update; more go in several. The service takes 256 KiB in one."""
LONGEST_LOG = 8000
"""Characters of one log line that the service keeps."""


class Reject(Exception):
    """Raised by a handler: the task fails for good, for instance because its payload is wrong."""


class Failed(Exception):
    """Raised by a handler: this attempt failed, and another may succeed. Any other exception means the same."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds before the next attempt; only pullers can ask for it."""


class Busy(Exception):
    """Raised by a handler before its first report: it cannot take the task now. The attempt does not count."""

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__(f"busy for {retry_after:g} s")
        self.retry_after = retry_after


class JobCancelled(Exception):
    """Raised by `report` and `check`: nobody waits for the result any more. Let it pass."""


class Job:
    """An attempt of a task. `report` and `check` may be called from any thread."""

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - as tasks have it
        type: str,  # noqa: A002
        payload: Any,
        attempt: int,
        deadline: datetime.datetime | None = None,
        parents: list[Any] | None = None,
        headers: Mapping[str, str] | None = None,
        model: Mapping[str, str | None] | None = None,
    ) -> None:
        self.id = id
        """The task's id. With `attempt` it identifies this call."""
        self.type = type
        self.payload = payload
        """As submitted."""
        self.attempt = attempt
        """1 for the first try."""
        self.deadline = deadline
        """A later result is ignored."""
        self.parents = parents or []
        """Results of the tasks that it depends on, in their order."""
        self.headers = dict(headers or {})
        """Of the call, in lower case: `x-request-id`, `traceparent` and others."""
        self.model = dict(model or {})
        """The submitter's model: `provider`, `model`, `base_url`, `key`. Do not log the key."""
        self.cancelled_because: str | None = None
        """Why nobody waits for the result any more; None while somebody does."""
        self._lock = threading.Lock()
        self._pending: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._on_cancel: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """Whether the task was cancelled, or its attempt is over."""
        return self.cancelled_because is not None

    def check(self) -> None:
        """Raise JobCancelled if nobody waits for the result any more."""
        if self.cancelled_because is not None:
            raise JobCancelled(self.cancelled_because)

    def report(
        self,
        progress: float | None = None,
        message: str | None = None,
        *,
        output: str = "",
        log: str | None = None,
        custom_data: Any = None,
        data: Any = None,
    ) -> None:
        """Report progress to whoever follows the task. It never blocks. Raises JobCancelled as `check` does.

        Args:
            progress: Percent.
            message: What is being done.
            output: Text produced since the last report.
            log: A line.
            custom_data: Any JSON.
            data: A part of the result, or what it is so far.
        """
        self.check()
        update = {
            name: value
            for name, value in (
                ("progress", progress),
                ("message", message),
                ("log", log[:LONGEST_LOG] if log else None),
                ("custom_data", custom_data),
                ("data", data),
            )
            if value is not None
        }
        pieces = [output[at : at + MOST_OUTPUT] for at in range(0, len(output), MOST_OUTPUT)] or [""]
        with self._lock:
            for number, piece in enumerate(pieces):
                self._add((update if number == 0 else {}) | ({"output": piece} if piece else {}))
        self._tell()

    def _add(self, update: dict[str, Any]) -> None:
        """Keep an update, as part of the last one if that loses nothing: a slow connection gets fewer, larger ones."""
        if self._pending and update:
            last = self._pending[-1]
            own = {"log", "custom_data", "data"}
            is_short = len(last.get("output", "")) + len(update.get("output", "")) <= MOST_OUTPUT
            if is_short and not own & last.keys() and not own & update.keys():
                text = last.get("output", "") + update.get("output", "")
                last |= update
                if text:
                    last["output"] = text
                return
        if update:
            self._pending.append(update)

    # For the kit

    def take(self) -> dict[str, Any] | None:
        """Return the next update to be sent; None: there is none."""
        with self._lock:
            return self._pending.pop(0) if self._pending else None

    async def news(self) -> None:
        """Return when there may be an update, or the job was cancelled."""
        await self._news.wait()
        self._news.clear()

    def cancel(self, reason: str) -> None:
        """Tell the handler that nobody waits any more."""
        if self.cancelled_because is None:
            self.cancelled_because = reason
            for call in self._on_cancel:
                call()
            self._tell()

    def on_cancel(self, call: Callable[[], object]) -> None:
        """Call a function, in the event loop, when the job is cancelled."""
        self._on_cancel.append(call)

    def _tell(self) -> None:
        self._loop.call_soon_threadsafe(self._news.set)
