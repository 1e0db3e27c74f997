"""The tasks that have not ended, by the server they run on: read from the `tasks` bucket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import Conflict
from ..events.ids import TaskRef
from ..events.subjects import TASK_SUBJECTS
from ..streams.buckets import Bucket
from ..streams.jetstream.messages import read
from ..streams.topology.definitions import TASKS
from .task_view import ACTIVE, CHECKPOINT, TaskView, active_key, view_key
from .task_view import decode as decode_view

SERVERS_AT_ONCE = 64
"""How many servers one request is about."""


class ActiveTask(NamedTuple):
    ref: TaskRef
    view: TaskView


async def running_on(bucket: Bucket, server_name: str) -> list[TaskRef]:
    """Return the tasks that a server (by token) works on, as far as projected."""
    return [task.ref for task in await _listed(bucket, f"active.{server_name}.*.*")]


async def count_running(bucket: Bucket, server_names: Sequence[str]) -> dict[str, int]:
    """Return how many tasks each server (by token) works on, as far as projected."""
    counts = dict.fromkeys(server_names, 0)
    for start in range(0, len(server_names), SERVERS_AT_ONCE):
        names = server_names[start : start + SERVERS_AT_ONCE]
        for key in await _keys(bucket, [f"active.{name}.*.*" for name in names]):
            counts[key.split(".", 2)[1]] += 1
    return counts


async def _keys(bucket: Bucket, filters: Sequence[str]) -> list[str]:
    """Return the keys on these filters."""
    if (found := await bucket.get_matching(*filters)) is not None:
        return [entry.key for entry in found]
    if len(filters) == 1:
        return [entry.key for entry in await bucket.scan(filters[0])]
    half = len(filters) // 2
    return await _keys(bucket, filters[:half]) + await _keys(bucket, filters[half:])


async def active_tasks(bucket: Bucket) -> list[ActiveTask]:
    """Return all tasks that have not ended, as far as projected."""
    return await _listed(bucket, "active.>")


async def active_keys(bucket: Bucket) -> list[str]:
    """Return the key of each task that has not ended; of one that moves meanwhile it may be missing.

    Where there are few it takes no scan: a server that has just started reads the whole bucket for one, which takes
    seconds and keeps everybody else from writing.
    """
    return await _keys(bucket, ["active.>"])


async def unstarted_tasks(bucket: Bucket) -> list[ActiveTask]:
    """Return the tasks that no server works on, as far as projected; one that is being started may be missing."""
    refs = {view_key(ref): ref for ref in map(ref_of, await _keys(bucket, ["active.=.*.*"]))}
    views = await bucket.get_many(list(refs))
    tasks = [ActiveTask(refs[key], decode_view(entry.value)) for key, entry in views.items()]
    return [task for task in tasks if task.view.status == "WAITING"]


async def entered_tasks(bucket: Bucket) -> list[ActiveTask]:
    """Return every task that has not ended, as its view says, in the order in which they were submitted.

    None is missing that had not ended when the bucket's checkpoint was last read, also of those that move meanwhile.
    """
    before = await bucket.last_revision()
    keys = await active_keys(bucket)
    if await bucket.last_revision() != before:  # one that has moved meanwhile may be missing
        keys = [entry.key for entry in await bucket.scan("active.>")]
    refs = {ref_of(key) for key in keys}
    views = await bucket.get_many([view_key(ref) for ref in refs])
    tasks = [
        ActiveTask(ref, decode_view(found.value)) for ref in refs if (found := views.get(view_key(ref))) is not None
    ]
    active = [task for task in tasks if task.view.status in ACTIVE]
    return sorted(active, key=lambda task: task.view.created_sequence)


async def _listed(bucket: Bucket, key_filter: str) -> list[ActiveTask]:
    """Return the tasks on these keys whose views say the same: a key may be there a moment longer than its reason."""
    keys = set(await _keys(bucket, [key_filter]))
    refs = {view_key(ref_of(key)): ref_of(key) for key in keys}
    views = {refs[key]: decode_view(entry.value) for key, entry in (await bucket.get_many(list(refs))).items()}
    return [ActiveTask(ref, view) for ref, view in views.items() if active_key(ref, view) in keys]


async def remove_stale(bucket: Bucket) -> int:
    """Remove the keys of tasks that the bucket's own views say have moved on since; return how many.

    A killed NATS may bring back a key that was removed. One that is newer than its view is not stale: the view follows.
    """
    found = await bucket.get_matching("active.>")  # see `active_keys`
    if found is None:
        found = await bucket.scan("active.>")
    views = await bucket.get_many(list({view_key(ref_of(entry.key)) for entry in found}))
    count = 0
    for entry in found:
        ref = ref_of(entry.key)
        held = views.get(view_key(ref))
        view = decode_view(held.value) if held else None
        if view is None or active_key(ref, view) == entry.key or int(entry.value) > view.sequence:
            continue
        with contextlib.suppress(Conflict):
            await bucket.delete(entry.key, expected=entry.revision)
            count += 1
    return count


async def projected(bucket: Bucket) -> int:
    """Return the sequence of the TASKS log that the bucket reflects."""
    entry = await bucket.get(CHECKPOINT)
    return int(entry.value) if entry else 0


async def is_projected(bucket: Bucket, sequence: int) -> bool:
    """Tell whether the bucket reflects all events of tasks up to a sequence of the TASKS log, which has others too."""
    reflected = await projected(bucket)
    if reflected >= sequence:
        return True
    ahead = await read(bucket.connection, TASKS, TASK_SUBJECTS, reflected + 1, 1)
    return not ahead or ahead[0].sequence > sequence


async def projection_reaches(bucket: Bucket, sequence: int, timeout_seconds: float) -> None:
    """Wait until the bucket reflects what the TASKS log has up to a sequence; give up quietly after the timeout."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            while not await is_projected(bucket, sequence):  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.05)


def ref_of(key: str) -> TaskRef:
    """Return the task of an `active.…` key."""
    _, _, owner, unique = key.split(".")
    return TaskRef(owner, unique)
