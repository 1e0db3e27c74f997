"""What goes wrong, and when: a pure function of the seed, so that a run can be had again."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from .machine import Machine

Kind: TypeAlias = Literal[
    "kill",  # kill -9, started again after the duration
    "restart",  # SIGTERM as in a deployment, started again as soon as it has ended
    "stop",  # SIGSTOP, SIGCONT after the duration
    "cut",  # the link's connections are reset, new ones too
    "delay",  # every piece of data comes late
    "half_open",  # the connections stay open, and nothing arrives any more
    "corrupt",  # some pieces of data arrive as garbage
    "isolate",  # a nats-server is cut off from the other nats-servers, not from its clients
    "power_cut",  # a nats-server ends, and of its store is left what was synced
    "disk_full",  # a nats-server has no room left; when it has again it is started again
    "clock",  # the wall clock of a process of ours jumps, and back after the duration
    "drift",  # it goes wrong little by little, and then jumps back
    "step_down",  # the leader of a stream gives up
    "delete_consumer",  # a durable consumer is deleted
    "burst",  # ten times the load
]

KINDS: tuple[Kind, ...] = get_args(Kind)
APIS = ("api-1", "api-2")
WORKERS = ("worker-1", "worker-2")
BACKENDS = ("backend-1", "backend-2", "backend-3")
MODELS = "models"
"""The process of the servers that speak other dialects."""
MODEL_SERVERS = ("bare", "jobs", "cog", "openai", "oip")
MODEL_TYPE = "models"
"""The type of the tasks of those servers."""
PULLED = "pulled"
"""The server that has no address: pullers ask for its tasks."""
PULLERS = ("puller-1", "puller-2")
OURS = (*APIS, *WORKERS)
CONSUMERS = (
    "DISPATCH.pool-normal-default",
    "DISPATCH.pool-high-default",
    "DISPATCH.pool-normal-batch",
    "DISPATCH.bulk-normal-default",
    "TIMERS.due-timers",
)
STREAMS = ("TASKS", "DISPATCH", "RETRIES", "TIMERS", "KV_leases", "KV_tasks")
LONGEST_STOP_SECONDS = 60.0
"""In a run of three minutes or more; in a shorter one a third of it."""
SMALLEST_JUMP_SECONDS = 0.05
LARGEST_JUMP_SECONDS = 90.0
LARGEST_DRIFT_SECONDS = 2.0
TAKES_DISKS = frozenset({"power_cut", "disk_full"})
FIRST_AT_SECONDS = 1.0
MEAN_PAUSE_SECONDS = 0.6
MODELS_PAUSE_SECONDS = 1.5
"""Between two faults of servers that speak other dialects, and of pullers: they come on top of the others."""


class Fault(Struct, frozen=True):
    """Something that goes wrong at a moment of the run and is put right after a duration, both in seconds."""

    at: float
    kind: Kind
    target: str
    duration: float
    ahead: float = 0.0
    """How wrong the clock is at the most, in seconds; negative: behind. For `clock` and `drift` alone."""

    def __str__(self) -> str:
        ahead = f"  by {self.ahead:+.2f} s" if self.ahead else ""
        return f"{self.at:7.2f} s  {self.kind:<15} {self.target:<30} {self.duration:5.2f} s{ahead}"


class _Choice(Struct, frozen=True):
    weight: float
    kind: Kind
    targets: Sequence[str]
    shortest: float
    longest: float
    ahead: float = 0.0
    """The furthest."""


def nats_names(nodes: int) -> tuple[str, ...]:
    return tuple(f"nats-{number + 1}" for number in range(nodes))


def links(nodes: int) -> tuple[str, ...]:
    """Return every way between two processes, `from>to`: each of ours to each nats-server, and to and from backends."""
    to_nats = [f"{ours}>{nats}" for ours in OURS for nats in nats_names(nodes)]
    return (*to_nats, *(f"workers>{name}" for name in BACKENDS), *(f"callbacks>{name}" for name in APIS))


def model_links() -> tuple[str, ...]:
    """Return every way between our processes and servers that speak other dialects, or pullers."""
    pullers = (f"{puller}>{api}" for puller, api in zip(PULLERS, APIS, strict=True))
    return (*(f"workers>{name}" for name in MODEL_SERVERS), *pullers)


def routes(nodes: int) -> tuple[str, ...]:
    """Return every way between two nats-servers of a cluster."""
    names = nats_names(nodes)
    return tuple(f"{one}>{other}" for one in names for other in names if one != other)


def plan(seed: int, seconds: float, nodes: int, machine: Machine, kinds: Container[str] = KINDS) -> list[Fault]:
    """Return the faults of a run in order of time; all are over when it ends, and no target has two at a time.

    What the machine cannot do is left out, and the rest is the same as elsewhere. `kinds` are those wanted.
    """
    name = f"{seed}/{float(seconds)}/{nodes}"
    longest_stop = min(LONGEST_STOP_SECONDS, seconds / 3)
    faults = [
        *_planned(random.Random(name), _choices(nodes, longest_stop), seconds, MEAN_PAUSE_SECONDS, kinds),
        # By a chance of their own: a seed gives the faults of the service that it gave before there were these.
        *_planned(random.Random(f"{name}/models"), _of_models(longest_stop), seconds, MODELS_PAUSE_SECONDS, kinds),
    ]
    faults.sort(key=lambda fault: fault.at)
    return [fault for fault in faults if machine.disks or fault.kind not in TAKES_DISKS]


def _planned(
    chance: random.Random, every: Sequence[_Choice], seconds: float, mean_pause: float, kinds: Container[str]
) -> Iterator[Fault]:
    choices = [choice for choice in every if choice.kind in kinds]
    free_at: dict[str, float] = {}
    at = FIRST_AT_SECONDS
    while choices and at < seconds - 0.5:
        choice = chance.choices(choices, [choice.weight for choice in choices])[0]
        target = chance.choice(choice.targets)
        # Short ones are likelier: most of what goes wrong is over soon.
        length = choice.shortest + (choice.longest - choice.shortest) * chance.random() ** 2
        length = round(min(length, seconds - at), 2)
        # A clock that is nearly right is likelier; it is ahead as often as behind.
        ahead = round(max(SMALLEST_JUMP_SECONDS, choice.ahead * chance.random() ** 3) * chance.choice((-1, 1)), 2)
        if free_at.get(target, 0.0) <= at:
            yield Fault(round(at, 2), choice.kind, target, length, ahead if choice.ahead else 0.0)
            free_at[target] = at + length
        at += chance.expovariate(1 / mean_pause)


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
        _Choice(1.5, "corrupt", links(nodes), 0.5, 4),
        _Choice(1.5, "power_cut", nats, 0.2, 3),
        _Choice(0.8, "disk_full", nats, 0.5, 4),
        _Choice(1.5, "clock", OURS, 1, 10, LARGEST_JUMP_SECONDS),
        _Choice(0.5, "drift", OURS, 2, 10, LARGEST_DRIFT_SECONDS),
        _Choice(1.5, "delete_consumer", CONSUMERS, 0, 0),
        _Choice(1, "burst", ("load",), 0.5, 1.5),
    ]
    if nodes > 1:
        choices += [_Choice(1.5, "step_down", STREAMS, 0, 0), _Choice(2, "isolate", nats, 0.5, 6)]
    return choices


def _of_models(longest_stop: float) -> list[_Choice]:
    """Return what goes wrong with the servers that speak other dialects, and with pullers."""
    ways = model_links()
    return [
        _Choice(1, "kill", (MODELS,), 0.2, 3),
        _Choice(0.5, "stop", (MODELS,), 0.5, longest_stop),
        _Choice(1, "kill", PULLERS, 0.2, 4),
        _Choice(1, "stop", PULLERS, 0.5, longest_stop),
        _Choice(2, "cut", ways, 0.1, 6),
        _Choice(1, "delay", ways, 0.5, 5),
        _Choice(2, "half_open", ways, 0.5, 6),
        _Choice(1.5, "corrupt", ways, 0.5, 4),
    ]
