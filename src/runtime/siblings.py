"""The other processes of the same `taskstream up`, as this one knows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec import Struct


class SiblingState(Struct, frozen=True, kw_only=True):
    """What the supervisor says of a process."""

    state: Literal["starting", "ready", "restarting"]
    halted: dict[str, str] = {}
    """Its background services that have stopped for good, each with the reason."""


async def _no_pages() -> list[str]:
    return []


class Siblings:
    """Empty in a process that runs alone."""

    def __init__(self, name: str = "", pages: Callable[[], Awaitable[list[str]]] = _no_pages) -> None:
        self.name = name
        """Of this process, as in `api-1`; empty if it runs alone."""
        self.pages = pages
        """Returns the metrics of each other one that answers, in Prometheus' text format."""
        self.states: Mapping[str, SiblingState] = {}
        """Of the others, by name."""

    @property
    def halted(self) -> dict[str, str]:
        """The services that have stopped for good, by name, each with the reason."""
        return {name: why for sibling in self.states.values() for name, why in sibling.halted.items()}

    @property
    def missing(self) -> list[str]:
        """Those that do not work now."""
        return [name for name, sibling in self.states.items() if sibling.state != "ready"]
