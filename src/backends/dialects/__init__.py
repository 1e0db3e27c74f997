"""The wire formats that backend servers speak, by name. Pure: `backends.client` does the I/O."""

from ...events.server import ServerRegistered
from .dialect import Dialect
from .taskstream import Taskstream

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Taskstream(),)}
"""Each needs a fixture in tests/backends/wire_fixtures.py: the conformance suite fails without one."""


def dialect_of(server: ServerRegistered) -> Dialect:  # noqa: ARG001 - a registration cannot choose yet
    """Return the dialect that a server speaks."""
    return DIALECTS[Taskstream.name]
