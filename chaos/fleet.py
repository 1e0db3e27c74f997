"""The servers of a run: what each speaks and serves, how it misbehaves of its own accord, and in which process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from testkit.processes import python
from testkit.service import token

from .evidence import TASKSTREAM, Line, Server
from .long_manners import MANNERS, JobManner
from .manners import Manner
from .schedule import BACKENDS, MODEL_SERVERS, MODEL_TYPE, MODELS, PULLED, PULLERS

TYPES: dict[str, Line] = {"batch": {"attempts": 4}, MODEL_TYPE: {"attempts": 4, "pool": "default"}}
"""Definitions of the types that are not of held tasks."""
HELD = ("limited", "keyed", "paired", "newest")
"""Types of held tasks."""


class Part(Struct, frozen=True, kw_only=True):
    """A server of a run."""

    limit: int
    """Attempts it may have at once."""
    types: frozenset[str] = frozenset()
    """Task types that it serves; empty: all."""
    manner: str = TASKSTREAM
    reports: bool = False
    busy_seconds: float = 0.0
    """It is busy for so long, then has room for so long, and so on."""
    extra_chance: float = 0.0
    """Of an answer that nobody asked for, after any answer."""
    process: str = ""
    """Name of the process that it shares with others; empty: it has one of its own."""
    pullers: tuple[str, ...] = ()
    """Processes that ask for its tasks; none: they are sent to it."""

    def manner_of(self) -> Manner:
        """Return how it speaks."""
        return MANNERS[self.manner]()

    def command(self, name: str, port: int, log: Path, *, misbehaves: bool) -> str:
        """Return the argument that starts it, by its name."""
        options = [self.manner]
        if misbehaves and self.busy_seconds:
            options.append(f"busy={self.busy_seconds}")
        if misbehaves and self.extra_chance:
            options.append(f"extra={self.extra_chance}")
        return f"{name}={port},{log},{','.join(options)}"

    def registration(self, name: str, base: str) -> Line:
        """Return the body that registers it at a URL."""
        reports = {"async": True, "callback": True} if self.reports and not self.pullers else {}
        return {
            "id": name,
            "name": name,
            "provider": "chaos",
            **reports,
            "maxConcurrent": self.limit,
            "types": sorted(self.types),
            **({"mode": "pull"} if self.pullers else self.manner_of().registration(base)),
        }

    def server(self, *, misbehaves: bool) -> Server:
        """Return it as evidence."""
        manner = MANNERS[self.manner]
        return Server(
            limit=self.limit,
            types=self.types,
            reports=self.reports,
            busy_seconds=self.busy_seconds if misbehaves else 0.0,
            sends_extra=bool(self.extra_chance) and misbehaves,
            dialect=manner.dialect,
            polled=issubclass(manner, JobManner),
            pulled=bool(self.pullers),
            processes=self.pullers or ((self.process,) if self.process else ()),
        )


def _model(manner: str, limit: int, *more: str, busy_seconds: float = 0.0, extra_chance: float = 0.0) -> Part:
    """Return a server of the process that has those of the other dialects."""
    types = frozenset({MODEL_TYPE, *more})
    return Part(
        limit=limit,
        types=types,
        manner=manner,
        process=MODELS,
        busy_seconds=busy_seconds,
        extra_chance=extra_chance,
    )


FLEET: dict[str, Part] = {
    "backend-1": Part(limit=4, types=frozenset({"default", "batch", *HELD}), extra_chance=0.2),
    "backend-2": Part(limit=3, types=frozenset({"default", "limited", "keyed", "newest"}), busy_seconds=1.5),
    "backend-3": Part(limit=5, types=frozenset({"default", "batch", "limited", "paired", "newest"}), reports=True),
    "bare": _model("bare", 2, "default", extra_chance=0.2),
    "jobs": _model("jobs", 3),
    "cog": _model("cog", 2, busy_seconds=1.2),
    "openai": _model("openai", 2),
    "oip": _model("oip", 2, busy_seconds=1.0, extra_chance=0.1),
    PULLED: Part(limit=3, types=frozenset({MODEL_TYPE, "default", "limited"}), reports=True, pullers=PULLERS),
}
"""By name."""
EVERY = (*BACKENDS, *MODEL_SERVERS, PULLED)
"""All that a run with faults has."""


def processes(servers: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the servers that each process has, by its name."""
    found: dict[str, list[str]] = {}
    for name in servers:
        if not FLEET[name].pullers:
            found.setdefault(FLEET[name].process or name, []).append(name)
    return found


def puller_command(name: str, url: str, log: Path) -> list[str]:
    """Return the command of a puller that calls an API at a URL."""
    options = {"id": name, "server": PULLED, "url": url, "token": token(PULLED, "service"), "log": str(log)}
    return python("chaos.puller", *(word for option, value in options.items() for word in (f"--{option}", value)))


def command(servers: Sequence[str]) -> list[str]:
    """Return the command of a process that has such servers, each as `Part.command` says it."""
    return python("chaos.backend", *servers)
