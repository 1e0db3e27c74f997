"""What answers have in common."""

from __future__ import annotations

from msgspec import Struct


class Page(Struct, kw_only=True, rename="camel"):
    """A page of a list."""

    next_cursor: str | None
    """Pass as `cursor` for the next page; null after the last."""


class DoneTo(Struct, kw_only=True):
    """It is done."""

    id: str
    success: bool = True
