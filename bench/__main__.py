"""`make bench`: what the service does and costs, with everything on this machine and every append synced.

    rates     throughput of many connections, and CPU time per task of every process
    batch     tasks accepted a second in batches, and their CPU time
    dialects  servers of each dialect beside `taskstream`, in turn
    holds     held tasks and their release: a wide fan-out, a deep chain, an owner whose window is full
    waiting   a single task while another owner has very many waiting
    latency   of single tasks on an idle service, beside the disk's own
    idle      what `taskstream up` takes to start and to do nothing
    up        throughput of `taskstream up`, as one process and as several, in turn
    facades   Replicate's and OpenAI's APIs beside `POST /api/task`, in turn
    pull      pulled tasks beside pushed ones, in turn
    floor     what the same steps cost with bare libraries
    push      many subscribers on one API
    fleet     many registered servers
    size      a long past: rates, lists, restarts and memory with many tasks that have ended
    singletons  CPU per task of the parts that exist once: they bound a cell
    cells     owners routed to several cells, simulated
    soak      an hour at a steady rate: what grows, and what levels off; only if named
    peers     other queues beside ours, in turn: only if named, after `make peers`

Each figure is the median over the runs, which are all in the JSON. `make bench` takes some fifteen minutes; the whole
size is `--only size --size-tasks 1000000`.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from . import (
    batch,
    cells,
    dialects,
    facades,
    fleet,
    floor,
    holds,
    idle,
    latency,
    peers,
    pull,
    push,
    rates,
    report,
    singletons,
    size,
    soak,
    up,
    waiting,
)
from .report import Runs

SECTIONS: dict[str, Callable[[argparse.Namespace], Awaitable[Runs]]] = {
    "rates": rates.measure,
    "batch": batch.measure,
    "dialects": dialects.measure,
    "facades": facades.measure,
    "holds": holds.measure,
    "waiting": waiting.measure,
    "latency": latency.measure,
    "idle": idle.measure,
    "up": up.measure,
    "pull": pull.measure,
    "floor": floor.measure,
    "push": push.measure,
    "fleet": fleet.measure,
    "size": size.measure,
    "singletons": singletons.measure,
    "cells": cells.measure,
    "soak": soak.measure,
    "peers": peers.measure,
}
ON_REQUEST = ("soak", "peers")
"""One takes an hour, the other needs other programs: they run only if they are named."""
BY_DEFAULT = [name for name in SECTIONS if name not in ON_REQUEST]


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - SECTIONS.keys():
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    return names


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument(
        "--only",
        type=_names,
        default=BY_DEFAULT,
        metavar="SECTION,…",
        help="default: all but soak and peers",
    )
    found.add_argument("--runs", type=int, default=5)
    found.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    found.add_argument("--tasks", type=int, default=4000, help="tasks in each run of `rates`, and twice in `holds`")
    found.add_argument("--connections", type=int, default=64)
    found.add_argument("--batches", type=int, default=60, help="batches of 500 tasks in each run of `batch`")
    found.add_argument("--children", type=int, default=10_000, help="tasks that depend on one, in `holds`")
    found.add_argument("--links", type=int, default=1_000, help="of the chain in `holds`, at most 1,000")
    found.add_argument("--waiting-tasks", type=int, default=100_000, help="of one owner, in `waiting`")
    found.add_argument("--probes", type=int, default=50, help="single tasks in `waiting`")
    found.add_argument("--latency-tasks", type=int, default=200, help="tasks in each run of `latency`")
    found.add_argument("--idle-subscribers", type=int, default=1000, help="of `push`, each by SSE and WebSocket")
    found.add_argument("--active-subscribers", type=int, default=200, help="of `push`, likewise")
    found.add_argument("--servers", type=int, default=1000, help="registered servers of `fleet`")
    found.add_argument("--fleet-seconds", type=float, default=20, help="how long a quiet fleet is looked at")
    found.add_argument("--singleton-tasks", type=int, default=20_000, help="tasks that have ended, of `singletons`")
    found.add_argument("--soak-minutes", type=int, default=60)
    found.add_argument("--soak-rate", type=int, default=200, help="tasks submitted a second in `soak`")
    found.add_argument("--size-tasks", type=int, default=10_000, help="tasks that have ended, of `size`")
    return found


def main() -> None:
    options = parser().parse_args()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Any] = {}
    for name in options.only:
        print(f"{name}:", flush=True)
        runs = uvloop.run(SECTIONS[name](options))
        sections[name] = report.section(runs)
        print(report.table(runs), end="\n\n", flush=True)
        if options.json:  # after each, so that an interrupted run leaves what it has found
            chosen = {key: value for key, value in vars(options).items() if key != "json"}
            found = msgspec.json.encode(report.document(chosen, sections))
            options.json.write_bytes(msgspec.json.format(found) + b"\n")


if __name__ == "__main__":
    main()
