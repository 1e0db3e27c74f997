"""Presets of registrations. Admins only."""

from __future__ import annotations

from functools import cache

from ...backends.exchange_body import shown_exchange
from ...backends.presets import Preset, exchange_of, presets
from ..auth.access import ApiRequest
from ..routing import RouteHandler, Routes
from ..schemas.presets import PresetInfo, PresetList


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
    """Return a preset as admins see it."""
    exchange = exchange_of(name)
    return PresetInfo(
        name=name,
        title=preset.title,
        description=preset.description,
        unsupported=preset.unsupported,
        dialect=preset.server["dialect"],
        exchange=shown_exchange(exchange) if exchange is not None else None,
        registration={**preset.example, "preset": name},
    )
