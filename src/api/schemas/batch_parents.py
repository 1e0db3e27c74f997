"""What the tasks of a batch depend on, within the batch: places become ids, and none may wait for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from ...errors import InvalidInput
from ...events.ids import BatchRef, nth

MOST_CYCLES = 10
"""Named in one refusal; once these are gone, the next one names the others."""
MOST_SHOWN = 10
"""Places of a cycle that are shown."""


def resolve(
    parents: Mapping[int, Sequence[str | int]], batch: BatchRef, count: int, found: dict[int, InvalidInput]
) -> dict[int, list[str]]:
    """Return the ids that each task (by its place) depends on, given ids and places, of a batch of so many.

    Notes in `found` what is wrong: a place that the batch does not have, tasks that wait for each other.
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
        text = f"these would wait for each other for ever: {' → '.join(map(str, [*shown, cycle[0]]))}"
        for place in cycle:
            found.setdefault(place, InvalidInput(text, "$.dependsOn"))
    return resolved


def _first_beyond(named: Sequence[str | int], count: int) -> int | None:
    return next((number for number, parent in enumerate(named) if isinstance(parent, int) and parent >= count), None)


def _cycles(graph: dict[int, list[int]]) -> Iterator[list[int]]:
    """Yield cycles, each in the order of waiting, no two with a place in common."""
    for _ in range(MOST_CYCLES):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle = error.args[1][:0:-1]  # ends with what it begins with, and the awaited come first
            yield cycle
            graph = {place: parents for place, parents in graph.items() if place not in cycle}
        else:
            return
