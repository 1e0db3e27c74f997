"""Presets: registrations of known programs, as data. One TOML file each, in this folder.

A preset is expanded when a server is registered, so the history holds what was sent to servers at any time, whatever a
later version of the preset says.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from ...events.exchange import BareExchange
from ..exchange_body import ExchangeBody
from ..exchange_form import stored_exchange


class Preset(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A preset."""

    title: str
    """The program, and the part of it that is called."""
    description: str
    unsupported: list[str] = []
    """What the program can do that the preset does not use."""
    server: dict[str, Any]
    """Fields of a registration, as admins write them."""
    example: dict[str, Any]
    """The rest of a registration."""


@cache
def presets() -> Mapping[str, Preset]:
    """Return the presets by name, in order of their names."""
    found = {
        file.name.removesuffix(".toml"): msgspec.convert(tomllib.loads(file.read_text("utf-8")), Preset)
        for file in files(__name__).iterdir()
        if file.name.endswith(".toml")
    }
    return MappingProxyType(dict(sorted(found.items())))


@cache
def exchange_of(name: str) -> BareExchange | None:
    """Return the exchange that a preset sets; None for none, and for an unknown name."""
    preset = presets().get(name)
    if preset is None or "exchange" not in preset.server:
        return None
    return stored_exchange(msgspec.convert(preset.server["exchange"], ExchangeBody), "authorization")


def expanded(given: Mapping[str, Any], preset: Preset) -> dict[str, Any]:
    """Return a registration with the fields of a preset that it does not have itself.

    Of `exchange`, and of the objects in it, each field is taken by itself.
    """
    whole = {**preset.server, **given}
    ours, theirs = preset.server.get("exchange"), given.get("exchange")
    if isinstance(ours, dict) and isinstance(theirs, dict):
        whole["exchange"] = {**ours, **{name: _joined(ours.get(name), value) for name, value in theirs.items()}}
    return whole


def _joined(ours: Any, theirs: Any) -> Any:
    return {**ours, **theirs} if isinstance(ours, dict) and isinstance(theirs, dict) else theirs
