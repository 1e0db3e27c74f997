"""`python -m chaos`: runs with faults by plan, and exits with 1 if any promise was broken."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from .checker import Violation
from .evidence import FINAL, Evidence, Line, Resources, growth
from .machine import Machine, seclude
from .run import Outcome, run
from .schedule import KINDS, Fault, plan

SHOWN_IN_FULL = 2
SHOWN_IN_SHORT = 6
"""Violations of one check; more of the same say little more."""


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
    if options.evidence:
        options.evidence.write_bytes(msgspec.msgpack.encode(outcome.evidence))
    print(summary(outcome), flush=True)
    for text in violations(outcome):
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
    parser.add_argument(
        "--evidence",
        type=Path,
        metavar="FILE",
        help="write what the checker sees there (MessagePack)",
    )
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


# The report


def describe(faults: Sequence[Fault]) -> str:
    return "\n".join(f"  {fault}" for fault in faults)


def summary(outcome: Outcome) -> str:
    """Return one line: what was done and whether it held."""
    evidence = outcome.evidence
    ends = Counter(entry.type for entry in evidence.log if entry.type in FINAL)
    answers = Counter(call.status for call in evidence.calls)
    submitted = [entry.event for entry in evidence.log if entry.kind == "submitted"]
    whats = Counter(line["what"] for line in evidence.backends)
    busy = sum(line.get("says") == "busy" for line in evidence.backends)
    grown = growth(evidence).values() or [Resources(0, 0.0)]
    verdict = f"{len(outcome.violations)} VIOLATIONS" if outcome.violations else "held"
    return (
        f"seed {outcome.seed}, {outcome.nodes} nodes, {outcome.seconds:g} s: {verdict}; "
        f"{len(outcome.faults)} faults, {len(evidence.calls)} calls ({answers[200]} ok, {answers[503]} unavailable, "
        f"{answers[0]} unanswered), {len(evidence.histories())} tasks "
        f"({', '.join(f'{count} {kind}' for kind, count in sorted(ends.items()))}; "
        f"{sum(bool(event.get('held')) for event in submitted)} held, "
        f"{sum(bool(event.get('plan', {}).get('depends_on')) for event in submitted)} with parents, "
        f"{sum(bool(event.get('schedule')) for event in submitted)} of schedules), "
        f"{whats['call']} backend calls ({busy} found it busy, and {whats['extra']} answers to nobody), "
        f"{len(evidence.heard)} subscribers ({sum(heard.connections for heard in evidence.heard)} connections, "
        f"{sum(heard.dropped for heard in evidence.heard)} dropped while asleep, "
        f"{sum(bool(told.event) for heard in evidence.heard for told in heard.told)} events), "
        f"{sum(len(received.calls) for received in evidence.received)} calls of webhooks "
        f"for {sum(len(received.deliveries) for received in evidence.received)} deliveries, "
        f"quiet after {outcome.quiet_seconds:.1f} s, "
        f"at most {max(more.descriptors for more in grown)} descriptors and "
        f"{max(more.megabytes for more in grown):.0f} MB more than when warm"
    )


def violations(outcome: Outcome) -> Iterator[str]:
    """Yield the text of each violation, the first few with everything about their task, in order of time."""
    shown: Counter[str] = Counter()
    for violation in outcome.violations:
        shown[violation.check] += 1
        if shown[violation.check] <= SHOWN_IN_SHORT:
            yield f"[{violation.check}] {violation.task} {violation.what}"
        if violation.task and shown[violation.check] <= SHOWN_IN_FULL:
            yield from _about(violation, outcome.evidence)
    for name, count in shown.items():
        if count > SHOWN_IN_SHORT:
            yield f"[{name}] and {count - SHOWN_IN_SHORT} more"


def _about(violation: Violation, evidence: Evidence) -> Iterator[str]:
    task = violation.task
    yield "  history:"
    history = evidence.histories().get(task, [])
    for entry in history:
        by = f"{entry['by']['kind']}/{entry['by']['id']}"
        yield f"    {entry['sequence']:>6} {entry['at']} {by} {_short(entry['event'])}"
    yield "  clients:"
    mark = next((entry["event"]["payload"]["mark"] for entry in history if "payload" in entry["event"]), None)
    for call in evidence.calls:
        if task == call.task or (mark and call.before.get("mark") == mark):
            yield f"    {_short(call.before)}"
            yield f"      {_short(call.after)}"
    yield "  backends:"
    for line in evidence.backends:
        if line["task"] == task:
            yield f"    {_short(line)}"


def _short(line: Line) -> str:
    return msgspec.json.encode(line).decode()[:400]


if __name__ == "__main__":
    sys.exit(main())
