"""Presets of registrations, as admins read them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...backends.exchange_body import ExchangeBody


class PresetInfo(Struct, kw_only=True, rename="camel"):
    """A preset of registrations."""

    name: str
    title: str
    description: str
    unsupported: list[str]
    """What the program can do that this preset does not use."""
    dialect: str
    exchange: ExchangeBody | None
    """Null: the dialect needs none."""
    registration: dict[str, Any]
    """An example, ready to adapt: the body of `POST /api/servers`."""


class PresetList(Struct, kw_only=True):
    """The presets, by name."""

    presets: list[PresetInfo]
