"""The tasks that have not ended, by the server they run on: read from the `tasks` bucket."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from ..errors import Conflict
from ..events.ids import TaskRef
from ..streams.buckets import Bucket
from .task_view import CHECKPOINT, TaskView, active_key, view_key
from .task_view import decode as decode_view


class ActiveTask(NamedTuple):
    ref: TaskRef
    view: TaskView


async def running_on(bucket: Bucket, server_name: str) -> list[TaskRef]:
    """Return the tasks that a server (by token) works on, as far as projected."""
    return [task.ref for task in await _listed(bucket, f"active.{server_name}.*.*")]


async def active_tasks(bucket: Bucket) -> list[ActiveTask]:
    """Return all tasks that have not ended, as far as projected."""
    return await _listed(bucket, "active.>")


async def _listed(bucket: Bucket, key_filter: str) -> list[ActiveTask]:
    """Return the tasks on these keys whose views say the same: a key may be there a moment longer than its reason."""
    keys = {entry.key for entry in await bucket.scan(key_filter)}
    refs = {view_key(ref_of(key)): ref_of(key) for key in keys}
    views = {refs[key]: decode_view(entry.value) for key, entry in (await bucket.get_many(list(refs))).items()}
    return [ActiveTask(ref, view) for ref, view in views.items() if active_key(ref, view) in keys]


async def remove_stale(bucket: Bucket) -> int:
    """Remove the keys of tasks that the bucket's own views say have moved on since; return how many.

    A killed NATS may bring back a key that was removed. One that is newer than its view is not stale: the view follows.
    """
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


def ref_of(key: str) -> TaskRef:
    """Return the task of an `active.…` key."""
    _, _, owner, unique = key.split(".")
    return TaskRef(owner, unique)
