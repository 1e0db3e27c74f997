"""Lists in the form of OpenAI's API: `{object: "list", data, has_more, first_id, last_id}`, paged by `after`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from litestar.datastructures import MultiDict
from msgspec import Struct

from ....errors import InvalidInput

MOST = 100
"""Entries of a page, at most."""
USUAL = 20


class OpenAIPage(Struct, kw_only=True):
    """A page of a list. The next one begins `after` its `last_id`."""

    object: Literal["list"] = "list"
    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AskedPage(Struct, frozen=True, kw_only=True):
    """Which page is asked for."""

    after: str = ""
    """The id before its first entry; empty: the first page."""
    limit: int = USUAL
    is_ascending: bool = False
    """Oldest first; the default is newest first."""


def asked_page(query: MultiDict[Any], known: Sequence[str] = (), *, limit: int = USUAL, most: int = MOST) -> AskedPage:
    """Return which page a query asks for. `known`: its further parameters. Raises InvalidInput."""
    check_query(query, ("after", "limit", "order", *known))
    size, order = query.get("limit", str(limit)), query.get("order", "desc")
    if not (size.isascii() and size.isdigit() and len(size) < 7 and 1 <= int(size) <= most):
        raise InvalidInput(f"must be a whole number from 1 to {most}", "limit")
    if order not in ("asc", "desc"):
        raise InvalidInput("must be `asc` or `desc`", "order")
    return AskedPage(after=query.get("after", ""), limit=int(size), is_ascending=order == "asc")


def check_query(query: MultiDict[Any], known: Sequence[str]) -> None:
    """Raise InvalidInput for a parameter that is not known here: it would be ignored silently."""
    for name in query:
        if name not in known:
            raise InvalidInput("is not a parameter of this call; leave it out", name[:100])


def page(entries: Sequence[Any], limit: int) -> OpenAIPage:
    """Return a page of entries with an `id`, read up to one more than the page has."""
    shown = list(entries[:limit])
    ids = [entry["id"] if isinstance(entry, dict) else entry.id for entry in shown]
    return OpenAIPage(
        data=shown,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=len(entries) > limit,
    )
