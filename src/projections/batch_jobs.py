"""The reader of batch jobs: pages of them for lists, and those that are not over, folded as they change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from ..commands import batch_job
from ..commands.batch_job import BatchJob, BatchJobState
from ..events.batch_job import BatchJobCreated
from ..events.codec import batch_job_codec
from ..events.ids import BatchJobRef
from ..events.subjects import batch_job_ref, batch_job_root, batch_jobs_filter, history_filter
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
from ..streams.topology.definitions import BATCH_JOBS

KINDS = 8
"""Kinds of events, and so the most subjects of a job."""
AT_ONCE = MOST_SUBJECTS // KINDS
"""Jobs per request."""


class UnfinishedJobs:
    """The jobs that are not over, as of the events applied."""

    def __init__(self) -> None:
        self._states: dict[BatchJobRef, BatchJob] = {}

    def apply(self, positions: Sequence[Position]) -> None:
        """Fold events, in order. Raises UnreadableEvent."""
        for position in positions:
            ref = batch_job_ref(position.subject)
            state: BatchJobState = self._states.get(ref, batch_job.UNKNOWN_JOB)
            state = batch_job.evolve(state, decode(batch_job_codec, position).recorded)
            if isinstance(state, BatchJob) and not state.is_over:
                self._states[ref] = state
            else:
                self._states.pop(ref, None)

    @property
    def states(self) -> Mapping[BatchJobRef, BatchJob]:
        return self._states


async def batch_job_refs(reading: Connection, owner: str | None) -> list[BatchJobRef]:
    """Return the jobs of an owner token, of everybody for None; by id, the newest first.

    Only names of subjects are read. An id derived from an Idempotency-Key does not show the age.
    """
    subjects = await list_subjects(reading, BATCH_JOBS, batch_jobs_filter(owner, BatchJobCreated))
    return sorted(map(batch_job_ref, subjects), key=lambda ref: ref.id, reverse=True)


async def load_batch_jobs(reading: Connection, refs: Sequence[BatchJobRef]) -> dict[BatchJobRef, BatchJob]:
    """Return the state of each job; one that has just passed its retention is left out.

    Raises UnreadableEvent for an event that does not decode, StoreUnavailable if NATS does not answer.
    """
    found: dict[BatchJobRef, BatchJob] = {}
    missing = list(refs)
    for _ in range(STALE_REPLICA_TRIES):
        for start in range(0, len(missing), AT_ONCE):
            found |= await _load(reading, missing[start : start + AT_ONCE])
        missing = [ref for ref in missing if ref not in found]
        if not missing:
            break
        await asyncio.sleep(STALE_REPLICA_PAUSE_SECONDS)
    return found


async def _load(reading: Connection, refs: Sequence[BatchJobRef]) -> dict[BatchJobRef, BatchJob]:
    states: dict[BatchJobRef, BatchJobState] = dict.fromkeys(refs, batch_job.UNKNOWN_JOB)
    filters = [history_filter(batch_job_root(ref)) for ref in refs]
    for position in sorted(await read_last(reading, BATCH_JOBS, filters)):
        ref = batch_job_ref(position.subject)
        states[ref] = batch_job.evolve(states[ref], decode(batch_job_codec, position).recorded)
    return {ref: state for ref, state in states.items() if isinstance(state, BatchJob)}
