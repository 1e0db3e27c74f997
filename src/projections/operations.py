"""The reader of operations: pages of them for lists, and those that are not over, folded as they change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ..commands import operation
from ..commands.operation import Operation, OperationState
from ..events.codec import operation_codec
from ..events.ids import OperationRef
from ..events.operation import OperationStarted
from ..events.subjects import history_filter, operation_ref, operation_root, operations_filter
from ..streams.client.connection import Connection
from ..streams.jetstream.messages import (
    MOST_SUBJECTS,
    STALE_REPLICA_PAUSE_SECONDS,
    STALE_REPLICA_TRIES,
    Position,
    list_subjects,
    read_last,
)
from ..streams.log import decode
from ..streams.topology.definitions import OPERATIONS

KINDS = 7
"""Kinds of events, and so the most subjects of an operation."""
AT_ONCE = MOST_SUBJECTS // KINDS
"""Operations per request."""


class RunningOperations:
    """The operations that are not over, as of the events applied."""

    def __init__(self) -> None:
        self._states: dict[OperationRef, OperationState] = {}

    def apply(self, positions: Sequence[Position]) -> None:
        """Fold events, in order. Raises UnreadableEvent."""
        for position in positions:
            ref = operation_ref(position.subject)
            state = self._states.get(ref, operation.UNSTARTED)
            state = operation.evolve(state, decode(operation_codec, position).recorded)
            if isinstance(state, Operation) and not state.is_over:
                self._states[ref] = state
            else:
                self._states.pop(ref, None)

    @property
    def states(self) -> Mapping[OperationRef, OperationState]:
        return self._states


async def operation_refs(reading: Connection, owner: str | None) -> list[OperationRef]:
    """Return the operations of an owner token, of everybody for None; by id, the newest first.

    Only names of subjects are read. An id derived from an Idempotency-Key does not show the age.
    """
    subjects = await list_subjects(reading, OPERATIONS, operations_filter(owner, OperationStarted))
    return sorted(map(operation_ref, subjects), key=lambda ref: ref.id, reverse=True)


async def load_operations(reading: Connection, refs: Sequence[OperationRef]) -> dict[OperationRef, Operation]:
    """Return the state of each operation; one that has just passed its retention is left out.

    Raises UnreadableEvent for an event that does not decode, StoreUnavailable if NATS does not answer.
    """
    found: dict[OperationRef, Operation] = {}
    missing = list(refs)
    for _ in range(STALE_REPLICA_TRIES):
        for start in range(0, len(missing), AT_ONCE):
            found |= await _load(reading, missing[start : start + AT_ONCE])
        missing = [ref for ref in missing if ref not in found]
        if not missing:
            break
        await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
    return found


async def _load(reading: Connection, refs: Sequence[OperationRef]) -> dict[OperationRef, Operation]:
    states: dict[OperationRef, OperationState] = dict.fromkeys(refs, operation.UNSTARTED)
    filters = [history_filter(operation_root(ref)) for ref in refs]
    for position in sorted(await read_last(reading, OPERATIONS, filters)):
        ref = operation_ref(position.subject)
        states[ref] = operation.evolve(states[ref], decode(operation_codec, position).recorded)
    return {ref: state for ref, state in states.items() if isinstance(state, Operation)}
