"""Checks of messages that webhooks receive (Standard Webhooks)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from .errors import BadSettings, BadSignature
from .models import Instant, convert, decode
from .updates import Update, read_update

TOLERANCE_SECONDS = 300.0
"""A message whose try is older, or that much in the future, is refused: it may be a replay."""
PREFIX = "whsec_"


class WebhookMessage(Struct, frozen=True, kw_only=True):
    """A message of a webhook that is from the service."""

    id: str
    """The same for all tries of a delivery: remember the ids that you have handled."""
    type: str
    """Such as `task.succeeded`."""
    timestamp: Instant
    data: dict[str, Any]
    """The event, as streams push it."""

    @property
    def task_id(self) -> str | None:
        """The task that it is about; None for `webhook.test`."""
        found = self.data.get("taskId")
        return str(found) if found else None

    @property
    def update(self) -> Update | None:
        """The event as streams bring it; None if it is about no task."""
        return read_update(self.data, str(self.data.get("sequence") or "")) if "event" in self.data else None


def verify(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Iterable[str],
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: Callable[[], float] = time.time,
) -> WebhookMessage:
    """Return a webhook's message. Raises BadSignature unless it is from the service, and not older than `tolerance`.

    Args:
        body: The body as it was received, byte for byte: not decoded and encoded again.
        headers: Of the request; upper and lower case do not matter.
        secret: The webhook's `whsec_…`, or several: during a rotation the old and the new one.
        tolerance: Seconds.
        now: Returns the time, in seconds since the epoch.
    """
    text = body.encode() if isinstance(body, str) else bytes(body)
    given = {name.lower(): value for name, value in headers.items()}
    message_id, sent_at, signatures = (given.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not (message_id and sent_at and signatures):
        raise BadSignature(
            "the headers webhook-id, webhook-timestamp and webhook-signature are missing: not from the service"
        )
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= 12):
        raise BadSignature("webhook-timestamp is no number of seconds")
    secrets = [secret] if isinstance(secret, str) else list(secret)
    signed = b".".join((message_id.encode(), sent_at.encode(), text))
    wanted = [hmac.new(_key(each), signed, hashlib.sha256).digest() for each in secrets]
    received = [_decoded(each.removeprefix("v1,")) for each in signatures.split() if each.startswith("v1,")]
    if not any(hmac.compare_digest(one, other) for one in wanted for other in received):
        raise BadSignature("no signature fits: another secret, or the body was changed on its way")
    if abs(now() - int(sent_at)) > tolerance:
        raise BadSignature(f"the message is not of the last {tolerance:g} s: a replay, or a clock is wrong")
    content = decode(text)
    return convert({**content, "id": message_id} if isinstance(content, dict) else content, WebhookMessage)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise BadSettings("a secret of a webhook is `whsec_` and Base64, as `webhooks.create` returned it")
    return key


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
