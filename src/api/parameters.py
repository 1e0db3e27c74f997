"""Parameters that several routes share: their OpenAPI descriptions, and the functions that read them.

Every list pages the same way: `limit`, `cursor`, and `nextCursor` in the answer (schemas.page.Page). A cursor is the
last name or id of the page, or a sequence of the log; clients pass it on unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Annotated, Literal, TypeVar
from urllib.parse import unquote

from litestar.params import HeaderParameter, PathParameter, QueryParameter

from ..clock import random_bits, utc_now
from ..errors import Forbidden, InvalidInput
from ..events.ids import BatchJobRef, BatchRef, KeyRef, OperationRef, ScheduleRef, TaskRef, is_task_id, owner_token
from ..wire.fields import BATCH_ID_PATTERN, SERVER_ID_PATTERN, TASK_ID_PATTERN, TYPE_NAME_PATTERN
from .auth.access import READERS_OF_ALL
from .auth.authenticator import Identity
from .openapi.examples import BATCH_ID_EXAMPLE, TASK_ID_EXAMPLE

T = TypeVar("T", bound=str)
Ref = TypeVar("Ref", TaskRef, BatchRef, ScheduleRef, OperationRef, KeyRef, BatchJobRef)

Use = Literal["list", "command"]
"""What something is selected for."""
ALL_OWNERS = "*"
_OWNER_PATH: dict[Use, str] = {"list": "owner", "command": "$.filter.owner"}
ID_PATTERN = TASK_ID_PATTERN
"""Ids of tasks, webhooks and schedules: a unique part and the owner's token."""
DELIVERY_ID_PATTERN = r"^[0-9A-HJKMNP-TV-Z]{26}$"
LONGEST_KEY = 255


def _in_path(description: str, pattern: str, *examples: str, longest: int | None = None) -> PathParameter:
    lengths = {"minLength": 1, "maxLength": longest} if longest else {}
    return PathParameter(
        description=description, schema_extra={"pattern": pattern, "examples": list(examples), **lengths}
    )


TaskId = Annotated[str, _in_path("A task's id, from the answer to its submission", ID_PATTERN, TASK_ID_EXAMPLE)]
BatchId = Annotated[
    str, _in_path("A batch's id, from the answer to its submission", BATCH_ID_PATTERN, BATCH_ID_EXAMPLE)
]
ScheduleId = Annotated[str, _in_path("A schedule's id, from the answer to its creation", ID_PATTERN, TASK_ID_EXAMPLE)]
OperationId = Annotated[str, _in_path("An operation's id, from the answer to its start", ID_PATTERN, TASK_ID_EXAMPLE)]
KeyId = Annotated[str, _in_path("A key's id, from the answer to its creation", ID_PATTERN, TASK_ID_EXAMPLE)]
WebhookId = Annotated[str, _in_path("A webhook's id, from the answer to its registration", ID_PATTERN, TASK_ID_EXAMPLE)]
DeliveryId = Annotated[
    str, _in_path("A delivery's id, from the list of deliveries", DELIVERY_ID_PATTERN, "01KDW1Z6P0C6N4T0Z5V3Q9H8RB")
]
ServerId = Annotated[str, _in_path("A server's id, as registered", SERVER_ID_PATTERN, "gpu-1", longest=128)]
TypeNameInPath = Annotated[
    str,
    _in_path("A type's name: letters, digits, dots, dashes and underscores", TYPE_NAME_PATTERN, "resize", longest=64),
]
PoolNameInPath = Annotated[str, _in_path("A pool's name", TYPE_NAME_PATTERN, "default", longest=64)]
OwnerInPath = Annotated[
    str,
    PathParameter(
        description="The `sub` of the owner's token, percent-encoded",
        schema_extra={"examples": ["alice", "auth0%7C5f7c8ec7c33c6c004bbafe82"]},
    ),
]


def _page_size(most: int) -> QueryParameter:
    return QueryParameter(ge=1, le=most, description="Largest number of entries on a page")


Limit = Annotated[int, _page_size(200)]
TypeLimit = Annotated[int, _page_size(1_000)]
ServerLimit = Annotated[int, _page_size(5_000)]
Bodies = Annotated[bool, QueryParameter(description="False: the sizes of bodies instead of the bodies")]
NEWEST = "end"
"""The value of `before` for the last events."""
Before = Annotated[
    str | None,
    QueryParameter(
        description="Newest first: only events before this sequence; `end`: the last ones",
        schema_extra={"pattern": r"^(end|\d{1,19})$"},
    ),
]
EventNames = Annotated[
    list[str] | None, QueryParameter(description="One or more names of events: the value of their `type`")
]
EventLimit = Annotated[int, QueryParameter(ge=1, le=1000, description="Most entries on a page")]
Cursor = Annotated[str | None, QueryParameter(description="`nextCursor` of the previous page")]
RemovedOnly = Annotated[
    bool, QueryParameter(description="True: the removed servers, with `removed`, instead of the registered ones")
]
Owner = Annotated[
    str | None,
    QueryParameter(description="One user; `*`: all. Admins and auditors only, who see all by default"),
]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        description="The `ETag` of an answer: the change is made only if the settings are still those; else a 412",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="1 to 255 printable characters. The same key and body always get the same answer",
        schema_extra={"minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[!-~][ -~]*$"},
    ),
]


def decoded(segment: str, name: str) -> str:
    """Return the text of a percent-encoded path segment; `name` is its parameter. Raises InvalidInput."""
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidInput("must be percent-encoded UTF-8", name) from None


# Paging


def page_of(
    names: Iterable[str], limit: int, cursor: str | None, *, newest_first: bool = False
) -> tuple[list[str], str | None]:
    """Return the names on a page, sorted, and the cursor of the next page, None after the last.

    `newest_first`: the names are ids, which sort by the time they were made; listed in descending order.
    """
    remaining = (name for name in names if not cursor or (name < cursor if newest_first else name > cursor))
    found = sorted(remaining, reverse=newest_first)
    shown = found[:limit]
    return shown, shown[-1] if len(found) > limit else None


def read_id_cursor(cursor: str | None) -> str | None:
    """Return the id that a page starts after, None for the first page. Raises InvalidInput."""
    if cursor and not is_task_id(cursor):
        raise bad_cursor("cursor")
    return cursor or None


def read_cursor(cursor: str | None, path: str = "cursor") -> int | None:
    """Return the sequence that a page starts before, None for the first page. Raises InvalidInput.

    `path`: where the cursor was given, as in `$.cursor`.
    """
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 19):
        raise bad_cursor(path)
    return int(cursor)


def next_cursor(sequence: int | None) -> str | None:
    """Return the cursor of the page that starts before a sequence; None after the last page."""
    return None if sequence is None else str(sequence)


def bad_cursor(path: str, of: str = "") -> InvalidInput:
    """Return the error about a cursor; `of` says of which list it should be."""
    return InvalidInput(f"not a cursor{of and ' '}{of}; pass `nextCursor` of the previous page unchanged", path)


def read_direction(after: str | None, before: str | None) -> tuple[bool, int | None]:
    """Return True if a page of events starts with the newest, and the sequence before which it then starts.

    None: it starts with the last event. Raises InvalidInput.
    """
    if before and after:
        raise InvalidInput("send `after` or `before`, not both", "before")
    return bool(before), None if before in (None, NEWEST) else read_cursor(before, "before")


# Owners, keys, choices


def read_choices(given: Sequence[str] | None, allowed: AbstractSet[T], parameter: str) -> frozenset[T]:
    """Return the values of a list parameter, also comma-separated; empty for none. Raises InvalidInput."""
    chosen = {part for text in given or () for part in text.split(",") if part}
    if unknown := chosen - allowed:
        raise InvalidInput(f"{min(unknown)!r} is not one of {', '.join(sorted(allowed))}", parameter)
    return frozenset(value for value in allowed if value in chosen)


def choice(given: str | None, allowed: Sequence[T], parameter: str) -> T | None:
    """Return the value of a parameter that takes one of a few, None for none. Raises InvalidInput."""
    if given is None:
        return None
    for value in allowed:
        if value == given:
            return value
    raise InvalidInput(f"{given!r} is not one of {', '.join(allowed)}", parameter)


def split_names(given: Sequence[str] | None) -> frozenset[str]:
    """Return the names of types or pools of a list parameter, also comma-separated: no such name has a comma."""
    return frozenset(part for text in given or () for part in text.split(","))


def selected_owner(identity: Identity, owner: str | None, use: Use) -> str | None:
    """Return the token of the owner whose things are selected, None for everybody's. Raises Forbidden, InvalidInput.

    In a list, those who may read all see everybody's by default. In a command, they must say whose.
    """
    if owner == "":
        raise InvalidInput("is empty; name a user, or leave it out", _OWNER_PATH[use])
    own = owner_token(identity.subject)
    if identity.has(*(READERS_OF_ALL if use == "list" else ("admin",))):
        if owner is None and use == "command":
            raise InvalidInput("an admin must say whose tasks: a user, or `*` for all users'", _OWNER_PATH[use])
        return owner_token(owner) if owner not in (None, ALL_OWNERS) else None
    if owner is not None and (owner == ALL_OWNERS or owner_token(owner) != own):
        may = "admins and auditors list" if use == "list" else "admins change"
        raise Forbidden(f"only {may} what other users own; leave out `owner` for your own")
    return own


def made_ref(
    owner: str,
    idempotency_key: str | None,
    new: Callable[[str, datetime, int], Ref],
    for_key: Callable[[str, str], Ref],
) -> Ref:
    """Return the id of what a request makes for an owner token; a key always gives the same id. Raises InvalidInput."""
    if idempotency_key is None:
        return new(owner, utc_now(), random_bits(80))
    return for_key(owner, checked_key(idempotency_key))


def checked_key(idempotency_key: str) -> str:
    """Return the key. Raises InvalidInput unless it is a short printable text."""
    if not 0 < len(idempotency_key) <= LONGEST_KEY or not idempotency_key.isprintable():
        raise InvalidInput(f"must be 1 to {LONGEST_KEY} printable characters", "Idempotency-Key")
    return idempotency_key
