"""Routes of API keys. Users make, read and revoke their own, admins those of all; auditors read all."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import cast

from msgspec.structs import replace

from ...clock import utc_now
from ...commands.key import ApiKey, CreateKey, RevokeKey, Unmade
from ...container import Container
from ...errors import Forbidden, InvalidInput, NotFound, RuleBroken, StoreUnavailable
from ...events.ids import KeyRef, key_ref_for_key, new_key_ref, owner_token, parse_key_id
from ...events.key import KeyCreated
from ...events.subjects import key_creations_filter
from ...instants import epoch_seconds, from_seconds, milliseconds
from ...projections.keys import MOST_GENERATIONS
from ...streams.jetstream.messages import last_sequence
from ...streams.log import Guard
from ...streams.topology.definitions import KEYS
from ...wire.fields import instant
from ..auth.access import (
    READERS_OF_ALL,
    ApiRequest,
    acts_for,
    check_bodies,
    check_owner,
    origin,
)
from ..auth.api_keys import ApiKeys, digest_of, new_key
from ..auth.identity import LATEST, Identity, is_plain
from ..bodies import read_as
from ..key_spread import KeySpread
from ..parameters import Cursor, IdempotencyKey, KeyId, Limit, Owner, made_ref, page_of, read_id_cursor, selected_owner
from ..routing import RouteHandler, Routes
from ..schemas.keys import KeyBody, KeyPage, KeyStatus, KeySummary, NewKey, RevokedKey, key_summary
from ..schemas.shared import ReasonBody

MOST_PER_OWNER = 100
"""Keys of one owner that work."""
MOST_EVER = 10_000
"""Keys that one owner makes: each stays in the log."""
KNOWN_SECONDS = 1.0
"""How long the answer to a new key waits until all API processes know it; none of them would harm by not knowing it."""


def status_of(keys: ApiKeys, state: ApiKey, now: datetime) -> KeyStatus:
    """Return what has become of a key."""
    if state.revoked_at is not None:
        return "revoked"
    if not state.is_live(now):
        return "expired"
    unique = state.created.key_id.partition("~")[0]
    return "active" if keys.ring.is_accepted(unique, now) or keys.ring.find(unique) is None else "orphaned"


def checked_rights(container: Container, keys: ApiKeys, caller: Identity, body: KeyBody, now: datetime) -> KeyCreated:
    """Return the key that a caller asks for, without its id and digest. Raises Forbidden and InvalidInput.

    It gets no right that the caller lacks. What the body leaves open is as the caller's.
    """
    owner = body.owner or caller.subject
    if not is_plain(owner):
        raise InvalidInput("must not have control characters", "$.owner")
    if owner != caller.subject:
        if not caller.has("admin"):
            raise Forbidden("only admins make keys for other users; leave out `owner` for your own")
        check_bodies(caller, owner_token(owner))  # the maker sees the key, and could read what its owner reads
    if not is_plain(body.name) or body.name != body.name.strip():
        raise InvalidInput("must have printable characters only, and no spaces at its ends", "$.name")
    parent = keys.ring.find(caller.key_id.partition("~")[0]) if caller.key_id else None
    if caller.key_id and (parent is None or len(keys.ring.lineage(parent)) >= MOST_GENERATIONS):
        raise Forbidden(f"keys make keys over {MOST_GENERATIONS} generations at most; make this one with a JWT")
    return KeyCreated(
        key_id="",
        owner=owner,
        name=body.name,
        digest="",
        roles=_roles(caller, body),
        types=_types(caller, body),
        servers=_servers(container, caller, body),
        payloads=_payloads(caller, body),
        expires_at=_end(caller, body, now),
        per_second=_rate(parent, body),
        parent=caller.key_id,
    )


def _roles(caller: Identity, body: KeyBody) -> tuple[str, ...]:
    missing = [] if caller.has("admin") else sorted(set(body.roles) - caller.roles)
    if missing:
        raise Forbidden(f"$.roles: a key gets no role that its maker lacks: {', '.join(missing)}")
    return tuple(sorted(set(body.roles)))


def _types(caller: Identity, body: KeyBody) -> tuple[str, ...]:
    if caller.types is None:
        return tuple(sorted(set(body.types)))
    if not body.types or set(body.types) - caller.types:
        raise Forbidden(f"$.types: a key reaches no types that its maker does not: {', '.join(sorted(caller.types))}")
    return tuple(sorted(set(body.types)))


def _servers(container: Container, caller: Identity, body: KeyBody) -> tuple[str, ...] | None:
    reached = acts_for(caller, container.fleet)
    if body.servers is None:
        return None if caller.servers is None or caller.has("admin") else tuple(sorted(caller.servers))
    if "service" not in body.roles or "admin" in body.roles:
        raise InvalidInput("is for keys with the role service, and without the role admin", "$.servers")
    if reached is not None and (others := sorted(set(body.servers) - reached)):
        raise Forbidden(f"$.servers: a key acts for no servers that its maker does not act for: {', '.join(others)}")
    return tuple(sorted(set(body.servers)))


def _payloads(caller: Identity, body: KeyBody) -> bool | None:
    if body.payloads and not caller.payloads:
        raise Forbidden("$.payloads: a key reads no payloads that its maker does not read")
    return body.payloads if caller.payloads else False


def _end(caller: Identity, body: KeyBody, now: datetime) -> datetime | None:
    ends = instant(body.expires_at, "$.expiresAt")
    if ends is not None and ends <= now:
        raise InvalidInput("must be in the future", "$.expiresAt")
    if not caller.key_id or caller.expires_at >= LATEST:
        return ends
    if ends is not None and epoch_seconds(ends) > caller.expires_at:
        raise Forbidden("$.expiresAt: a key does not outlive the key that makes it")
    return ends or from_seconds(caller.expires_at)


def _rate(parent: ApiKey | None, body: KeyBody) -> float | None:
    most = None if parent is None else parent.created.per_second
    if most is None:
        return body.rate
    if body.rate is not None and body.rate > most:
        raise Forbidden(f"$.rate: a key is not faster than the key that makes it: {most:g} requests per second")
    return body.rate or most


async def room_of(container: Container, keys: ApiKeys, owner: str) -> Guard:
    """Return a guard that fails once an owner (a token) gets another key. Raises RuleBroken at the limits."""
    subjects = key_creations_filter(owner)
    last = await last_sequence(container.reading, KEYS, subjects)
    await _applied(keys, last)
    if keys.ring.live(owner, utc_now()) >= MOST_PER_OWNER:
        raise RuleBroken(f"this user has {MOST_PER_OWNER} API keys that work, the most allowed; revoke one first")
    if keys.ring.made(owner) >= MOST_EVER:
        raise RuleBroken(f"this user has made {MOST_EVER:,} API keys, the most allowed; use those that work")
    return Guard(subjects, last)


async def _applied(keys: ApiKeys, sequence: int) -> None:
    """Wait until this process has applied the log of keys up to a sequence. Raises StoreUnavailable."""
    try:
        async with asyncio.timeout(KNOWN_SECONDS):
            await keys.ring.reached(sequence)
    except TimeoutError:
        raise StoreUnavailable("the log of API keys cannot be followed now") from None


def key_routes(container: Container, keys: ApiKeys) -> list[RouteHandler]:
    routes = Routes("/keys", "Keys")
    depth = container.settings.max_json_depth
    spread = KeySpread(container.key_ring, container.consuming)

    async def found(request: ApiRequest, key_id: str, *roles: str) -> tuple[KeyRef, ApiKey]:
        ref = parse_key_id(key_id)
        check_owner(request.user, ref, "API key", *roles)
        state = (await container.commands.keys.load(ref)).state
        if isinstance(state, Unmade):
            raise NotFound("API key", key_id)
        return ref, state

    @routes.post("/", "Make an API key", "The key, which is not shown again", body=KeyBody, fails={409, 429})
    async def create_key(request: ApiRequest, idempotency_key: IdempotencyKey = None) -> NewKey:
        """Make a key that is accepted wherever a JWT is, with some of your rights, until it expires or is revoked.

        Its text is in this answer only. So the same `Idempotency-Key` again is a 409, which names the key that it made.
        """
        body = await read_as(request, KeyBody, depth)
        now = utc_now()
        rights = checked_rights(container, keys, request.user, body, now)
        owner = owner_token(rights.owner)
        ref = made_ref(owner, idempotency_key, new_key_ref, key_ref_for_key)
        await container.submissions.check_bytes(owner)
        text = new_key(ref)
        created = replace(rights, key_id=ref.id, digest=digest_of(text))

        async def room() -> Guard:
            return await room_of(container, keys, owner)

        handled = await container.commands.keys.handle(ref, CreateKey(created=created), room=room, **origin(request))
        await spread.everywhere(handled.known.sequence, KNOWN_SECONDS)
        state = cast(ApiKey, handled.known.state)
        return NewKey(key=text, details=key_summary(state, "active", None))

    @routes.get("/", "List API keys", "A page of keys, newest first")
    async def list_keys(request: ApiRequest, owner: Owner = None, limit: Limit = 50, cursor: Cursor = None) -> KeyPage:
        """List keys: those that work, those that have expired, and the last 200 of each user that were revoked."""
        of = selected_owner(request.user, owner, "list")
        shown_of = keys.ring.of(of)
        shown, following = page_of((ref.id for ref in shown_of), limit, read_id_cursor(cursor), newest_first=True)
        refs = [parse_key_id(key_id) for key_id in shown]
        uses, now = await keys.last_uses(refs), utc_now()
        return KeyPage(
            keys=[key_summary(shown_of[ref], status_of(keys, shown_of[ref], now), uses.get(ref)) for ref in refs],
            next_cursor=following,
        )

    @routes.get("/{key_id:str}", "Read an API key", "The key as it is now, without its text")
    async def get_key(request: ApiRequest, key_id: KeyId) -> KeySummary:
        """Return a key, with its rights and its last use."""
        ref, state = await found(request, key_id, *READERS_OF_ALL)
        uses = await keys.last_uses([ref])
        return key_summary(state, status_of(keys, state, utc_now()), uses.get(ref))

    @routes.delete("/{key_id:str}", "Revoke an API key", "The key works nowhere any more", body=ReasonBody)
    async def revoke_key(request: ApiRequest, key_id: KeyId) -> RevokedKey:
        """Revoke a key, and the keys that it made. When this answers, no API process accepts any of them.

        Their streams end, and their waiting requests are answered 401. What was done with them stays.
        """
        ref, _ = await found(request, key_id, "admin")
        reason = (await read_as(request, ReasonBody, depth)).reason
        command = RevokeKey(key_id=key_id, reason=reason)
        handled = await container.commands.keys.handle(ref, command, **origin(request))
        state = cast(ApiKey, handled.known.state)
        confirmed = await spread.everywhere(handled.known.sequence)
        return RevokedKey(id=key_id, revoked_at=milliseconds(state.revoked_at or utc_now()), confirmed=confirmed)

    return routes.handlers
