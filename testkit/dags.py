"""Tasks that depend on each other, and a reference model of their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from taskstream.events.task import ParentFailure

CHOICES: tuple[ParentFailure, ...] = ("fail", "run", "skip")


class Node(NamedTuple):
    """A task of a graph."""

    parents: tuple[int, ...]
    """Indexes of tasks submitted before it."""
    choice: ParentFailure
    succeeds: bool
    """Its outcome if it runs."""


def predicted(nodes: Sequence[Node]) -> list[str]:
    """Return the outcome of each task: the reference model."""
    outcomes: list[str] = []
    for node in nodes:
        disappointed = any(outcomes[parent] != "succeeded" for parent in node.parents)
        if disappointed and node.choice != "run":
            outcomes.append("failed" if node.choice == "fail" else "cancelled")
        else:
            outcomes.append("succeeded" if node.succeeds else "failed")
    return outcomes


def retried(nodes: Sequence[Node], succeed: Sequence[bool]) -> list[Node]:
    """Return what is left to do when all that did not succeed is retried: `succeed` says what comes of each then."""
    return [
        node._replace(succeeds=outcome == "succeeded" or succeeds)
        for node, outcome, succeeds in zip(nodes, predicted(nodes), succeed, strict=True)
    ]


def will_run(nodes: Sequence[Node]) -> set[int]:
    """Return the places of the tasks that are started at all."""
    outcomes = predicted(nodes)
    return {
        place
        for place, node in enumerate(nodes)
        if node.choice == "run" or all(outcomes[parent] == "succeeded" for parent in node.parents)
    }
