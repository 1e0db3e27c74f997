"""The tasks that have not ended, by the server they run on, from the `tasks` bucket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from ..errors import Conflict
from ..events.ids import TaskRef
from ..events.subjects import TASK_SUBJECTS
from ..streams.buckets import Bucket, BucketEntry
from ..streams.jetstream.messages import read_some
from ..streams.topology.definitions import TASKS
from .checkpoint import CHECKPOINT
from .task_view import ACTIVE, Listed, active_key, view_key
from .task_view import decode as decode_view

SERVERS_AT_ONCE = 100


async def running_on(bucket: Bucket, server_name: str) -> list[TaskRef]:
    """Return the tasks that run on a server (by token), as far as projected."""
    return [task.ref for task in await _listed(bucket, f"active.{server_name}.*.*")]


async def count_running(bucket: Bucket, server_names: Sequence[str]) -> dict[str, int]:
    """Return how many tasks run on each server (by token), as far as projected."""
    counts = dict.fromkeys(server_names, 0)
    for start in range(0, len(server_names), SERVERS_AT_ONCE):
        names = server_names[start : start + SERVERS_AT_ONCE]
        found = await bucket.get_matching(*(f"active.{name}.*.*" for name in names))
        if found is None:  # too many at once
            found = [entry for name in names for entry in await _entries(bucket, f"active.{name}.*.*")]
        for entry in found:
            counts[entry.key.split(".", 2)[1]] += 1
    return counts


async def _entries(bucket: Bucket, key_filter: str) -> list[BucketEntry]:
    """Return the entries on a filter.

    It scans only if there are many: after its start a server reads the whole bucket for a scan, which takes seconds and
    blocks all writers.
    """
    found = await bucket.get_matching(key_filter)
    return await bucket.scan(key_filter) if found is None else found


async def _keys(bucket: Bucket, key_filter: str) -> list[str]:
    return [entry.key for entry in await _entries(bucket, key_filter)]


async def active_tasks(bucket: Bucket) -> list[Listed]:
    """Return all tasks that have not ended, as far as projected."""
    return await _listed(bucket, "active.>")


async def active_keys(bucket: Bucket) -> list[str]:
    """Return the key of each task that has not ended; the key of a task that moves meanwhile may be missing."""
    return await _keys(bucket, "active.>")


async def unstarted_tasks(bucket: Bucket) -> list[Listed]:
    """Return the tasks that run on no server, as far as projected; one that is being started may be missing."""
    refs = {view_key(ref): ref for ref in map(ref_of, await _keys(bucket, "active.=.*.*"))}
    views = await bucket.get_many(list(refs))
    tasks = [Listed(refs[key], decode_view(entry.value)) for key, entry in views.items()]
    return [task for task in tasks if task.view.status == "WAITING"]


async def entered_tasks(bucket: Bucket) -> list[Listed]:
    """Return every task whose view has not ended, in order of submission.

    Complete as of the bucket's checkpoint before the call, also if tasks move meanwhile.
    """
    before = await bucket.last_revision()
    keys = await active_keys(bucket)
    if await bucket.last_revision() != before:  # the key of a task that moved may be missing
        keys = [entry.key for entry in await bucket.scan("active.>")]
    refs = {ref_of(key) for key in keys}
    views = await bucket.get_many([view_key(ref) for ref in refs])
    tasks = [Listed(ref, decode_view(found.value)) for ref in refs if (found := views.get(view_key(ref))) is not None]
    active = [task for task in tasks if task.view.status in ACTIVE]
    return sorted(active, key=lambda task: task.view.created_sequence)


async def _listed(bucket: Bucket, key_filter: str) -> list[Listed]:
    """Return the tasks on these keys whose views agree: a key may outlive its reason for a moment."""
    keys = set(await _keys(bucket, key_filter))
    refs = {view_key(ref_of(key)): ref_of(key) for key in keys}
    views = {refs[key]: decode_view(entry.value) for key, entry in (await bucket.get_many(list(refs))).items()}
    return [Listed(ref, view) for ref, view in views.items() if active_key(ref, view) in keys]


async def remove_stale(bucket: Bucket) -> int:
    """Replace active keys that contradict the newer view of their task; return how many.

    A killed NATS may bring back a removed key, and an older version named the server that a report claimed. A key newer
    than its view is not stale: the view follows.
    """
    found = await _entries(bucket, "active.>")
    views = await bucket.get_many(list({view_key(ref_of(entry.key)) for entry in found}))
    count = 0
    keys = {entry.key for entry in found}
    for entry in found:
        ref = ref_of(entry.key)
        held = views.get(view_key(ref))
        view = decode_view(held.value) if held else None
        if view is None or (right := active_key(ref, view)) == entry.key or int(entry.value) > view.sequence:
            continue
        if right is not None and right not in keys:
            await bucket.put(right, b"%d" % view.sequence)
        with contextlib.suppress(Conflict):
            await bucket.delete(entry.key, expected=entry.revision)
            count += 1
    return count


async def projected(bucket: Bucket) -> int:
    """Return the sequence of the TASKS log that the bucket reflects."""
    entry = await bucket.get(CHECKPOINT)
    return int(entry.value) if entry else 0


async def is_projected(bucket: Bucket, sequence: int) -> bool:
    """Return True if the bucket reflects all events of tasks up to a sequence of the TASKS log."""
    reflected = await projected(bucket)
    if reflected >= sequence:
        return True
    # Without a filter: on it NATS would count all later messages, subject by subject.
    prefix = TASK_SUBJECTS.removesuffix(">")
    while ahead := await read_some(bucket.connection, TASKS, ">", reflected + 1, 1):
        reflected = ahead[0].sequence
        if ahead[0].subject.startswith(prefix):  # not a fence
            return reflected > sequence
    return True


async def projection_reaches(bucket: Bucket, sequence: int, timeout_seconds: float) -> None:
    """Wait until the bucket reflects the TASKS log up to a sequence. Return without an error after the timeout."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            while not await is_projected(bucket, sequence):  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.05)


def ref_of(key: str) -> TaskRef:
    """Return the task of an `active.…` key."""
    _, _, owner, unique = key.split(".")
    return TaskRef(owner, unique)
