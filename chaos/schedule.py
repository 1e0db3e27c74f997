"""What goes wrong, and when: a pure function of the seed, so that a run can be had again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

Kind: TypeAlias = Literal[
    "kill",  # kill -9, started again after the duration
    "restart",  # SIGTERM as in a deployment, started again as soon as it has ended
    "stop",  # SIGSTOP, SIGCONT after the duration
    "cut",  # the link's connections are reset, new ones too
    "delay",  # every piece of data comes late
    "half_open",  # the connections stay open, and nothing arrives any more
    "isolate",  # a nats-server is cut off from the other nats-servers, not from its clients
    "step_down",  # the leader of a stream gives up
    "delete_consumer",  # a durable consumer is deleted
    "burst",  # ten times the load
]

APIS = ("api-1", "api-2")
WORKERS = ("worker-1", "worker-2")
BACKENDS = ("backend-1", "backend-2", "backend-3")
OURS = (*APIS, *WORKERS)
CONSUMERS = (
    "DISPATCH.pool-normal-default",
    "DISPATCH.pool-high-default",
    "DISPATCH.pool-normal-batch",
    "TIMERS.timekeeper",
)
STREAMS = ("TASKS", "DISPATCH", "RETRIES", "TIMERS", "KV_leases", "KV_tasks")
LONGEST_STOP_SECONDS = 60.0
"""In a run of three minutes or more; in a shorter one a third of it."""
FIRST_AT_SECONDS = 1.0
MEAN_PAUSE_SECONDS = 0.6


class Fault(Struct, frozen=True):
    """Something that goes wrong at a moment of the run and is put right after a duration, both in seconds."""

    at: float
    kind: Kind
    target: str
    duration: float

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.kind:<15} {self.target:<30} {self.duration:5.2f} s"


class _Choice(Struct, frozen=True):
    weight: float
    kind: Kind
    targets: Sequence[str]
    shortest: float
    longest: float


def nats_names(nodes: int) -> tuple[str, ...]:
    return tuple(f"nats-{number + 1}" for number in range(nodes))


def links(nodes: int) -> tuple[str, ...]:
    """Return every way between two processes, `from>to`: each of ours to each nats-server, and to and from backends."""
    to_nats = [f"{ours}>{nats}" for ours in OURS for nats in nats_names(nodes)]
    return (*to_nats, *(f"workers>{name}" for name in BACKENDS), *(f"callbacks>{name}" for name in APIS))


def routes(nodes: int) -> tuple[str, ...]:
    """Return every way between two nats-servers of a cluster."""
    names = nats_names(nodes)
    return tuple(f"{one}>{other}" for one in names for other in names if one != other)


def plan(seed: int, seconds: float, nodes: int) -> list[Fault]:
    """Return the faults of a run in order of time; all are over when it ends, and no target has two at a time."""
    chance = random.Random(f"{seed}/{seconds}/{nodes}")
    choices = _choices(nodes, min(LONGEST_STOP_SECONDS, seconds / 3))
    faults: list[Fault] = []
    free_at: dict[str, float] = {}
    at = FIRST_AT_SECONDS
    while at < seconds - 0.5:
        choice = chance.choices(choices, [choice.weight for choice in choices])[0]
        target = chance.choice(choice.targets)
        # Short ones are likelier: most of what goes wrong is over soon.
        length = choice.shortest + (choice.longest - choice.shortest) * chance.random() ** 2
        length = round(min(length, seconds - at), 2)
        if free_at.get(target, 0.0) <= at:
            faults.append(Fault(round(at, 2), choice.kind, target, length))
            free_at[target] = at + length
        at += chance.expovariate(1 / MEAN_PAUSE_SECONDS)
    return faults


def _choices(nodes: int, longest_stop: float) -> list[_Choice]:
    nats = nats_names(nodes)
    choices = [
        _Choice(3, "kill", OURS, 0.2, 3),
        _Choice(1, "restart", OURS, 0, 0),
        _Choice(2, "kill", nats, 0.2, 3),
        _Choice(1, "kill", BACKENDS, 0.2, 3),
        _Choice(3, "stop", OURS, 0.5, longest_stop),
        _Choice(1.5, "stop", nats, 0.5, longest_stop),
        _Choice(1, "stop", BACKENDS, 0.5, longest_stop),
        _Choice(2, "cut", links(nodes), 0.1, 4),
        _Choice(2, "delay", links(nodes), 0.5, 5),
        _Choice(2, "half_open", links(nodes), 0.5, 8),
        _Choice(1.5, "delete_consumer", CONSUMERS, 0, 0),
        _Choice(1, "burst", ("load",), 0.5, 1.5),
    ]
    if nodes > 1:
        choices += [_Choice(1.5, "step_down", STREAMS, 0, 0), _Choice(2, "isolate", nats, 0.5, 6)]
    return choices
