"""Routing of owners to cells, simulated: how even the load is, and who moves when a cell is added.

A cell is a whole installation: NATS, APIs and workers. A task's id carries its owner, so a router needs nothing but
the owner: rendezvous hashing, and a short list of heavy owners who have been placed by their load.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Mapping, Sequence

from .report import Runs

OWNERS = 20_000
CELLS = 8
PLACED = 20
"""Heaviest owners with a place of their own choosing."""
SKEW = 1.0
"""Exponent of Zipf's law: the heaviest of 20,000 owners has a tenth of all tasks."""
SEED = 1


def cell_of(owner: str, cells: Sequence[str], placed: Mapping[str, str]) -> str:
    """Return an owner's cell: where it was placed, else the cell with the highest hash of both names."""
    if owner in placed:
        return placed[owner]
    return max(cells, key=lambda cell: hashlib.blake2b(f"{cell}\n{owner}".encode(), digest_size=8).digest())


def loads(demand: Mapping[str, float], cells: Sequence[str], placed: Mapping[str, str]) -> dict[str, float]:
    """Return the load of each cell."""
    found = dict.fromkeys(cells, 0.0)
    for owner, tasks in demand.items():
        found[cell_of(owner, cells, placed)] += tasks
    return found


def place(demand: Mapping[str, float], cells: Sequence[str], count: int) -> dict[str, str]:
    """Return cells for the heaviest owners, each in turn where the load is least."""
    heaviest = sorted(demand, key=lambda owner: -demand[owner])[:count]
    rest = {owner: tasks for owner, tasks in demand.items() if owner not in set(heaviest)}
    load, placed = loads(rest, cells, {}), {}
    for owner in heaviest:
        placed[owner] = min(load, key=lambda cell: load[cell])
        load[placed[owner]] += demand[owner]
    return placed


def imbalance(load: Mapping[str, float]) -> float:
    """Return the load of the busiest cell over the mean: 1 is even."""
    return max(load.values()) * len(load) / sum(load.values())


def skewed(owners: int) -> dict[str, float]:
    """Return a demand in which few owners have most of the tasks, by names in no order."""
    names = [f"owner-{number}" for number in range(owners)]
    random.Random(SEED).shuffle(names)
    return {name: 1 / (rank + 1) ** SKEW for rank, name in enumerate(names)}


async def measure(_: argparse.Namespace) -> Runs:
    demand = skewed(OWNERS)
    cells = [f"cell-{number}" for number in range(CELLS)]
    placed = place(demand, cells, PLACED)
    more = [*cells, f"cell-{CELLS}"]
    moved = [owner for owner in demand if cell_of(owner, cells, placed) != cell_of(owner, more, placed)]
    heaviest = max(demand.values()) / sum(demand.values())
    return [
        {
            "cells": CELLS,
            "owners": OWNERS,
            "share_of_heaviest_owner": heaviest,
            "busiest_cell_to_mean_hashed": imbalance(loads(demand, cells, {})),
            "busiest_cell_to_mean_heavy_owners_placed": imbalance(loads(demand, cells, placed)),
            "share_of_owners_moved_by_a_new_cell": len(moved) / OWNERS,
            "share_of_tasks_moved_by_a_new_cell": sum(demand[owner] for owner in moved) / sum(demand.values()),
        }
    ]
