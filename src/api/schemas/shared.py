"""Shapes that several capabilities share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Page(Struct, kw_only=True, rename="camel"):
    """A page of a list."""

    next_cursor: str | None
    """Pass as `cursor` to get the next page; null after the last page. A page may be short and still have one."""


class ReasonBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """The reason for a command, in words."""

    reason: Annotated[str, Meta(max_length=300)] = ""
    """Recorded in the log."""


class DoneAnswer(Struct, kw_only=True):
    """The command is done."""

    id: str
    success: bool = True
