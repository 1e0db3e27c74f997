"""The HTTP client of webhooks: one signed call, and what its answer means (Standard Webhooks 1.0)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import aiohttp
import structlog
from msgspec import Struct
from standardwebhooks import Webhook

from ..backends.connection_errors import describe, local_lack
from ..backends.egress import WEBHOOKS, EgressPolicy, is_public, refused_by_policy, watch_connects
from ..clock import utc_now
from ..commands.webhook import Registered
from ..events.ids import WebhookRef
from ..settings import variable
from ..vault.sealing import SealingError, SecretMissing
from ..vault.secrets import SecretStore
from ..wire.body_limit import AnswerTooLarge, read_capped
from ..wire.connections import ALONE, is_certain, keep, peer_of
from ..wire.retry_after import parse_retry_after
from ..wire.trace import Trace
from .deliveries import LastAnswer
from .messages import SIGNATURE, unsigned_headers

log = structlog.get_logger(__name__)

MOST_READ = 64 * 1024
"""Bytes of an answer that are read; of a longer one only the status counts."""
LONGEST_SHOWN = 300
"""Characters of an answer that are kept for the owner."""
NO_ADDRESS = "the receiver has no address that webhooks may call; list private ones in " + variable(
    WEBHOOKS.allow_setting
)
"""One text for a refused address and for a name without one: a user must not learn which names exist inside."""
NO_ANSWER = "the receiver gave no valid answer"
UNREADABLE_PAUSE = timedelta(minutes=1)
"""How long a webhook pauses whose secret does not open; then it is tried again."""
GONE = 410
NO_TRACE = Trace()
TOO_MANY_REQUESTS = 429
SERVICE_UNAVAILABLE = 503


class WebhookOutcome(Struct, frozen=True, kw_only=True):
    """The outcome of a call."""

    answer: LastAnswer
    retry_after: timedelta | None = None
    is_unreadable: bool = False
    """The secret could not be decrypted, and nothing was sent."""
    is_ours: bool = False
    """Nothing was sent, for a lack of this process: `answer.error` says of what. It is no try."""

    @property
    def is_gone(self) -> bool:
        """True if the receiver answered 410: it wants no more deliveries."""
        return self.answer.status == GONE

    @property
    def asks_for_pause(self) -> bool:
        """True if nothing is to be sent for a while: the webhook pauses, and the message keeps its tries."""
        if self.is_unreadable:
            return True
        status = self.answer.status
        return status == TOO_MANY_REQUESTS or (status == SERVICE_UNAVAILABLE and self.retry_after is not None)


class WebhookClient:
    """Calls receivers over one session of `policy`. A connection serves further messages after a 2xx.

    Users say what is called, and read what comes of it: the body only if it came from a public address.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        session: aiohttp.ClientSession,
        secrets: SecretStore,
        timeout_seconds: float,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._policy = policy
        self._session = session
        self._secrets = secrets
        self._timeout_seconds = timeout_seconds
        self._now = now

    async def send(
        self, ref: WebhookRef, webhook: Registered, message_id: str, body: bytes, trace: Trace = NO_TRACE
    ) -> WebhookOutcome:
        """Send a body; whatever the receiver does is an outcome. Raises StoreUnavailable for the secret."""
        at = self._now()
        try:
            headers = trace.headers() | await self._headers(ref, webhook, message_id, at, body)
        except SecretMissing as error:
            return WebhookOutcome(answer=LastAnswer(at=at, error=str(error)))
        except SealingError as error:  # no fault of the receiver: the message keeps its tries
            log.warning("webhook.secret-unreadable", webhook=ref.id, reason=str(error))
            answer = LastAnswer(at=at, error="the webhook's secret cannot be decrypted; nothing was sent")
            return WebhookOutcome(answer=answer, retry_after=UNREADABLE_PAUSE, is_unreadable=True)
        with watch_connects() as reached:
            return await self._call(webhook.settings.url, headers, body, at, reached)

    async def _call(
        self, url: str, headers: dict[str, str], body: bytes, at: datetime, reached: set[str]
    ) -> WebhookOutcome:
        started = time.perf_counter()
        status: int | None = None
        text = ""
        retry_after: timedelta | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds), self._post(url, headers, body) as response:
                status = response.status
                retry_after = parse_retry_after(response.headers.get("Retry-After"), at)
                content = await read_capped(response, MOST_READ)
                text = shown(content) if is_public(peer_of(response)) else ""
                if not verdict(status):
                    keep(response)
            trouble = verdict(status)
        except AnswerTooLarge:
            trouble = verdict(status or 0)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            if (lack := local_lack(error)) is not None:
                return WebhookOutcome(answer=LastAnswer(at=at, error=lack), is_ours=True)
            if refused_by_policy(error) or isinstance(error, aiohttp.ClientConnectorDNSError):
                return WebhookOutcome(answer=LastAnswer(at=at, error=NO_ADDRESS))  # also without the time it took
            trouble = self._trouble(error, reached)
        elapsed_ms = round((time.perf_counter() - started) * 1000)
        answer = LastAnswer(at=at, status=status, error=trouble, public_body=text, elapsed_ms=elapsed_ms)
        return WebhookOutcome(answer=answer, retry_after=retry_after)

    def _trouble(self, error: Exception, reached: set[str]) -> str:
        """Return why there is no answer; of an address that may be private not how, which would show its open ports."""
        if self._policy.opens_private and not (reached and all(map(is_public, reached))):
            return NO_ANSWER
        return f"no answer in {self._timeout_seconds:g} s" if isinstance(error, TimeoutError) else describe(error)

    @contextlib.asynccontextmanager
    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        """Post a message. A refusal on a used connection may be another message's: that is asked again on a new one."""
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            if not verdict(response.status) or is_certain(response):
                yield response
                return
        async with self._session.post(url, data=body, headers=headers | ALONE, allow_redirects=False) as response:
            yield response

    async def _headers(
        self, ref: WebhookRef, webhook: Registered, name: str, at: datetime, body: bytes
    ) -> dict[str, str]:
        text = body.decode()
        secrets = [await self._secrets.get(ref, secret_id) for secret_id in webhook.secret_ids(at)]
        return unsigned_headers(name, at) | {
            SIGNATURE: " ".join(Webhook(secret).sign(name, at, text) for secret in secrets)
        }


def verdict(status: int) -> str:
    """Return why a status counts as a failure; empty if it does not."""
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"the receiver answered {status}; redirects are not followed"
    return f"the receiver answered {status}"


def shown(body: bytes) -> str:
    """Return the beginning of an answer as printable text."""
    text = body[: 4 * LONGEST_SHOWN].decode(errors="replace")
    return "".join(char if char.isprintable() else " " for char in text)[:LONGEST_SHOWN].strip()
