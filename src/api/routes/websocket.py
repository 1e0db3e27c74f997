"""Route of the WebSocket: the events of the streams, for many subscriptions over one connection.

    client                                               server
    {"type": "subscribe", "task": id}                    {"type": "subscribed", "subscription": …}, then events
    {"type": "subscribe", "batch": id}                     as streams have them, with `subscription` and `id`
    {"type": "subscribe", "project": name, "after": id}
    {"type": "subscribe", "all": true}
    {"type": "unsubscribe", "subscription": …}           {"type": "unsubscribed", "subscription": …}
    {"type": "ping"}                                     {"type": "pong"}
    {"type": "token", "token": …}                        {"type": "token", "expiresAt": …}
                                                         {"type": "reached", …}   everything up to this `id` was sent
                                                         {"type": "ended", …}   the task or batch has ended
                                                         {"type": "error", "error": …}

A subscription's name is `task:<id>`, `batch:<id>`, `project:<name>` or `all`. A client that reads too slowly is
disconnected with code 4408; it reconnects and resumes after the last `id`. A connection over the user's limit of
streams is closed with code 4429, one over the limit of the process with 1013; a subscription over one is an `error`.

A connection is closed with code 4401 when its token expires. A client hands in a fresh one of the same user before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, cast

import msgspec
import structlog
from litestar import Router, WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from msgspec import Struct

from ...clock import utc_now
from ...container import Container
from ...errors import InvalidInput, RateExceeded, Refused, StoreError, StreamsExhausted, TooManyStreams
from ...events.ids import owner_token
from ...instants import from_seconds, milliseconds
from ...push.listeners import Scope
from ...push.subscription_filter import SubscriptionFilter
from ...wire.validation_errors import invalid, malformed
from ..auth.access import READERS_OF_ALL, bearer_token, is_jwt, token_in_address
from ..auth.api_keys import STREAM_GRACE_SECONDS, ApiKeys, KeyUse
from ..auth.authenticator import Authenticator, Identity, KeysUnavailable, Unauthenticated
from ..auth.identity import API_KEY_PREFIX
from ..auth.roles import ROLES
from ..auth.stream_tokens import StreamTokens
from ..event_stream import EventStream, PushMessages

log = structlog.get_logger(__name__)

MOST_SUBSCRIPTIONS = 100
LONGEST_MESSAGE = 10 * 1024
"""Characters: room for the longest token."""
MESSAGES_WAITING = 256
"""Messages buffered for a client before it counts as slow."""
WAITING_BYTES = 1024 * 1024
"""Likewise, in bytes; the last of them may be larger."""
PATIENCE_SECONDS = 10.0
"""Longest wait for a slow client to read a message."""
CLOSE_SECONDS = 1.0
PAUSE_SECONDS = 15.0
UNAUTHENTICATED = 4401
"""No valid token, or not any more."""
TOO_SLOW = 4408
OVER_LIMIT = 4429
"""The user has too many streams."""
TRY_AGAIN = 1013
"""The process has too many streams (RFC 6455, registry of close codes: Try Again Later)."""
GOING_AWAY = 1001


class _Subscribe(Struct, tag="subscribe", kw_only=True, forbid_unknown_fields=True):
    task: str | None = None
    batch: str | None = None
    project: str | None = None
    all: bool = False
    after: int | str | None = None

    @property
    def name(self) -> str:
        """Return the name of the subscription. Raises InvalidInput unless it is about exactly one thing."""
        kinds = {"task": self.task, "batch": self.batch, "project": self.project}
        named = [f"{kind}:{name}" for kind, name in kinds.items() if name is not None] + ["all"] * self.all
        if len(named) != 1:
            raise InvalidInput("must have exactly one of `task`, `batch`, `project` and `all`")
        return named[0]


class _Unsubscribe(Struct, tag="unsubscribe", kw_only=True, forbid_unknown_fields=True):
    subscription: str


class _Ping(Struct, tag="ping", kw_only=True, forbid_unknown_fields=True):
    pass


class _Token(Struct, tag="token", kw_only=True, forbid_unknown_fields=True):
    """A fresh token, in place of the one that the connection has."""

    token: str


class _TokenTaken(Struct, tag="token", kw_only=True, rename="camel"):
    expires_at: int
    """Milliseconds since the epoch: when the connection is closed, unless another token comes before."""


_message = msgspec.json.Decoder(_Subscribe | _Unsubscribe | _Ping | _Token)
_encode = msgspec.json.Encoder().encode


class TooSlow(Exception):
    """The client reads too slowly."""


Identify: TypeAlias = Callable[[str], Awaitable[Identity]]
"""Returns the caller that a token proves: a JWT or a stream token. Raises Unauthenticated and KeysUnavailable."""


class Session:
    """One connection."""

    def __init__(
        self,
        container: Container,
        socket: WebSocket[Any, Any, Any],
        identity: Identity,
        identify: Identify,
        api_keys: ApiKeys | None = None,
    ) -> None:
        self._streams = container.open_streams
        self._hub = container.feeds.hub
        self._pushed = EventStream(container, PAUSE_SECONDS)
        self._socket = socket
        self._identity = identity
        self._identify = identify
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MESSAGES_WAITING)
        self._waiting_bytes = 0
        self._sent = asyncio.Event()
        self._subscriptions: dict[str, asyncio.Task[None]] = {}
        self._over: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._expiry: asyncio.TimerHandle | None = None
        self._api_keys = api_keys
        self._key_use: KeyUse | None = None

    async def run(self) -> None:
        """Serve the connection until it ends."""
        tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
        self._end_at_expiry()
        try:
            code, reason = await self._over
            with contextlib.suppress(Exception):  # it may be closed already, or the client reads nothing
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._socket.close(code=code, reason=reason)
        finally:
            if self._expiry is not None:
                self._expiry.cancel()
            if self._key_use is not None:
                self._key_use.close()
            for task in (*tasks, *self._subscriptions.values()):
                task.cancel()
            await asyncio.gather(*tasks, *self._subscriptions.values(), return_exceptions=True)

    def _end(self, code: int, reason: str) -> None:
        if not self._over.done():
            self._over.set_result((code, reason))

    def _end_at_expiry(self) -> None:
        """End when the present token expires, no longer when an earlier one does."""
        if self._expiry is not None:
            self._expiry.cancel()
        left = self._identity.seconds_left(utc_now())
        reason = "the token has expired: connect with a new one, and subscribe after the last id received"
        self._expiry = asyncio.get_running_loop().call_later(left, self._end, UNAUTHENTICATED, reason)
        if self._key_use is not None:
            self._key_use.close()
            self._key_use = None
        if self._identity.key_id and self._api_keys is not None:
            ended = partial(self._end, UNAUTHENTICATED, "the API key was revoked or has expired")
            self._key_use = self._api_keys.watch(self._identity, ended, STREAM_GRACE_SECONDS)

    # Both directions

    async def _send(self) -> None:
        try:
            while True:
                message = await self._waiting.get()
                await self._socket.send_data(message, mode="text")
                self._waiting_bytes -= len(message)
                self._sent.set()
        except Exception:
            self._end(GOING_AWAY, "")

    async def _receive(self) -> None:
        try:
            while True:
                text = await self._socket.receive_data(mode="text")
                try:
                    await self._act(text)
                except Refused as refusal:
                    await self._put(_encode({"type": "error", "error": str(refusal)}))
                except StreamsExhausted as error:
                    await self._put(_encode({"type": "error", "error": str(error)}))
                except StoreError:
                    await self._put(_encode({"type": "error", "error": "the event log is not available; retry"}))
        except (WebSocketDisconnect, TooSlow):
            self._end(GOING_AWAY, "")
        except Exception:
            log.exception("websocket.failed")
            self._end(1011, "")

    async def _put(self, message: bytes) -> None:
        if not self._has_room():
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not self._has_room():
                        self._sent.clear()
                        await self._sent.wait()
            except TimeoutError:
                self._end(TOO_SLOW, "too slow: reconnect, and subscribe after the last id received")
                raise TooSlow from None
        self._waiting_bytes += len(message)
        self._waiting.put_nowait(message)

    def _has_room(self) -> bool:
        return not self._waiting.full() and self._waiting_bytes < WAITING_BYTES

    # Messages of the client

    async def _act(self, text: str) -> None:
        if len(text) > LONGEST_MESSAGE:
            raise InvalidInput(f"must be at most {LONGEST_MESSAGE:,} characters")
        try:
            message = _message.decode(text.removeprefix("\ufeff"))
        except msgspec.ValidationError as error:
            raise invalid(error, _message.type) from None
        except msgspec.DecodeError as error:
            raise malformed(error, "message") from None
        match message:
            case _Ping():
                await self._put(_encode({"type": "pong"}))
            case _Unsubscribe(subscription=name):
                if subscription := self._subscriptions.pop(name, None):
                    subscription.cancel()
                await self._put(_encode({"type": "unsubscribed", "subscription": name}))
            case _Subscribe():
                await self._subscribe(message)
            case _Token():
                await self._renew(message.token)

    async def _renew(self, token: str) -> None:
        """Take a fresh token. What is subscribed goes on, so the token must prove the same user and the same rights."""
        try:
            fresh = await self._identify(token)
        except (Unauthenticated, KeysUnavailable) as error:
            raise InvalidInput(str(error), "$.token") from None
        if fresh.subject != self._identity.subject:
            raise InvalidInput("is a token of another user; connect again with it", "$.token")
        if any(self._identity.has(role) and not fresh.has(role) for role in READERS_OF_ALL):
            raise InvalidInput("lacks a role of the present token; connect again with it", "$.token")
        if self._identity.payloads and not fresh.payloads:
            raise InvalidInput("does not read payloads as the present token does; connect again with it", "$.token")
        if fresh.types is not None and (self._identity.types is None or not self._identity.types <= fresh.types):
            raise InvalidInput("reaches fewer types than the present token; connect again with it", "$.token")
        self._identity = fresh
        self._end_at_expiry()
        await self._put(_encode(_TokenTaken(expires_at=milliseconds(from_seconds(fresh.expires_at)))))

    async def _subscribe(self, wanted: _Subscribe) -> None:
        name = wanted.name
        if name in self._subscriptions:
            raise InvalidInput(f"already subscribed to {name!r}")
        if len(self._subscriptions) >= MOST_SUBSCRIPTIONS:
            raise InvalidInput(f"at most {MOST_SUBSCRIPTIONS} subscriptions per connection; use `all` instead")
        place = self._streams.open(self._identity.subject)
        try:
            messages = await self._messages(wanted)
            await self._put(_encode({"type": "subscribed", "subscription": name}))
            self._subscriptions[name] = subscription = asyncio.create_task(self._pass_on(name, messages))
        except BaseException:
            place.close()
            raise
        subscription.add_done_callback(lambda _: place.close())  # also if it is cancelled before it runs

    async def _pass_on(self, name: str, messages: PushMessages | None) -> None:
        label = b'{"subscription":' + _encode(name) + b',"id":'
        try:
            if messages is not None:
                async for message in messages:
                    if message is not None:
                        await self._put(label + _encode(message.event_id or None) + b"," + message.data[1:])
            if self._hub.has_ended:  # so no task has
                self._end(GOING_AWAY, "shutting down: reconnect, and subscribe after the last id received")
                return
            await self._put(_encode({"type": "ended", "subscription": name}))
        except TooSlow:
            return
        except StoreError as error:
            log.warning("subscription.broken", reason=str(error))
            with contextlib.suppress(TooSlow):
                await self._put(_encode({"type": "error", "subscription": name, "error": "subscribe again"}))
        if self._subscriptions.get(name) is asyncio.current_task():  # else the client unsubscribed and subscribed again
            del self._subscriptions[name]

    async def _messages(self, wanted: _Subscribe) -> PushMessages | None:
        """Return the messages of a subscription. Raises Refused if the caller may not see them."""
        after = None if wanted.after is None else str(wanted.after)
        if wanted.task is not None:
            return await self._pushed.of_task(self._identity, wanted.task, after)
        if wanted.batch is not None:
            return await self._pushed.of_batch(self._identity, wanted.batch, after)
        of_all_owners = wanted.all and self._identity.has(*READERS_OF_ALL)
        owner = None if of_all_owners else owner_token(self._identity.subject)
        scope = Scope(owner=owner, choice=SubscriptionFilter(project=wanted.project or ""))
        return await self._pushed.of_all(self._identity, scope, after)


def _reason(refusal: TooManyStreams | RateExceeded | StreamsExhausted) -> str:
    if isinstance(refusal, RateExceeded):
        return str(refusal)
    if isinstance(refusal, TooManyStreams):
        return f"{refusal.waiting} of {refusal.limit} streams are open: use one connection with `all`, or close some"
    return "this process has no place left: connect again later"


def websocket_router(container: Container, authenticator: Authenticator, tokens: StreamTokens) -> Router:
    """Return the route."""

    async def identify_jwt(token: str) -> Identity:
        identity = await authenticator.identify(token)
        if not identity.has(*ROLES):
            raise Unauthenticated("the token has no role of this API")
        return identity

    async def identify(token: str) -> Identity:
        is_whole = is_jwt(token) or token.startswith(API_KEY_PREFIX)
        return await identify_jwt(token) if is_whole else tokens.identify(token)

    @websocket("/ws")
    async def listen(socket: WebSocket[Any, Any, Any]) -> None:
        try:
            in_address = token_in_address(socket.scope)
            identity = tokens.identify(in_address) if in_address else await identify_jwt(bearer_token(socket.scope))
        except (Unauthenticated, KeysUnavailable):
            await socket.close(code=UNAUTHENTICATED)  # before it is accepted: the handshake is answered 403
            return
        cast(dict[str, Any], socket.scope)["user"] = identity  # for the log
        try:
            if identity.key_id and authenticator.api_keys is not None:
                authenticator.api_keys.admit(identity)
            place = container.open_streams.open(identity.subject)
        except (TooManyStreams, RateExceeded, StreamsExhausted) as refusal:
            await socket.accept()  # else the client sees no code
            code = TRY_AGAIN if isinstance(refusal, StreamsExhausted) else OVER_LIMIT
            await socket.close(code=code, reason=_reason(refusal))
            return
        with place:
            await socket.accept()
            await Session(container, socket, identity, identify, authenticator.api_keys).run()

    return Router(path="/", route_handlers=[listen])
