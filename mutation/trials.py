"""Runs of the tests in forked processes: as they are, to learn what each test runs, and with a changed module.

The parent imports the libraries once, and nothing of this repository, so a run costs only its own imports and tests.
Hypothesis draws the same examples in each run.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import coverage
import hypothesis
import pytest
import pytest_asyncio.plugin

from .scope import PACKAGE, ROOT, SOURCE, source

OURS = (PACKAGE, "tests", "testkit", "mutation", "chaos", "bench", "demo", "examples")
PYTEST = ["-q", "-x", "-c", os.devnull, f"--rootdir={ROOT}", "--noconftest", "--tb=no", "-p", "no:cacheprovider"]
PYTEST += ["--import-mode=importlib", "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
PYTEST += ["-o", f"pythonpath={ROOT}", "-W", "error"]

WAITS = 20
"""How many times its limit of CPU time a process may take in all."""

os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # schemathesis costs a second
hypothesis.settings.register_profile(
    "mutation",
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # no shrinking: one failure is enough
    suppress_health_check=list(hypothesis.HealthCheck),
)


class Baseline(NamedTuple):
    """What the tests of one file run, with the code as it is."""

    seconds: dict[str, float]
    """CPU time by test that passes."""
    lines: dict[str, dict[int, list[str]]]
    """By source file and line: the tests that run it. Lines run by an import are not in it."""
    libraries: list[str]
    """Modules imported that are not ours."""


class _ByTest:
    """Measures the lines and the CPU time of each test."""

    def __init__(self, cover: coverage.Coverage) -> None:
        self._cover = cover
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._cover.switch_context(item.nodeid)
        began_at = time.process_time()
        yield
        if item.nodeid in self.seconds:
            self.seconds[item.nodeid] = time.process_time() - began_at

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration


class _FirstFailure:
    """Remembers the first test that fails. A test that takes much longer than it should kills the process."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = seconds
        self.nodeid = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_VIRTUAL, 1 + 3 * self._seconds[item.nodeid])
        yield
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.nodeid:
            self.nodeid = report.nodeid


class _Changed(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module from a changed text."""

    def __init__(self, module: str, text: str) -> None:
        super().__init__(f"{PACKAGE}.{module.replace('/', '.')}", str(source(module)))
        self._text = text

    def find_spec(self, fullname: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, _: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


def measure(file: Path) -> Baseline:
    """Run the tests of a file, each once."""

    def run() -> dict[str, Any]:
        cover = coverage.Coverage(data_file=None, source=[str(SOURCE)], config_file=False)
        by_test = _ByTest(cover)
        cover.start()
        args = [arg for arg in PYTEST if arg != "-x"]
        pytest.main([*args, str(file.relative_to(ROOT))], plugins=[pytest_asyncio.plugin, by_test])
        cover.stop()
        data = cover.get_data()
        lines = {}
        for path in data.measured_files():
            by_line = data.contexts_by_lineno(path)
            lines[str(Path(path).relative_to(SOURCE))] = {
                line: [test for test in tests if test in by_test.seconds] for line, tests in by_line.items()
            }
        libraries = [name for name in sys.modules if name.partition(".")[0] not in OURS]
        return {"seconds": by_test.seconds, "lines": lines, "libraries": libraries}

    process = Process(run, 600)
    found = process.wait()
    assert isinstance(found, dict), f"{file}: its tests do not end"
    lines = {path: {int(line): tests for line, tests in by.items()} for path, by in found["lines"].items()}
    return Baseline(found["seconds"], lines, found["libraries"])


def preload(libraries: Sequence[str]) -> None:
    """Import libraries, so that forked processes have them."""
    for name in libraries:
        if name not in sys.modules and name != "__main__":
            with warnings.catch_warnings(), suppress(Exception):
                warnings.simplefilter("ignore")
                importlib.import_module(name)


def start(module: str, text: str, seconds: Mapping[str, float]) -> Process:
    """Start tests with a changed module, given the time each takes without it.

    The value is the first test that fails, `import` or `time`; empty: all pass.
    """

    def run() -> str:
        sys.meta_path.insert(0, _Changed(module, text))
        first = _FirstFailure(seconds)
        code = pytest.main([*PYTEST, *seconds], plugins=[pytest_asyncio.plugin, first])
        return first.nodeid or ("" if code == pytest.ExitCode.OK else "import")

    return Process(run, 10 + 3 * sum(seconds.values()))


class Process:
    """A forked process that returns one value."""

    def __init__(self, work: Callable[[], Any], limit_seconds: float) -> None:
        """`limit_seconds`: of CPU time; a busy machine does not end it."""
        self._began_at = time.monotonic()
        self._limit_seconds = limit_seconds
        self._answer = Path(tempfile.mkstemp(prefix="mutation-")[1])
        self._pid = os.fork()
        if self._pid == 0:
            self._child(work)

    def _child(self, work: Callable[[], Any]) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            seconds = math.ceil(self._limit_seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            os.chdir(ROOT)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            hypothesis.settings.load_profile("mutation")
            self._answer.write_text(json.dumps(work()))
            code = 0
        finally:
            os._exit(code)

    def poll(self) -> tuple[Any] | None:
        """Return the value once the process has ended: `time` if it took too long, `import` if it crashed."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            text = self._answer.read_text()
            self._answer.unlink()
            code = os.waitstatus_to_exitcode(status)
            return (json.loads(text) if code == 0 else "time" if code < 0 else "import",)
        if time.monotonic() - self._began_at > WAITS * self._limit_seconds:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._answer.unlink()
            return ("time",)
        return None

    def wait(self) -> Any:
        while (value := self.poll()) is None:
            time.sleep(0.01)
        return value[0]
