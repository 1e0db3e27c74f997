"""What clients of Replicate send to create a prediction, and how they ask to wait. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta, Raw, Struct

from ....errors import InvalidInput
from ....events.envelope import NULL
from ....wire.addresses import MAX_URL

WebhookEvent = Literal["start", "output", "logs", "completed"]
WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent)
LONGEST_WAIT = 60
"""Seconds, as at Replicate; it is also the wait of `Prefer: wait`."""
EARLIER_SECONDS = 0.5
"""How much earlier an answer comes than the client asked for: its read times out half a second after that."""
SHORTEST_RUN = timedelta(seconds=5)
_WAIT = re.compile(r"(?:^|[,;\s])wait(?:\s*=\s*\"?(\d{1,9})\"?)?(?=$|[,;\s])", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s?)?", re.IGNORECASE | re.ASCII)

WebhookUrl = Annotated[str, Meta(max_length=MAX_URL)]


class PredictionBody(Struct, kw_only=True):
    """A prediction to create. Fields that are not known are ignored, as at Replicate."""

    input: Raw = NULL
    version: Annotated[str, Meta(max_length=512)] | None = None
    stream: bool | None = None
    webhook: WebhookUrl | None = None
    webhook_events_filter: list[WebhookEvent] | None = None
    webhook_completed: WebhookUrl | None = None
    """Of older clients: a webhook of the end alone."""

    @property
    def webhook_url(self) -> str:
        return self.webhook or self.webhook_completed or ""

    @property
    def webhook_events(self) -> tuple[str, ...]:
        """Return the events that the webhook is sent; empty: all of them."""
        if not self.webhook and self.webhook_completed:
            return ("completed",)
        wanted = self.webhook_events_filter or ()
        return tuple(event for event in WEBHOOK_EVENTS if event in wanted)


class PreferredWait(Struct, frozen=True):
    """How long a client is willing to wait."""

    asked: int | None
    """Seconds; None: it names no number."""

    @property
    def applied(self) -> str:
        """The value of `Preference-Applied`."""
        return "wait" if self.asked is None else f"wait={self.asked}"

    @property
    def seconds(self) -> float:
        """How long to wait, so that the answer is there in time."""
        most = LONGEST_WAIT if self.asked is None else min(self.asked, LONGEST_WAIT)
        return most - min(EARLIER_SECONDS, most / 4)


def preferred_wait(prefer: str | None) -> PreferredWait | None:
    """Return the wait of a `Prefer` header (RFC 7240), None without one."""
    found = _WAIT.search(prefer or "")
    return PreferredWait(int(found[1]) if found[1] else None) if found else None


def cancel_after(text: str | None) -> timedelta | None:
    """Return the duration of a `Cancel-After` header, as in 90s, 1m or 1h30m; a number is seconds. None without one.

    Raises InvalidInput.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in (found.groups() if found else ("", "", "")))
    duration = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if found is None or not SHORTEST_RUN <= duration <= timedelta(days=366):
        raise InvalidInput("must be a duration of at least 5 seconds, as in 90s, 1m or 1h30m", "Cancel-After")
    return duration


def checked_input(body: PredictionBody, decoded: Any) -> Any:
    """Return the input of a body, decoded. Raises InvalidInput unless it is an object."""
    given = decoded.get("input")
    if given is None:
        raise InvalidInput("input is required", "$.input")
    if not isinstance(given, dict):
        raise InvalidInput("must be an object", "$.input")
    if not body.webhook_url and body.webhook_events_filter:
        raise InvalidInput("needs a `webhook`", "$.webhook_events_filter")
    return given
