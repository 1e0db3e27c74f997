"""Modules that are changed, the tests that should notice, and the goals."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PACKAGE = "taskstream"

OVERALL_GOAL = 93.0
"""Per cent of all changes."""
MODULE_GOAL = 88.0
"""Per cent of the changes of each module."""

SCOPE: dict[str, tuple[str, ...]] = {
    "commands/": (
        "tests/deciders/test_*.py",
        "tests/commands/test_*.py",
        "tests/folds/test_*.py",
        "tests/scheduling/test_dependencies.py",
        "tests/scheduling/test_eligibility.py",
        "tests/scheduling/test_held_tasks.py",
    ),
    "scheduling/": (
        "tests/scheduling/test_*.py",
        "tests/submission/test_*.py",
        "tests/workers/test_local_circuit.py",
    ),
    "events/": ("tests/events/test_*.py", "tests/deciders/test_*.py", "tests/folds/test_*.py"),
    "submission/": ("tests/submission/test_*.py", "tests/api/test_submission_parse.py", "tests/wire/test_*.py"),
    "backends/dialects/": ("tests/backends/test_*.py",),
    "workers/fleet/circuit_breaker": ("tests/workers/test_circuit.py", "tests/workers/test_verdicts.py"),
    "workers/fleet/local_circuit": ("tests/workers/test_local_circuit.py",),
    "workers/fleet/busy": ("tests/workers/test_busyness.py",),
}
"""Modules that are changed, by the beginning of their names, and patterns of the test files that should notice.

Tests that need a fixture of tests/conftest.py, a real NATS for one, are left out.
"""

SLOW_SECONDS = 1.0
"""Tests that take more CPU time, measured with coverage, are left out."""
BUDGET_SECONDS = 4.0
"""CPU time of the tests that run for a change, measured with coverage. The quickest come first, and the first that
fails ends the run: most changes are noticed within half a second."""


def modules(only: list[str] | None = None) -> list[str]:
    """Return the modules in scope, as `scheduling/limit`; `only`: those whose name starts with one of these."""
    paths = {path for part in SCOPE for path in SOURCE.glob(f"{part}*.py") if path.name != "__init__.py"}
    names = sorted(str(path.relative_to(SOURCE).with_suffix("")) for path in paths)
    return [name for name in names if not only or name.startswith(tuple(only))]


def source(module: str) -> Path:
    return SOURCE / f"{module}.py"


def test_files(module: str) -> list[Path]:
    """Return the files of the tests that should notice a change of a module."""
    patterns = next(tests for part, tests in SCOPE.items() if module.startswith(part))
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
