"""The reader of batch jobs."""

from __future__ import annotations

from ..commands import batch_job
from ..commands.batch_job import BatchJob
from ..events.batch_job import BatchJobCreated
from ..events.codec import batch_job_codec
from ..events.ids import BatchJobRef
from ..events.subjects import batch_job_ref, batch_job_root, batch_jobs_filter
from ..streams.client.connection import Connection
from ..streams.topology.definitions import BATCH_JOBS
from .latest_states import LatestStates

BATCH_JOB_STATES = LatestStates(
    BATCH_JOBS,
    batch_job_codec,
    ref_of=batch_job_ref,
    root_of=batch_job_root,
    unknown=batch_job.UNKNOWN_JOB,
    evolve=batch_job.evolve,
    known=BatchJob,
    kinds=8,
)


async def batch_job_refs(reading: Connection, owner: str | None) -> list[BatchJobRef]:
    """Return the jobs of an owner token, of everybody for None; as `LatestStates.refs` does."""
    return await BATCH_JOB_STATES.refs(reading, batch_jobs_filter(owner, BatchJobCreated))
