"""Access to the API: the identity of a request, the roles a route requires, and the owner of what it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NotRequired, Protocol, TypedDict, cast
from urllib.parse import parse_qs

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from ...commands.revision import RevisionCheck, revision_of
from ...errors import Forbidden, InvalidInput, NotFound
from ...events.envelope import Actor
from ...events.ids import (
    BatchJobRef,
    BatchRef,
    FileRef,
    KeyRef,
    OperationRef,
    ScheduleRef,
    TaskRef,
    WebhookRef,
    owner_token,
    parse_batch_id,
    parse_task_id,
)
from ...projections.fleet import Fleet
from ...push.open_streams import OpenStreams
from ..middleware import MAY_TAKE_LONG, REVISION, headers_of, request_id
from .api_keys import ApiKeys, EndedWithKey
from .authenticator import Authenticator
from .identity import API_KEY_PREFIX, Identity, Unauthenticated
from .roles import ROLES
from .stream_tokens import StreamTokens

SUBMITTERS = ("user", "admin", "service")
READERS_OF_ALL = ("admin", "auditor")
ROLES_NEEDED = "roles"
"""Key of the roles in the `opt` of a route."""
TAKES = "takes"
"""Key in the `opt` of a route that takes other tokens than a JWT in the header: LINK_TOKENS, FILE_LINK_TOKENS,
ATTEMPT_TOKENS, ATTEMPT_TOKENS_IN_ADDRESS (the route checks all of them itself), RAW_TOKENS, or a
`TakesStreamTokens`."""
LINK_TOKENS = "link tokens"
FILE_LINK_TOKENS = "file link tokens"
ATTEMPT_TOKENS = "attempt tokens"
ATTEMPT_TOKENS_IN_ADDRESS = "attempt tokens in the address"
"""For programs that send no header, or one of their own, which does not count then."""
RAW_TOKENS = "raw tokens"
"""The header may be the token alone, without a scheme."""
ATTEMPT_TOKEN_LENGTH = 22
"""Characters of an attempt's callback token; no JWT is that short."""

PLACES = "taskstream.places"
"""Key of the places of a request's streams in its scope. They are given back however the request ends."""
NOBODY = Identity(subject="", roles=frozenset())
"""The bearer of a token that is no user's; no user has an empty subject."""

ApiRequest = Request[Identity, Any, Any]


class Closable(Protocol):
    """What a request holds until its end."""

    def close(self) -> None: ...


class TakesStreamTokens(Struct, frozen=True, kw_only=True):
    """The mark of a stream: its GET takes stream tokens as `?token=`, for clients that send no headers."""

    jwt: bool = False
    """A JWT, too: older clients put theirs there."""
    only_with: str = ""
    """The query that makes the route a stream, such as `stream=1`; empty: it always is one."""

    links: Callable[[str, Scope], Identity] | None = None
    """Opens tokens that are the route's own, in place of stream tokens. Raises Unauthenticated."""

    def accepts(self, scope: Scope) -> bool:
        """Return True if a request is for the stream."""
        if scope.get("method") != "GET":
            return False
        name, _, value = self.only_with.partition("=")
        return not name or _query(scope).get(name) == [value]


STREAM_TOKENS = TakesStreamTokens()
"""The mark of a stream of no older clients."""


class Authentication:
    """ASGI middleware of the `/api` routes: requires a valid token with one of `ROLES`, and with a role that the route
    `requires`.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, tokens: StreamTokens) -> None:
        self._app = app
        self._authenticator = authenticator
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"], scope["auth"] = await self._identify(scope)
        user: Identity = scope["user"]
        if user.key_id and self._authenticator.api_keys is not None:
            self._authenticator.api_keys.admit(user)
        needed = scope["route_handler"].opt.get(ROLES_NEEDED)
        if needed and not user.has(*needed):
            raise Forbidden(f"this needs a token with the role {' or '.join(needed)}")
        try:
            if user.key_id and self._authenticator.api_keys is not None:
                await self._serve_key(self._authenticator.api_keys, user, scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            for place in _places(scope):
                place.close()

    async def _serve_key(self, keys: ApiKeys, user: Identity, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with an API key. Its stream ends with the key, and so does its wait, with a 401."""
        if user.types is not None:
            await keys.reach.check_route(user, scope["route_handler"].opt, scope["path_params"])
        has_begun = has_ended = False

        async def send_seen(message: Any) -> None:
            nonlocal has_begun, has_ended
            has_begun = True
            has_ended = "body" in message and not message.get("more_body")
            await send(message)

        try:
            async with keys.while_valid(user, cast(dict[str, Any], scope)):
                await self._app(scope, receive, send_seen)
        except EndedWithKey:
            if not has_begun:
                raise Unauthenticated("the API key was revoked or has expired") from None
            if not has_ended:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _identify(self, scope: Scope) -> tuple[Identity, str | None]:
        """Return the caller, and the token of an attempt or of a link, which the route checks against the task.

        What a token opens is marked at the route, never guessed from the text of the path.
        """
        takes: str | TakesStreamTokens | None = scope["route_handler"].opt.get(TAKES)
        if isinstance(takes, TakesStreamTokens):
            if takes.accepts(scope) and (in_address := token_in_address(scope)):
                if takes.links is not None:
                    return takes.links(in_address, scope), None
                if takes.jwt and (is_jwt(in_address) or in_address.startswith(API_KEY_PREFIX)):
                    return await self._user(in_address), None
                return self._tokens.identify(in_address), None
        elif takes in (LINK_TOKENS, FILE_LINK_TOKENS) and (in_address := token_in_address(scope)):
            return NOBODY, in_address
        elif takes == ATTEMPT_TOKENS_IN_ADDRESS:
            in_address = _query(scope).get("token", [""])[0]
            if is_attempt_token(in_address):
                return NOBODY, in_address
        token = bearer_token(scope, may_be_raw=takes == RAW_TOKENS)
        if takes == ATTEMPT_TOKENS and is_attempt_token(token):
            return NOBODY, token
        return await self._user(token), None

    async def _user(self, token: str) -> Identity:
        identity = await self._authenticator.identify(token)
        if not identity.has(*ROLES):
            raise Forbidden(f"the token's `roles` must have at least one of {', '.join(ROLES)}")
        return identity


def take_place(request: ApiRequest, streams: OpenStreams) -> None:
    """Take a place for a stream, until the request ends. Raises TooManyStreams, StreamsExhausted."""
    until_the_end(request, streams.open(request.user.subject))
    cast(dict[str, Any], request.scope)[MAY_TAKE_LONG] = True


def until_the_end(request: ApiRequest, place: Closable) -> None:
    """Close something when the request ends, however it ends: also if its answer is never begun."""
    cast(dict[str, Any], request.scope)[PLACES] = [*_places(request.scope), place]


def _places(scope: Any) -> list[Closable]:
    found: list[Closable] = scope.get(PLACES, [])
    return found


SCHEMES = frozenset({b"bearer", b"key", b"token"})
"""Of the Authorization header, in lower case: clients of other services send theirs."""
API_KEY_HEADER = b"x-api-key"


def bearer_token(scope: Scope, *, may_be_raw: bool = False) -> str:
    """Return the token of the Authorization header, else that of `X-API-Key`. Raises Unauthenticated without one.

    `may_be_raw`: the Authorization header may be the token alone.
    """
    headers = headers_of(scope)
    value = headers.get(b"authorization")
    if value is None:
        if token := headers.get(API_KEY_HEADER, b"").strip():
            return token.decode("latin-1")
        raise Unauthenticated("a token is needed: send `Authorization: Bearer <token>`, or `X-API-Key: <token>`")
    scheme, _, token = value.partition(b" ")
    if scheme.lower() in SCHEMES and token:
        return bytes(token).strip().decode("latin-1")
    if may_be_raw and value and not token:
        return bytes(value).decode("latin-1")
    raise Unauthenticated("the Authorization header must be `Bearer <token>`; `Key` and `Token` do as well")


def token_in_address(scope: Scope) -> str | None:
    """Return `?token=` of a URL, None if there is none; a header with a token wins."""
    headers = headers_of(scope)
    if b"authorization" in headers or API_KEY_HEADER in headers:
        return None
    return _query(scope).get("token", [""])[0] or None


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


def is_jwt(token: str) -> bool:
    """Return True if a token has the form of a JWT; a stream token has no dots."""
    return token.count(".") == 2


def acts_for(identity: Identity, fleet: Fleet) -> frozenset[str] | None:
    """Return the servers that a `service` token acts for: its claim `servers`, or the server called like its `sub`.

    None: all of them. So it is for the one token of older backends, which names no server, and for admins.
    """
    if identity.has("admin") or not identity.has("service"):
        return None
    if identity.servers is not None:
        return identity.servers
    return frozenset([identity.subject]) if fleet.knows(identity.subject) else None


def check_server(identity: Identity, fleet: Fleet, server_id: str) -> None:
    """Raise Forbidden if a `service` token acts for other servers only."""
    servers = acts_for(identity, fleet)
    if servers is not None and server_id not in servers:
        raise Forbidden("this token acts for other servers; its `sub`, or its claim `servers`, must name this one")


def check_task_of_server(identity: Identity, fleet: Fleet, ref: TaskRef, server_id: str | None) -> None:
    """Raise NotFound if only the role `service` lets the caller reach a task, and its server is none of the token's."""
    if ref.owner == owner_token(identity.subject) or identity.has(*READERS_OF_ALL):
        return
    servers = acts_for(identity, fleet)
    if servers is not None and server_id not in servers:
        raise NotFound("task", ref.id)


def is_attempt_token(token: str) -> bool:
    return len(token) == ATTEMPT_TOKEN_LENGTH and "." not in token


def requires(*roles: str) -> dict[str, Any]:
    """Return the `opt` of a route or router that requires one of these roles.

    Not a guard of Litestar: it copies the route for each request, which is 5 % of a request's cost.
    """
    return {ROLES_NEEDED: roles}


def actor(identity: Identity) -> Actor:
    return Actor("user", identity.subject, identity.key_id)


class Origin(TypedDict):
    """The origin of a command: the user who gave it, and the id of the request."""

    by: Actor
    cause: str


class GuardedOrigin(Origin):
    """The origin of a command that may have a condition. Only `Handler.handle` takes it."""

    check: NotRequired[RevisionCheck]


def origin(request: ApiRequest) -> Origin:
    return {"by": actor(request.user), "cause": request_id(request.scope)}


def guarded(request: ApiRequest) -> GuardedOrigin:
    """Return the origin of a change of settings, with the condition in `If-Match` (RFC 9110, 13.1.1), if it has one.

    Raises InvalidInput.
    """
    signed, given = origin(request), headers_of(request.scope).get(b"if-match")
    if given is None:
        return GuardedOrigin(by=signed["by"], cause=signed["cause"])
    tags = [] if given.strip() == b"*" else [_REVISION.fullmatch(tag.strip()) for tag in given.split(b",")]
    revisions = frozenset(tag[1].decode() for tag in tags if tag is not None)
    if None in tags or (not tags and given.strip() != b"*"):
        raise InvalidInput("must be `*`, or the `ETag` of an answer as it came, in double quotes", "If-Match")
    return GuardedOrigin(by=signed["by"], cause=signed["cause"], check=RevisionCheck(revisions))


def tag(request: ApiRequest, state: object) -> None:
    """Have the `ETag` of the answer begin with the revision of a state."""
    cast(dict[str, Any], request.scope)[REVISION] = revision_of(state).encode()


_REVISION = re.compile(rb'(?:W/)?"([0-9a-z]{1,32})(?:\.[0-9a-f]{1,64})?"')


def owned_ref(identity: Identity, task_id: str, *override_roles: str) -> TaskRef:
    """Return a task that the caller owns, or may reach by role. Raises as `check_owner` does."""
    ref = parse_task_id(task_id)
    check_owner(identity, ref, "task", *override_roles)
    return ref


WITHHELD = (
    "payloads and results of other users' tasks are withheld: reading them needs a token with the claim "
    "`payloads: true`"
)


def reads_bodies(identity: Identity, owner: str) -> bool:
    """Return True if a caller who may read the tasks of an owner (a token) may read their payloads and results, too."""
    return identity.payloads or owner == owner_token(identity.subject)


def check_bodies(identity: Identity, owner: str) -> None:
    """Raise Forbidden if payloads and results of an owner (a token) are withheld from the caller."""
    if not reads_bodies(identity, owner):
        raise Forbidden(WITHHELD)


def owned_batch(identity: Identity, batch_id: str, *override_roles: str) -> BatchRef:
    """Return a batch that the caller owns, or may reach by role. Raises as `check_owner` does."""
    ref = parse_batch_id(batch_id)
    check_owner(identity, ref, "batch", *override_roles)
    return ref


def check_owner(
    identity: Identity,
    ref: TaskRef | BatchRef | ScheduleRef | WebhookRef | OperationRef | FileRef | KeyRef | BatchJobRef,
    kind: str,
    *override_roles: str,
) -> None:
    """Raise NotFound unless the caller owns a task, batch, schedule or webhook, or may reach it by role.

    Raises Forbidden if the caller may read it but not change it.
    """
    if ref.owner == owner_token(identity.subject) or identity.has(*override_roles):
        return
    if identity.has(*READERS_OF_ALL):
        raise Forbidden(f"this {kind} is another user's; changing it needs the role {' or '.join(override_roles)}")
    raise NotFound(kind, ref.id)
