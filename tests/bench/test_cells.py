"""The simulated routing of owners to cells."""

from __future__ import annotations

from bench.cells import cell_of, imbalance, loads, place, skewed

CELLS = ["a", "b", "c", "d"]


def test_an_owner_has_the_same_cell_whatever_the_order_of_the_cells() -> None:
    assert all(cell_of(owner, CELLS, {}) == cell_of(owner, CELLS[::-1], {}) for owner in skewed(200))


def test_a_new_cell_takes_owners_and_moves_none_between_the_others() -> None:
    moved = {
        owner: cell_of(owner, [*CELLS, "e"], {})
        for owner in skewed(2_000)
        if cell_of(owner, CELLS, {}) != cell_of(owner, [*CELLS, "e"], {})
    }

    assert set(moved.values()) == {"e"}
    assert 0.15 < len(moved) / 2_000 < 0.25


def test_placing_the_heaviest_owners_evens_the_load() -> None:
    demand = skewed(2_000)
    placed = place(demand, CELLS, 20)

    assert imbalance(loads(demand, CELLS, placed)) < 1.1 < imbalance(loads(demand, CELLS, {}))
