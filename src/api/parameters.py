"""The parameters that several routes have: as OpenAPI describes them, and what is read from them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from litestar.params import HeaderParameter, PathParameter, QueryParameter

from ..clock import random_bits, utc_now
from ..errors import Forbidden, InvalidInput, NotFound
from ..events.ids import (
    BatchRef,
    ScheduleRef,
    TaskRef,
    batch_for_key,
    is_task_id,
    new_batch,
    new_ref,
    owner_token,
    parse_schedule_id,
    ref_for_key,
)
from ..wire.fields import BATCH_ID_PATTERN, TASK_ID_PATTERN
from .auth.access import READERS_OF_ALL, ApiRequest
from .openapi.examples import BATCH_ID_EXAMPLE, TASK_ID_EXAMPLE

ID_PATTERN = TASK_ID_PATTERN
"""Of tasks, webhooks and schedules: what is unique, and the owner's token."""
LONGEST_KEY = 255
NO_CURSOR = "this is no cursor; pass `nextCursor` of the page before as it came"

TaskId = Annotated[
    str,
    PathParameter(
        description="A task's id, as the answer to its submission gave it",
        schema_extra={"pattern": ID_PATTERN, "examples": [TASK_ID_EXAMPLE]},
    ),
]
BatchId = Annotated[
    str,
    PathParameter(
        description="A batch's id, as the answer to its submission gave it",
        schema_extra={"pattern": BATCH_ID_PATTERN, "examples": [BATCH_ID_EXAMPLE]},
    ),
]
Limit = Annotated[int, QueryParameter(ge=1, le=200, description="Most entries on a page")]
Cursor = Annotated[str | None, QueryParameter(description="`nextCursor` of the page before")]
Owner = Annotated[str | None, QueryParameter(description="A user; for admins and auditors, whose default is all")]
OfSchedule = Annotated[
    str | None,
    QueryParameter(
        description="A recurring schedule's id: the tasks it has submitted", schema_extra={"pattern": ID_PATTERN}
    ),
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Up to 255 printable characters. The same key and body again give the same task, for ever",
        schema_extra={"minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[!-~][ -~]*$"},
    ),
]


def decoded(segment: str, name: str) -> str:
    """Return the text that a path's segment is, still percent-encoded; `name`: its parameter's. Raises InvalidInput."""
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidInput("this part of the path is not percent-encoded UTF-8", name) from None


def read_cursor(cursor: str | None, path: str = "cursor") -> int | None:
    """Return the sequence that a page starts before, None for the first page. Raises InvalidInput.

    `path`: where it was given, as in `$.cursor`.
    """
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.isdigit() and 0 < len(cursor) <= 19):
        raise InvalidInput(NO_CURSOR, path)
    return int(cursor)


def read_id_cursor(cursor: str | None) -> str | None:
    """Return the id that a page comes after, None for the first page. Raises InvalidInput."""
    if not cursor:
        return None
    if not is_task_id(cursor):
        raise InvalidInput(NO_CURSOR, "cursor")
    return cursor


def read_schedule(schedule_id: str | None) -> ScheduleRef | None:
    """Return the schedule whose tasks are listed, None for any or none. Raises InvalidInput."""
    if schedule_id is None:
        return None
    try:
        return parse_schedule_id(schedule_id)
    except NotFound:
        raise InvalidInput("this is no schedule's id", "schedule") from None


def listed_owner(request: ApiRequest, owner: str | None) -> str | None:
    """Return the token of the owner whose tasks are listed, None for everybody's. Raises Forbidden."""
    own = owner_token(request.user.subject)
    if request.user.has(*READERS_OF_ALL):
        return owner_token(owner) if owner else None
    if owner and owner_token(owner) != own:
        raise Forbidden("only admins and auditors list other users' tasks; leave `owner` out for your own")
    return own


def submitted_ref(owner: str, idempotency_key: str | None) -> TaskRef:
    """Return the task of an owner token that a submission is: with a key always the same one. Raises InvalidInput."""
    if idempotency_key is None:
        return new_ref(owner, utc_now(), random_bits(80))
    return ref_for_key(owner, checked_key(idempotency_key))


def submitted_batch(owner: str, idempotency_key: str | None) -> BatchRef:
    """Return the batch of an owner token that a submission is: with a key always the same one. Raises InvalidInput."""
    if idempotency_key is None:
        return new_batch(owner, utc_now(), random_bits(80))
    return batch_for_key(owner, checked_key(idempotency_key))


def checked_key(idempotency_key: str) -> str:
    """Return the key. Raises InvalidInput for what cannot be one."""
    if not 0 < len(idempotency_key) <= LONGEST_KEY or not idempotency_key.isprintable():
        raise InvalidInput(f"an Idempotency-Key is 1 to {LONGEST_KEY} printable characters", "Idempotency-Key")
    return idempotency_key
