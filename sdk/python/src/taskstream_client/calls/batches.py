"""Batches: many tasks at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from ..core import Core, path_of
from ..flow import Flow
from ..models import Batch, BulkDone, NewTask, RefusedItem, Status, SubmittedBatch, Task, convert, encode
from .call import Async, Part, Sync, call, emits_updates, iterates

AT_ONCE = 1000
"""Tasks that the service takes in one request."""
BYTES_AT_ONCE = 7 * 1024 * 1024
"""Of a request; the service's default limit is 8 MiB."""

Item = NewTask | Mapping[str, Any]
"""A task, or the JSON object that `POST /api/task` takes."""


class _Chunk(NamedTuple):
    start: int
    items: list[dict[str, Any]]


def chunks_of(items: Iterable[Item]) -> list[_Chunk]:
    """Return items in requests that the service takes. The same items always make the same requests.

    Raises ValueError for a `depends_on` that names an item of a later request.
    """
    chunks: list[_Chunk] = []
    size = 0
    for at, item in enumerate(items):
        text = encode(item)
        if not chunks or len(chunks[-1].items) == AT_ONCE or size + len(text) > BYTES_AT_ONCE:
            chunks.append(_Chunk(at, []))
            size = 0
        chunks[-1].items.append(msgspec.json.decode(text))
        size += len(text) + 1
    for start, held in chunks:
        for at, item in enumerate(held, start):
            for parent in item.get("dependsOn") or ():
                if isinstance(parent, int) and parent >= start + len(held):
                    raise ValueError(
                        f"item {at} depends on item {parent}, which is submitted after it: of more than {AT_ONCE} "
                        "items, put parents before their children"
                    )
    return chunks


def submit_batch(core: Core, items: Iterable[Item], key: str | None, timeout: float | None) -> Flow[SubmittedBatch]:
    """Submit items, request after request."""
    chunks = chunks_of(items)
    if not chunks:
        return SubmittedBatch(batch_ids=[], task_ids=[], refused=[], repeated=False)
    key = core.new_key() if key is None else key
    batch_ids: list[str] = []
    task_ids: list[str] = []
    refused: list[RefusedItem] = []
    repeated = True
    for number, (start, held) in enumerate(chunks):
        for item in held:
            if item.get("dependsOn"):
                item["dependsOn"] = [
                    parent if isinstance(parent, str) else parent - start if parent >= start else task_ids[parent]
                    for parent in item["dependsOn"]
                ]
        headers = {"Idempotency-Key": key if len(chunks) == 1 else f"{key}.{number}"}
        answer = yield from core.ask("POST", "/api/tasks/batch", body=held, headers=headers, timeout=timeout)
        batch_ids.append(answer["batchId"])
        task_ids += answer["taskIds"]
        refused += [RefusedItem(index=start + each["index"], error=each["error"]) for each in answer["refused"]]
        repeated = repeated and bool(answer["repeated"])
    return SubmittedBatch(batch_ids=batch_ids, task_ids=task_ids, refused=refused, repeated=repeated)


class BatchCalls(Part):
    """Batches, as the service knows them: up to 1,000 tasks each."""

    @call
    def submit(
        self, items: Iterable[Item], *, idempotency_key: str | None = None, timeout: float | None = None
    ) -> Flow[SubmittedBatch]:
        """Submit many tasks. Each request of up to 1,000 is stored completely or not at all.

        More than 1,000 items are several batches. `depends_on` may name other items by their places. With an
        `idempotency_key`, the same call with the same items submits only what is missing, so it may be repeated after
        an error or a crash.

        Raises:
            Refused: A task is invalid, and nothing of its request is stored; the error names the items.
            ValueError: An item depends on one that is submitted in a later request.
        """
        return (yield from submit_batch(self._core, items, idempotency_key, timeout))

    @call
    def get(self, batch_id: str) -> Flow[Batch]:
        """Return a batch with the number of its tasks by status."""
        return convert((yield from self._core.ask("GET", path_of("batches", batch_id))), Batch)

    @iterates(Batch)
    def list(self, *, owner: str | None = None, counts: bool = False, limit: int | None = None) -> Flow[None]:
        """Iterate over your batches, newest first."""
        query = {"owner": owner, "counts": counts or None}
        yield from self._core.items("/api/batches", "batches", Batch, query, limit=limit)

    @iterates(Task)
    def tasks(
        self, batch_id: str, *, status: Status | None = None, results: bool = False, limit: int | None = None
    ) -> Flow[None]:
        """Iterate over the tasks of a batch, in the order of its items; with `results` also their results."""
        query = {"status": status, "results": results or None}
        yield from self._core.items(path_of("batches", batch_id, "tasks"), "tasks", Task, query, limit=limit)

    @emits_updates
    def stream(self, batch_id: str, *, after: str | None = None) -> Flow[None]:
        """Iterate over the updates of all tasks of a batch, up to the end of the last. Cuts are handled."""
        path = path_of("batches", batch_id, "stream")
        yield from self._core.follow(path, "", query={}, after=after, ends=False)

    @call
    def cancel(self, batch_id: str, *, reason: str = "") -> Flow[BulkDone]:
        """Cancel the tasks of a batch that have not ended."""
        answer = yield from self._core.ask("POST", path_of("batches", batch_id, "cancel"), body={"reason": reason})
        return convert(answer, BulkDone)

    @call
    def retry(self, batch_id: str, *, reason: str = "") -> Flow[BulkDone]:
        """Run the failed and cancelled tasks of a batch again."""
        answer = yield from self._core.ask("POST", path_of("batches", batch_id, "retry"), body={"reason": reason})
        return convert(answer, BulkDone)

    @call
    def delete(self, batch_id: str) -> Flow[BulkDone]:
        """Remove the ended tasks of a batch from lists."""
        return convert((yield from self._core.ask("DELETE", path_of("batches", batch_id))), BulkDone)


class Batches(BatchCalls, Sync):
    """Batches, as the service knows them: up to 1,000 tasks each."""


class AsyncBatches(BatchCalls, Async):
    """Batches, as the service knows them: up to 1,000 tasks each."""
