"""`python -m chaos.containment`: what an owner chooses costs no other owner its throughput.

Nothing fails but what hostile owners bring about. Ordinary owners submit at one rate all along. Windows with hostile
owners and windows without follow each other, all of one length: the starts of the others are compared within one run,
as a ratio. Then the checker looks at the evidence as after any other run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import Struct

from taskstream.settings import PREFIX

from .checker import Violation, check
from .collect import Reader
from .evidence import FINAL, Evidence, Window
from .expectations import of_containment
from .hostile import CHOICES, OWNERS, HostileClient
from .journal import Journal
from .load import TENANTS, Client, Load, Submitted
from .quiet import Before, common_evidence, until_projected, until_quiet
from .schedule import BACKENDS
from .system import System

WINDOW_SECONDS = 4.0
ROUNDS = 3
"""Windows of each sort."""
PERIOD_SECONDS = 0.5
"""Between two submissions of an ordinary owner."""
WORK_SECONDS = 0.05
WARM_UP_SECONDS = 1.5
RECOVERY_SECONDS = 60.0
"""Longest wait after a window until no task is left of it."""
CALM_SECONDS = 1.0
"""How long a task may take when all is well, also on a busy machine."""
SETTINGS = {"CIRCUIT_COOLDOWN": "5", "RETRY_BASE": "0.3", "RETRY_CAP": "0.5"}
"""A circuit that opened stays so for longer than a window; tasks tried a hundred times leave the machine some time."""
POLL_SECONDS = 0.25
SHOWN = 10


class Contained(Struct, kw_only=True):
    """The result of a containment run."""

    evidence: Evidence
    violations: list[Violation]

    @property
    def starts(self) -> list[int]:
        """Return by window how many tasks of ordinary owners started."""
        found = [
            entry
            for entry in self.evidence.log
            if entry.type == "AttemptStarted" and entry.event["attempt"] == 1 and entry.owner not in OWNERS
        ]
        return [sum(map(window.has, found)) for window in self.evidence.windows]

    def __str__(self) -> str:
        verdict = f"{len(self.violations)} VIOLATIONS" if self.violations else "held"
        windows = ", ".join(
            f"{count} {'beside hostile owners' if window.hostile else 'alone'}"
            for count, window in zip(self.starts, self.evidence.windows, strict=True)
        )
        attempts = sum(entry.type == "AttemptStarted" and entry.owner in OWNERS for entry in self.evidence.log)
        return f"{verdict}: tasks of others started: {windows}; {attempts} attempts of hostile owners"


class ContainmentSystem(System):
    """A system with one backend, and SETTINGS of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1)
        self.backends = BACKENDS[:1]

    def _environment(self, name: str, number: int) -> dict[str, str]:
        return super()._environment(name, number) | {PREFIX + key: value for key, value in SETTINGS.items()}


class OrdinaryClient(Client):
    """A client that submits short tasks at a constant rate."""

    async def run(self) -> None:
        """Submit until cancelled; a late answer delays no other submission."""
        async with asyncio.TaskGroup() as under_way:
            while True:
                payload = {"mark": self.new_mark(), "do": ["ok"], "seconds": WORK_SECONDS}
                one = Submitted(key=f"key of {payload['mark']}", body={"payload": payload})
                under_way.create_task(self.submit(one))
                await asyncio.sleep(PERIOD_SECONDS)


async def contain(folder: Path, seconds: float, rounds: int, choices: Sequence[str], seed: int = 1) -> Contained:
    """Run in an empty folder, with windows of so many seconds."""
    journal = Journal(folder / "clients.jsonl", synced=False)
    async with AsyncExitStack() as stack:
        system = ContainmentSystem(folder)
        await system.start(stack)
        load = await stack.enter_async_context(Load(system.urls, journal, seed))
        reader = await stack.enter_async_context(Reader(system.nats_urls))
        hostile = [HostileClient(owner, 0, system.urls, load.session, journal, seed) for owner in OWNERS]
        windows = []
        async with _ordinary(system, load, journal, seed):
            await asyncio.sleep(WARM_UP_SECONDS)
            before = Before(await reader.streams(), await reader.consumers(), system.resources())
            for _ in range(rounds):
                windows.append(await _window(reader, seconds, (), choices))
                windows.append(await _window(reader, seconds, hostile, choices))
        await until_quiet(reader, time.monotonic())
        await until_projected(reader)
        common = await common_evidence(system, reader, before)
        hostile_owners, expected = frozenset(OWNERS), of_containment(len(windows))
        evidence = Evidence(**common, windows=windows, hostile=hostile_owners, expected=expected)
    journal.close()
    return Contained(evidence=evidence, violations=check(evidence))


@contextlib.asynccontextmanager
async def _ordinary(system: System, load: Load, journal: Journal, seed: int) -> AsyncIterator[None]:
    """Have ordinary owners submit until the end of the block."""
    clients = [OrdinaryClient(owner, 0, system.urls, load.session, journal, seed) for owner in TENANTS]
    running = [asyncio.create_task(client.run()) for client in clients]
    try:
        yield
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _window(reader: Reader, seconds: float, hostile: Sequence[HostileClient], choices: Sequence[str]) -> Window:
    """Let a window pass, with hostile clients or without; then wait until no task of it is left."""
    begins = time.time()
    ends = begins + seconds
    attack = asyncio.gather(*(client.burst(choices, ends) for client in hostile))
    await asyncio.sleep(seconds)
    await attack
    return Window(begins, ends, bool(hostile), await _is_calm(reader))


async def _is_calm(reader: Reader) -> bool:
    """Wait until no task is left of those that were submitted a moment ago or before; False if that takes too long."""
    give_up_at = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < give_up_at:
        since = time.time() - CALM_SECONDS
        log = await reader.log()
        submitted = {entry.task for entry in log if entry.type == "TaskSubmitted" and entry.stored_at < since}
        if submitted <= {entry.task for entry in log if entry.type in FINAL}:
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


def main() -> int:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="taskstream-containment-") as folder:
        kept = options.keep or Path(folder)
        contained = asyncio.run(contain(kept, options.seconds, options.rounds, options.only, options.seed))
    print(contained)
    for violation in contained.violations[:SHOWN]:
        print(f"[{violation.check}] {violation.task} {violation.what}")
    return 1 if contained.violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.containment", description="Hostile owners beside others.")
    parser.add_argument(
        "--seconds", type=float, default=WINDOW_SECONDS, help=f"length of a window (default: {WINDOW_SECONDS:g})"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"windows of each sort (default: {ROUNDS})")
    parser.add_argument(
        "--only", type=_choices, default=CHOICES, metavar="CHOICES", help=f"hostile choices: {', '.join(CHOICES)}"
    )
    parser.add_argument("--seed", type=int, default=1, help="what hostile owners choose")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs and journals in this empty folder")
    return parser


def _choices(text: str) -> list[str]:
    """Return the choices of `timeouts,claims`. Raises ArgumentTypeError for what is none."""
    choices = text.split(",")
    if unknown := set(choices) - set(CHOICES):
        raise argparse.ArgumentTypeError(f"no such choices: {', '.join(sorted(unknown))}")
    return choices


if __name__ == "__main__":
    sys.exit(main())
