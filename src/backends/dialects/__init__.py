"""The wire formats that backend servers speak, by name. Pure: `backends.exchanges` does the I/O."""

from ...events.server import ServerRegistered
from ...events.task_type import TypeDefined
from .bare import Bare
from .cog import Cog
from .dialect import Dialect
from .oip import Oip
from .openai import OpenAI
from .taskstream import Taskstream

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Bare(), Cog(), Oip(), OpenAI(), Taskstream())}
"""Each needs a fixture in tests/backends/wire_fixtures.py: the conformance suite fails without one."""


def dialect_of(server: ServerRegistered, definition: TypeDefined | None = None) -> Dialect:
    """Return the dialect that a server speaks: its own, else that of the task's type, else `taskstream`.

    `definition`: the settings of the task's type; None outside an attempt, as for a health check. A name that this
    version does not know counts as none.
    """
    for name in (server.dialect, definition.dialect if definition is not None else ""):
        if found := DIALECTS.get(name):
            return found
    return DIALECTS[Taskstream.name]


def is_checked(server: ServerRegistered) -> bool:
    """Return True if requests check a server's health; of another, heartbeats tell."""
    return dialect_of(server).health(server) is not None
