"""Fields that many answers share."""

from __future__ import annotations

from msgspec import Struct


class Page(Struct, kw_only=True, rename="camel"):
    """A page of a list."""

    next_cursor: str | None
    """Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one."""


class DoneTo(Struct, kw_only=True):
    """Done."""

    id: str
    success: bool = True
