"""The body of a batch: tasks as a JSON array, or one per line (NDJSON), each in a form that `POST /api/task` takes.

In `dependsOn` a task may name other tasks of its batch by their places, which become ids here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Raw

from ..errors import InvalidInput, InvalidItems
from ..events.ids import BatchRef, nth
from ..events.task import TaskSubmitted
from ..settings import Settings
from ..wire.json_text import deeper_than
from ..wire.trace import NO_CONTEXT, TraceContext
from .body import Submission, TaskIdText, TaskRequest, TypeRules, fingerprint, parse_json, read_submission

MOST_TASKS = 1_000
"""Tasks of a batch. JetStream stores no more messages than this in one atomic batch."""
LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
"""Media types of a body with one task per line."""
MOST_CYCLES = 10
"""Dependency cycles named in one error."""
MOST_SHOWN = 10
"""Places shown of each cycle."""

Position = Annotated[int, Meta(ge=0, lt=MOST_TASKS)]


class BatchItem(Submission, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A task of a batch: the full form, in which `dependsOn` may name others of the batch by their places."""

    depends_on: Annotated[list[TaskIdText | Position], Meta(max_length=1_000)] = []  # type: ignore[assignment]  # noqa: RUF012 - msgspec copies it
    """Ids of tasks of the same owner, or places in this batch (from 0), that must end first."""


_item = msgspec.json.Decoder(BatchItem)
_array = msgspec.json.Decoder(list[Raw])


class _Item(NamedTuple):
    """An item as it was sent, and decoded."""

    body: bytes
    content: Any


class BatchParser:
    """Turns the bodies of batches into submissions."""

    def __init__(self, settings: Settings, rules: TypeRules) -> None:
        self._rules = rules
        self._max_depth = settings.max_json_depth
        self._max_task = settings.max_body

    def parse(
        self,
        body: bytes,
        media_type: str,
        batch: BatchRef,
        owner: str,
        *,
        repeatable: bool,
        trace: TraceContext = NO_CONTEXT,
    ) -> list[TaskSubmitted]:
        """Return the event that submits each task, in order.

        Raises InvalidInput for a body that is not a batch, InvalidItems with what is wrong with each of its tasks.
        """
        found: dict[int, InvalidInput] = {}
        items = _lines(body, self._max_depth, found) if media_type in LINES else _elements(body, self._max_depth)
        count = len(items)
        if not 1 <= count <= MOST_TASKS:
            raise InvalidInput(f"a batch has 1 to {MOST_TASKS:,} tasks; this one has {count:,}")
        whole = fingerprint(body)
        requests: dict[int, TaskRequest] = {}
        for place, item in enumerate(items):
            if place not in found:
                with _collected(found, place):
                    submission, payload, payload_path = self._read(item)
                    requests[place] = TaskRequest(
                        owner=owner,
                        submission=submission,
                        payload=payload,
                        payload_path=payload_path,
                        fingerprint=whole,
                        repeatable=repeatable,
                        batch=batch.id,
                        batch_size=count,
                        trace=trace,
                    )
        parents = {
            place: request.submission.depends_on for place, request in requests.items() if request.submission.depends_on
        }
        for place, ids in resolve(parents, batch, count, found).items():
            requests[place].submission.depends_on = ids
        submitted = []
        for place, request in requests.items():
            if place not in found:
                with _collected(found, place):
                    submitted.append(self._rules.submitted(request))
        if found:
            raise InvalidItems(found, count)
        return submitted

    def _read(self, item: _Item) -> tuple[Submission, Any, str]:
        body, content = item
        if not isinstance(content, dict):
            raise InvalidInput("a task must be a JSON object", "$")
        if len(body) > self._max_task:
            raise InvalidInput(f"a task has {self._max_task} bytes at most; send a reference to large inputs")
        if deeper_than(self._max_depth, body):
            raise InvalidInput(f"the task is nested deeper than {self._max_depth} levels")
        return read_submission(content, body, _item)


class _collected:  # noqa: N801 - used like a keyword
    """Collect an item's InvalidInput instead of raising it. A class, as a generator would be slower."""

    def __init__(self, found: dict[int, InvalidInput], place: int) -> None:
        self._found = found
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InvalidInput):
            self._found[self._place] = error
            return True
        return False


def _elements(body: bytes, max_depth: int) -> list[_Item]:
    if not body.lstrip().startswith(b"["):
        text = "the body must be a JSON array of tasks; for one task per line set `Content-Type: application/x-ndjson`"
        raise InvalidInput(text, "$")
    # Decoding the whole body once proves that the parts, which are kept undecoded, are valid JSON.
    contents = parse_json(body, "body", max_depth)
    return [_Item(bytes(raw), content) for raw, content in zip(_array.decode(body), contents, strict=True)]


def _lines(body: bytes, max_depth: int, found: dict[int, InvalidInput]) -> list[_Item]:
    """Return the items on the lines, empty lines left out. Adds lines that are not JSON to `found`."""
    items = []
    for place, line in enumerate(line for line in body.split(b"\n") if line.strip()):
        content: Any = None
        with _collected(found, place):
            content = parse_json(line, "line", max_depth)
        items.append(_Item(line, content))
    return items


def resolve(
    parents: Mapping[int, Sequence[str | int]], batch: BatchRef, count: int, found: dict[int, InvalidInput]
) -> dict[int, list[str]]:
    """Return the ids of the parents of each task, given ids and places in a batch of `count` tasks, by task place.

    Adds to `found` places that the batch does not have, and cycles.
    """
    if not parents:
        return {}
    ids = [nth(batch, place).id for place in range(count)]
    places = {task_id: place for place, task_id in enumerate(ids)}
    graph: dict[int, list[int]] = {}
    resolved: dict[int, list[str]] = {}
    for place, named in parents.items():
        if (beyond := _first_beyond(named, count)) is not None:
            text = f"there is no task {named[beyond]} in this batch of {count}; places are counted from 0"
            found[place] = InvalidInput(text, f"$.dependsOn[{beyond}]")
            continue
        resolved[place] = [ids[parent] if isinstance(parent, int) else parent for parent in named]
        graph[place] = [places[parent] for parent in resolved[place] if parent in places]
    for cycle in _cycles(graph):
        shown = [*cycle[:MOST_SHOWN], "…"] if len(cycle) > MOST_SHOWN else cycle
        text = f"remove this cycle of tasks that wait for each other: {' → '.join(map(str, [*shown, cycle[0]]))}"
        for place in cycle:
            found.setdefault(place, InvalidInput(text, "$.dependsOn"))
    return resolved


def _first_beyond(named: Sequence[str | int], count: int) -> int | None:
    return next((number for number, parent in enumerate(named) if isinstance(parent, int) and parent >= count), None)


def _cycles(graph: dict[int, list[int]]) -> Iterator[list[int]]:
    """Yield cycles, each in the order of waiting. No place is in two of them."""
    for _ in range(MOST_CYCLES):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle = error.args[1][:0:-1]  # the list ends with its first node, and parents come first
            yield cycle
            graph = {place: parents for place, parents in graph.items() if place not in cycle}
        else:
            return
