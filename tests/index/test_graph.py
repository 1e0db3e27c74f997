"""The walk around a task and within a batch: complete within its bounds, and it says what it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from taskstream.index.graph import GraphBounds, Neighbours, Walk, walk_around, walk_within

Dependencies = Mapping[str, Sequence[str]]
"""Parents of each task."""
WIDE = GraphBounds()


def parents_of(given: Dependencies) -> Neighbours:
    def neighbours(tasks: Sequence[str], limit: int) -> Iterable[tuple[str, str]]:
        return [(task, parent) for task in tasks for parent in given.get(task, ())][:limit]

    return neighbours


def children_of(given: Dependencies) -> Neighbours:
    def neighbours(tasks: Sequence[str], limit: int) -> Iterable[tuple[str, str]]:
        pairs = [(parent, child) for child, parents in given.items() for parent in parents if parent in tasks]
        return sorted(pairs, key=lambda pair: tasks.index(pair[0]))[:limit]

    return neighbours


def around(start: str, given: Dependencies, bounds: GraphBounds = WIDE) -> Walk:
    return walk_around(start, parents_of(given), children_of(given), bounds)


CHAIN = {"b": ["a"], "c": ["b"], "d": ["c"], "e": ["d"]}


def test_a_task_alone_is_a_graph_of_one() -> None:
    assert around("x", CHAIN) == Walk({"x": 0}, [], 0, 0, [])


def test_parents_are_above_and_children_below() -> None:
    assert around("c", CHAIN) == Walk(
        {"c": 0, "b": -1, "d": 1, "a": -2, "e": 2}, [("b", "c"), ("a", "b"), ("c", "d"), ("d", "e")], 0, 0, []
    )


def test_neighbours_of_parents_are_not_in_the_graph_unless_it_depends_on_them() -> None:
    diamond = {"left": ["top"], "right": ["top"], "end": ["left", "right"], "aside": ["top"]}

    assert around("end", diamond).levels == {"end": 0, "left": -1, "right": -1, "top": -2}
    assert len(around("end", diamond).edges) == 4


def test_each_bound_says_what_it_left_out() -> None:
    assert around("c", CHAIN, GraphBounds(depth=1)) == Walk(
        {"c": 0, "b": -1, "d": 1}, [("b", "c"), ("c", "d")], 2, 0, ["depth"]
    )
    assert around("c", CHAIN, GraphBounds(nodes=2)) == Walk({"c": 0, "b": -1}, [("b", "c")], 2, 0, ["nodes"])
    assert around("c", CHAIN, GraphBounds(edges=1)).edges_left_out == 3
    assert around("c", CHAIN, GraphBounds(depth=0)) == Walk({"c": 0}, [], 2, 0, ["depth"])
    wide = {f"child {number}": ["a"] for number in range(1_000)}
    walk = around("a", wide)
    assert (len(walk.levels), walk.nodes_left_out, walk.reasons) == (400, 601, ["nodes"])


def test_a_cycle_ends_the_walk() -> None:
    assert around("a", {"a": ["b"], "b": ["a"]}).levels.keys() == {"a", "b"}
    assert walk_within(["a", "b"], parents_of({"a": ["b"], "b": ["a"]}), GraphBounds()).levels == {}


def test_the_level_in_a_batch_is_the_longest_way() -> None:
    given = {"b": ["a"], "c": ["a", "b"], "d": ["outside"]}

    walk = walk_within(["a", "b", "c", "d"], parents_of(given), GraphBounds())

    assert walk.levels == {"a": 0, "d": 0, "b": 1, "c": 2}
    assert sorted(walk.edges) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert walk_within(list("abcd"), parents_of(given), GraphBounds(depth=1)).reasons == ["depth"]
    assert walk_within(list("abcd"), parents_of(given), GraphBounds(nodes=3)).nodes_left_out == 1


names = st.integers(0, 30).map(str)
anything = st.dictionaries(names, st.lists(names, unique=True, max_size=5), max_size=31)


@given(anything, names, st.integers(1, 40), st.integers(0, 60), st.integers(0, 8))
def test_any_graph_is_walked_within_its_bounds(
    given: Dependencies, start: str, nodes: int, edges: int, depth: int
) -> None:
    walk = around(start, given, GraphBounds(nodes, edges, depth))
    whole = around(start, given, GraphBounds(10**6, 10**6, 10**3))

    assert len(walk.levels) <= nodes
    assert len(walk.edges) <= edges
    assert max(map(abs, walk.levels.values())) <= depth
    assert walk.levels.keys() <= whole.levels.keys()
    assert all(parent in given.get(child, ()) for parent, child in walk.edges)
    assert {task for edge in walk.edges for task in edge} <= walk.levels.keys()
    if not walk.reasons:
        assert (walk.levels, set(walk.edges)) == (whole.levels, set(whole.edges))
    assert whole.reasons == []
