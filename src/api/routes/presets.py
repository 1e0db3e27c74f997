"""Presets of registrations. Admins only."""

from __future__ import annotations

from functools import cache

import msgspec

from ...backends.presets import Preset, expanded, presets
from ..auth.access import ApiRequest
from ..exchange_registration import stored_exchange
from ..routing import RouteHandler, Routes
from ..schemas.exchange import ExchangeBody, PresetInfo, PresetList, shown_exchange


def preset_routes() -> list[RouteHandler]:
    routes = Routes("/presets", "Servers", roles=("admin",))

    @routes.get("/", "List presets", "The presets, by name")
    async def list_presets(request: ApiRequest) -> PresetList:  # noqa: ARG001 - the role is checked by it
        """List the presets of registrations: known programs, with what their servers need.

        A registration names one as `preset`. It is expanded then: later versions of it change no registered server.
        """
        return _presets()

    return routes.handlers


@cache
def _presets() -> PresetList:
    return PresetList(presets=[preset_info(name, preset) for name, preset in presets().items()])


def preset_info(name: str, preset: Preset) -> PresetInfo:
    """Return a preset as admins see it. Raises InvalidInput for one that no registration could name."""
    server = expanded({}, preset)
    exchange = msgspec.convert(server["exchange"], ExchangeBody) if "exchange" in server else None
    return PresetInfo(
        name=name,
        title=preset.title,
        description=preset.description,
        unsupported=preset.unsupported,
        dialect=server["dialect"],
        exchange=shown_exchange(stored_exchange(exchange, "authorization")) if exchange is not None else None,
        registration={**preset.example, "preset": name},
    )
