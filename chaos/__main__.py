"""`python -m chaos`: runs with faults by plan, and exits with 1 if any promise was broken."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from . import report
from .machine import Machine, seclude
from .run import describe, run
from .schedule import KINDS, Fault, plan


def main() -> int:
    options = _parser().parse_args()
    seeds = options.seeds or [random.SystemRandom().randrange(1_000_000)]
    machine = seclude()
    print(machine)
    broken = []
    for seed in seeds:
        print(f"seed {seed}: python -m chaos --seed {seed} --seconds {options.seconds:g} --nodes {options.nodes}")
        faults = plan(seed, options.seconds, options.nodes, machine, options.only)
        print(describe(faults), flush=True)
        if not options.plan and not _held(seed, faults, machine, options):
            broken.append(seed)
    if broken:
        print(f"broken by seeds: {', '.join(map(str, broken))}")
    return 1 if broken else 0


def _held(seed: int, faults: list[Fault], machine: Machine, options: argparse.Namespace) -> bool:
    """Run a seed and print its report; return True if every promise held."""
    with (
        tempfile.TemporaryDirectory(prefix="taskstream-chaos-")
        if not options.keep
        else _Kept(options.keep / f"{seed}-{time.time():.0f}") as folder
    ):
        outcome = asyncio.run(run(seed, options.seconds, options.nodes, faults, machine, Path(folder)))
    print(report.summary(outcome), flush=True)
    for text in report.violations(outcome):
        print(text)
    if outcome.violations:
        print(f"the faults of seed {seed}:\n{describe(outcome.faults)}", flush=True)
    return not outcome.violations


class _Kept:
    """A folder that stays."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._path.mkdir(parents=True)
        return str(self._path)

    def __exit__(self, *_: object) -> None:
        print(f"kept: {self._path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Break the service by a plan; check it.")
    parser.add_argument("--seed", dest="seeds", type=_seeds, help="one, or 1,5,9, or 1-20; by default one by chance")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long things go wrong (default: 20)")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="nats-servers")
    parser.add_argument(
        "--only", type=_kinds, default=KINDS, metavar="KINDS", help=f"faults of these kinds: {', '.join(KINDS)}"
    )
    parser.add_argument("--plan", action="store_true", help="print the faults, and do nothing")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs and journals there")
    return parser


def _seeds(text: str) -> list[int]:
    """Return the seeds of `7`, `1,5,9` or `1-20`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _kinds(text: str) -> list[str]:
    """Return the kinds of `kill,clock`. Raises ArgumentTypeError for what is none."""
    kinds = text.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"no such faults: {', '.join(sorted(unknown))}")
    return kinds


if __name__ == "__main__":
    sys.exit(main())
