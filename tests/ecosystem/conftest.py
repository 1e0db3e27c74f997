"""One service for the whole run, one program at a time, and the table of docs/servers.md."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator

import pytest

from testkit.processes import Up, clients_of, quick
from testkit.service import ServiceClients

from .programs import PROGRAMS, RUNPOD, Running, check_environments
from .registrations import PAGE
from .tried import TRIED, Tried

BEGIN, END = "<!-- ecosystem: begin -->", "<!-- ecosystem: end -->"
CASES = {
    "setup": "health in setup", "detection": "`auto`", "result": "result", "streamed_output": "streamed output",
    "progress": "progress", "wrong_input": "wrong input", "failed": "failed", "busy": "busy", "cancel": "cancel",
    "killed": "killed",
}  # fmt: skip
RESULTS: dict[str, dict[str, str]] = defaultdict(dict)
"""What was seen: by registration, then by case."""


class Server:
    """A program of the run with its registration's facts."""

    def __init__(self, tried: Tried, running: Running, spare: Running) -> None:
        self.tried = tried
        self.running = running
        self.spare = spare

    @property
    def name(self) -> str:
        return self.tried.name

    async def ready(self) -> None:
        """Let its setup end, and wait until it takes calls."""
        self.running.let_go("hold-setup")
        await self.running.ready()


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`taskstream up` on a new folder."""
    check_environments()
    service = Up("up", tmp_path_factory.mktemp("up"), quick() | {"LOG_FORMAT": "json", "PULL_LEASE": "5"})
    try:
        asyncio.run(service.serve())
        yield service
    finally:
        service.kill()
        said = [line for line in service.output().splitlines() if '"event": "request"' not in line]
        print("\n".join(said[-40:]))  # pytest shows it with a failure


@pytest.fixture
async def service(up: Up) -> AsyncIterator[ServiceClients]:
    """Clients of the service."""
    async with clients_of(up.url) as clients:
        yield clients


@pytest.fixture(scope="session", params=list(TRIED))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A program that is still setting up. It ends with its last test; its output is shown with a failure."""
    tried = TRIED[request.param]
    folder = tmp_path_factory.mktemp("program")
    program = PROGRAMS[tried.program]
    running, spare = (Running(program, folder / each, **tried.env) for each in ("first", "second"))
    running.hold("hold-setup")
    running.start()
    try:
        yield Server(tried, running, spare)
    finally:
        for each in (running, spare):
            each.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what each case came to, and show the program's output with a failure."""
    report = yield
    fixtures = getattr(item, "funcargs", {})
    server = fixtures.get("server") or fixtures.get("worker")
    if server is not None:
        case = item.name.partition("[")[0].removeprefix("test_")
        said = dict(item.user_properties).get("table", "yes")
        if report.when == "call" or report.failed:
            RESULTS[server.name][case] = str(said) if report.passed else "**failed**"
        if report.failed:
            report.sections.append((f"{server.name} said", server.running.tail()))
            report.sections.append(("its model noted", "\n".join(server.running.trace()[-20:])))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the rows of the registrations for which all cases ran."""
    whole = {name: cases for name, cases in RESULTS.items() if cases.keys() >= CASES.keys()}
    if whole:
        PAGE.write_text(with_rows(PAGE.read_text(), whole))


def with_rows(page: str, seen: dict[str, dict[str, str]]) -> str:
    """Return the page with these rows in its table; other rows stay."""
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = dict(re.findall(r"^\| ([^|]+) \|(.*)\|$", table, re.MULTILINE))
    for name, cases in seen.items():
        program = RUNPOD.get(name) or PROGRAMS[TRIED[name].program]
        cells = [f"{program.package} {program.version}", *(cases[case] for case in CASES)]
        rows[name] = f" {' | '.join(cells)} "
    head = f"| registration | program | {' | '.join(CASES.values())} |\n|{'---|' * (len(CASES) + 2)}"
    known = [f"| {name} |{rows[name]}|" for name in (*TRIED, *RUNPOD) if name in rows]
    return "\n".join([before + BEGIN, head, *known, END + after])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the same at the end of the run."""
    for name, cases in RESULTS.items():
        terminalreporter.write_line(f"{name}: {json.dumps(cases)}")
