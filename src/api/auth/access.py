"""Who may do what: the identity of a request, and the rules over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from ...errors import Forbidden, NotFound
from ...events.envelope import Actor
from ...events.ids import BatchRef, TaskRef, owner_token, parse_batch_id, parse_task_id
from .authenticator import Authenticator, Identity, Unauthenticated
from .stream_tokens import StreamTokens

SUBMITTERS = ("user", "admin", "service")
READERS_OF_ALL = ("admin", "auditor")
ROLES = ("user", "admin", "service", "auditor")
ROLES_NEEDED = "roles"
"""Under which a route's `opt` has them."""
ATTEMPT_TOKEN_LENGTH = 22
"""Characters of an attempt's callback token; no JWT is that short."""

ApiRequest = Request[Identity, Any, Any]


class Authentication:
    """ASGI middleware of the `/api` routes: nobody passes without a valid token that has one of our roles, and one of
    those that the route `requires`.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, tokens: StreamTokens) -> None:
        self._app = app
        self._authenticator = authenticator
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["user"], scope["auth"] = await self._identify(scope)
        needed = scope["route_handler"].opt.get(ROLES_NEEDED)
        if needed and not scope["user"].has(*needed):
            raise Forbidden(f"this needs a token with the role {' or '.join(needed)}")
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> tuple[Identity, str | None]:
        """Return who calls, and the token where it is an attempt's, which the route checks against the task."""
        if in_address := stream_token(scope):
            return self._tokens.identify(in_address), None
        token = bearer_token(scope)
        if scope.get("method") == "PUT" and scope["path"].startswith("/api/task/") and is_attempt_token(token):
            return Identity(subject="", roles=frozenset()), token  # nobody is called "": it opens nothing else
        identity = await self._authenticator.identify(token)
        if not identity.has(*ROLES):
            raise Forbidden(f"the token's `roles` must have at least one of {', '.join(ROLES)}")
        return identity, None


def bearer_token(scope: Scope) -> str:
    """Return the token of the Authorization header. Raises Unauthenticated if there is none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and token:
                return bytes(token).strip().decode("latin-1")
            raise Unauthenticated("the Authorization header must be `Bearer <token>`")
    raise Unauthenticated("a token is needed: send `Authorization: Bearer <token>`")


def stream_token(scope: Scope) -> str | None:
    """Return the token in the address of a stream, None where there is none."""
    return token_in_address(scope) if scope["path"].endswith("/stream") else None


def token_in_address(scope: Scope) -> str | None:
    """Return `?token=` of an address, None where there is none; a header wins."""
    if any(name == b"authorization" for name, _ in scope["headers"]):
        return None
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [None])[0]


def is_attempt_token(token: str) -> bool:
    return len(token) == ATTEMPT_TOKEN_LENGTH and "." not in token


def requires(*roles: str) -> dict[str, Any]:
    """Return the `opt` of a route, or of a router, which only callers with one of these roles may use.

    Not one of Litestar's guards: for each request it hands those a copy of the route, a twentieth of a request's cost.
    """
    return {ROLES_NEEDED: roles}


def actor(identity: Identity) -> Actor:
    return Actor("user", identity.subject)


def owned_ref(identity: Identity, task_id: str, *override_roles: str) -> TaskRef:
    """Return a task the caller owns, or may reach by role.

    Raises NotFound for any other: it looks as if not there. Forbidden only for who may see it and no more.
    """
    ref = parse_task_id(task_id)
    if not _is_allowed(identity, ref.owner, "this task", override_roles):
        raise NotFound("task", task_id)
    return ref


def owned_batch(identity: Identity, batch_id: str, *override_roles: str) -> BatchRef:
    """Return a batch the caller owns, or may reach by role. Raises as `owned_ref` does."""
    ref = parse_batch_id(batch_id)
    if not _is_allowed(identity, ref.owner, "this batch", override_roles):
        raise NotFound("batch", batch_id)
    return ref


def _is_allowed(identity: Identity, owner: str, what: str, override_roles: Sequence[str]) -> bool:
    if owner == owner_token(identity.subject) or identity.has(*override_roles):
        return True
    if identity.has(*READERS_OF_ALL):
        raise Forbidden(f"{what} is another user's; changing it needs the role {' or '.join(override_roles)}")
    return False
