"""The reader of operations."""

from __future__ import annotations

from ..commands import operation
from ..commands.operation import Operation
from ..events.codec import operation_codec
from ..events.ids import OperationRef
from ..events.operation import OperationStarted
from ..events.subjects import operation_ref, operation_root, operations_filter
from ..streams.client.connection import Connection
from ..streams.topology.definitions import OPERATIONS
from .latest_states import LatestStates

OPERATION_STATES = LatestStates(
    OPERATIONS,
    operation_codec,
    ref_of=operation_ref,
    root_of=operation_root,
    unknown=operation.UNSTARTED,
    evolve=operation.evolve,
    known=Operation,
    kinds=7,
)


async def operation_refs(reading: Connection, owner: str | None) -> list[OperationRef]:
    """Return the operations of an owner token, of everybody for None; as `LatestStates.refs` does."""
    return await OPERATION_STATES.refs(reading, operations_filter(owner, OperationStarted))
