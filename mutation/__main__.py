"""`make mutate`: change the pure core in small ways, one at a time, and see which changes the fast tests notice.

    make mutate                                             all modules; goes on where it was stopped
    make mutate ARGS="--module scheduling/redelivery"       one module, or all whose names start so
    make mutate ARGS="--module scheduling --list"           what survived, without running anything

Each survivor is printed as a diff: write the test that fails with it, remove the code if it has no effect, or name it
in mutation/equivalents.toml with the reason why nobody could see it. Results are kept in build/mutation.json: a noticed
change stays noticed while its module and the test file that noticed it are the same; survivors are tried again whenever
a test file differs. Ends with 1 below the goals (93 % of all, 88 % of each module) and if a named equivalent is stale.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from . import scope
from .mutants import Mutant, mutants_of

EQUIVALENTS = scope.ROOT / "mutation" / "equivalents.toml"
KEPT = scope.ROOT / "build" / "mutation.json"
SUPPORT = ("tests/*/support.py", "tests/*/simulation.py", "tests/*/wire_*.py")


class Score(NamedTuple):
    module: str
    mutants: int
    noticed: int
    equivalent: int
    untried: int = 0
    """Changes without a result of an earlier run (`--list`); not among `mutants`."""

    @property
    def per_cent(self) -> float:
        return 100 * self.noticed / self.mutants if self.mutants else 100.0


class Memory:
    """Results of earlier runs, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self.baselines: dict[str, Any] = found.get("baselines", {})
        self.results: dict[str, Any] = found.get("results", {})
        self._saved_at = time.monotonic()

    def save(self, *, now: bool = True) -> None:
        if now or time.monotonic() - self._saved_at > 5:
            self._path.parent.mkdir(exist_ok=True)
            passing = self._path.with_suffix(".tmp")
            passing.write_text(json.dumps({"baselines": self.baselines, "results": self.results}))
            passing.replace(self._path)
            self._saved_at = time.monotonic()


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def equivalents() -> dict[tuple[str, str, str], str]:
    """Return the reasons why changes have no effect, by module, place and change."""
    rows = tomllib.loads(EQUIVALENTS.read_text()).get("equivalent", [])
    return {(row["module"], row["where"], row["change"].strip()): row["reason"] for row in rows}


class Session:
    """The changes of one module, and the tests that should notice them."""

    def __init__(self, module: str, memory: Memory, jobs: int) -> None:
        from . import trials

        self._trials = trials
        self._path = f"{module}.py"
        self._source = digest(scope.source(module))
        self._memory = memory
        self._jobs = jobs
        self._files = {str(path.relative_to(scope.ROOT)): digest(path) for path in scope.test_files(module)}
        self._support = digest(*sorted(path for pattern in SUPPORT for path in scope.ROOT.glob(pattern)))
        self._seconds: dict[str, float] = {}
        self._by_line: dict[str, dict[int, set[str]]] = {}
        self._measure()

    def _measure(self) -> None:
        """Learn what each test runs; only of files that changed, or that run this module and it changed."""
        for file, own in self._files.items():
            kept = self._memory.baselines.get(file)
            is_known = kept is not None and kept["own"] == own + self._support
            if kept is None or not is_known or kept["sources"].get(self._path, self._source) != self._source:
                print(f"measuring {file}", file=sys.stderr)
                found = self._trials.measure(scope.ROOT / file)
                run = [path for path, lines in found.lines.items() if any(lines.values())]
                sources = {path: digest(scope.SOURCE / path) for path in run}
                kept = {"own": own + self._support, "sources": sources, **found._asdict()}
                self._memory.baselines[file] = kept
                self._memory.save()
            self._add(kept)
            self._trials.preload(kept["libraries"])
        if not self._seconds:
            sys.exit(f"none of these passes with the code as it is: {', '.join(self._files)}")

    def _add(self, kept: dict[str, Any]) -> None:
        seconds = {test: spent for test, spent in kept["seconds"].items() if spent <= scope.SLOW_SECONDS}
        self._seconds |= seconds
        for path, by_line in kept["lines"].items():
            lines = self._by_line.setdefault(path, {})
            for line, tests in by_line.items():
                lines.setdefault(int(line), set()).update(test for test in tests if test in seconds)

    def _tests_for(self, mutant: Mutant) -> list[str]:
        """Return the tests that may notice a change, the quickest first."""
        by_line = self._by_line.get(self._path, {})
        lines = range(mutant.first_line, mutant.last_line + 1)
        found = set().union(*(by_line.get(line, set()) for line in lines))
        if not found and (mutant.where == "<module>" or mutant.where.split(".")[-1][:1].isupper()):
            found = set().union(*by_line.values()) or set(self._seconds)  # run by the import
        budget = scope.BUDGET_SECONDS
        chosen = []
        for test in sorted(found, key=lambda test: (self._seconds[test], test)):
            budget -= self._seconds[test]
            if budget < 0:
                break
            chosen.append(test)
        return chosen

    def run(self, mutants: list[Mutant]) -> dict[str, str]:
        """Return by id of a mutant what noticed it; empty: nothing."""
        all_tests = hashlib.sha256(json.dumps([self._files, self._support]).encode()).hexdigest()[:16]
        noticed: dict[str, str] = {}
        left = []
        for mutant in mutants:
            kept = self._memory.results.get(identity(mutant))
            if kept is not None and kept["tests"] == self._files.get(kept["by"].partition("::")[0], all_tests):
                noticed[identity(mutant)] = kept["by"]
            else:
                left.append(mutant)
        running: list[tuple[Mutant, Any]] = []
        left.reverse()
        while left or running:
            while left and len(running) < self._jobs:
                mutant = left.pop()
                tests = self._tests_for(mutant)
                if tests:
                    seconds = {test: self._seconds[test] for test in tests}
                    running.append((mutant, self._trials.start(mutant.module, mutant.source, seconds)))
                else:
                    self._record(mutant, "", all_tests, noticed)
            for each in list(running):
                mutant, process = each
                if (value := process.poll()) is not None:
                    running.remove(each)
                    self._record(mutant, value[0], all_tests, noticed)
            time.sleep(0.005)
        self._memory.save()
        return noticed

    def _record(self, mutant: Mutant, by: str, all_tests: str, noticed: dict[str, str]) -> None:
        tests = self._files.get(by.partition("::")[0], all_tests)
        self._memory.results[identity(mutant)] = {"by": by, "tests": tests}
        noticed[identity(mutant)] = by
        self._memory.save(now=False)


def identity(mutant: Mutant) -> str:
    return hashlib.sha256(f"{mutant.module}\0{mutant.source}".encode()).hexdigest()[:24]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mutation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--module", action="append", help="only modules whose names start so; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="default: the number of CPUs")
    parser.add_argument("--list", action="store_true", help="print the survivors of earlier runs; run nothing")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results of these modules")
    args = parser.parse_args()

    modules = scope.modules(args.module)
    if not modules:
        parser.error(f"no module starts with {' or '.join(args.module)}: there are {', '.join(scope.modules())}")
    memory = Memory(KEPT)
    named, used = equivalents(), set()
    scores = []
    for module in modules:
        mutants = mutants_of(module, scope.source(module).read_text())
        by_key = {(each.module, each.where, each.change) for each in mutants}
        used |= by_key & named.keys()
        tried = [each for each in mutants if (each.module, each.where, each.change) not in named]
        if args.fresh:
            for each in tried:
                memory.results.pop(identity(each), None)
        if args.list or not tried:
            kept = {identity(each): memory.results.get(identity(each)) for each in tried}
            noticed = {key: result["by"] for key, result in kept.items() if result}
        else:
            noticed = Session(module, memory, args.jobs).run(tried)
        known = [each for each in tried if identity(each) in noticed]
        survivors = [each for each in known if not noticed[identity(each)]]
        for each in survivors:
            print(f"\n{module}.py:{each.first_line} {each.where}\n{each.change}")
        score = Score(
            module, len(known), len(known) - len(survivors), len(mutants) - len(tried), len(tried) - len(known)
        )
        print(f"\n{_row(score)}", flush=True)
        scores.append(score)
    stale = [key for key in named.keys() - used if key[0] in modules or not scope.source(key[0]).exists()]
    return _finish(scores, stale)


def _row(score: Score) -> str:
    named = f", {score.equivalent} equivalent" if score.equivalent else ""
    left = f", {score.untried} not tried" if score.untried else ""
    return f"{score.module:36} {score.noticed:5} of {score.mutants:5} noticed: {score.per_cent:5.1f} %{named}{left}"


def _finish(scores: list[Score], stale: list[tuple[str, str, str]]) -> int:
    total = Score("all", *(sum(column) for column in zip(*(score[1:] for score in scores), strict=True)))
    print("\n" + "\n".join(_row(score) for score in [*scores, total]))
    below = [score.module for score in scores if score.per_cent < scope.MODULE_GOAL]
    if below:
        print(f"\nbelow {scope.MODULE_GOAL:.0f} %: {', '.join(below)}")
    if total.per_cent < scope.OVERALL_GOAL:
        print(f"\nbelow {scope.OVERALL_GOAL:.0f} % overall")
    if total.untried:
        print(f"\n{total.untried} changes have not been tried with the code as it is: run it without --list")
    for module, where, change in stale:
        print(f"\nmutation/equivalents.toml: {module} {where} has no such change any more; remove it:\n{change}")
    return 1 if below or stale or total.per_cent < scope.OVERALL_GOAL else 0


if __name__ == "__main__":
    sys.exit(main())
