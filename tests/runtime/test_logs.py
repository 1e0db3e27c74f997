"""Log lines: of one kind only so many, whoever causes them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from taskstream.runtime import logs
from taskstream.runtime.logs import BURST, MOST_KINDS, PAUSE_SECONDS, Repeats
from taskstream.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_let_through_then_one_each_pause_with_the_number_left_out() -> None:
    clock = Clock()
    repeats = Repeats(clock)

    assert [repeats.admit("a") for _ in range(BURST + 3)] == [0] * BURST + [None] * 3
    assert repeats.admit("b") == 0
    clock.now += PAUSE_SECONDS
    assert [repeats.admit("a") for _ in range(2)] == [3, None]
    clock.now += 1_000 * PAUSE_SECONDS
    assert [repeats.admit("a") for _ in range(BURST + 1)] == [1] + [0] * (BURST - 1) + [None]


@given(st.lists(st.floats(0, 10), max_size=200))
def test_every_line_is_admitted_or_counted_once(pauses: list[float]) -> None:
    clock = Clock()
    repeats = Repeats(clock)
    admitted = counted = 0
    for pause in pauses:
        clock.now += pause
        omitted = repeats.admit("a")
        if omitted is not None:
            admitted, counted = admitted + 1, counted + omitted
    clock.now += PAUSE_SECONDS * BURST
    last = repeats.admit("a")
    assert last is not None
    assert admitted + counted + last == len(pauses)
    assert admitted <= BURST + clock.now / PAUSE_SECONDS


def test_the_kinds_remembered_are_bounded() -> None:
    repeats = Repeats()
    for kind in range(3 * MOST_KINDS):
        repeats.admit(kind)
    assert len(repeats._kinds) == MOST_KINDS


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log as before after the test."""
    monkeypatch.setattr(logs, "log", structlog.get_logger("ours"))  # a logger keeps the configuration of its first use
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    logs._json_lines = None
    structlog.configure(**before)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


REQUEST: dict[str, Any] = {
    "id": "abc.1",
    "caller": 'a"\\\u00e9',
    "method": "GET",
    "route": "/api/task/{task_id}",
    "status": 200,
    "ms": 1.5,
}


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("process", ["", "api-1"], ids=["alone", "named"])
@pytest.mark.parametrize("caller", ["alice", REQUEST["caller"], None], ids=["plain", "escaped", "nobody"])
def test_a_request_is_written_as_structlog_would(
    capsys: pytest.CaptureFixture[str], caller: str | None, process: str
) -> None:
    logs.configure(Settings(log_format="json"), process)
    logs.log_request(**REQUEST | {"caller": caller})
    structlog.get_logger("ours").info("request", **REQUEST | {"caller": caller})
    quick, usual = capsys.readouterr().err.splitlines()
    stamp = len('"2026-01-01T00:00:00.000000Z"}')
    assert quick[:-stamp] == usual[:-stamp]
    assert len(quick) == len(usual)


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("level", ["warning", "info"])
def test_requests_are_left_out_above_info(capsys: pytest.CaptureFixture[str], level: Any) -> None:
    logs.configure(Settings(log_format="json", log_level=level))
    logs.log_request(**REQUEST)
    assert len(capsys.readouterr().err.splitlines()) == (level == "info")


@pytest.mark.usefixtures("unconfigured")
def test_warnings_are_limited_and_information_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    log, library = structlog.get_logger("ours"), logging.getLogger("library")
    for number in range(BURST + 5):
        log.warning("bad.token", number=number)
        log.info("request", number=number)
        library.warning("bad thing %d", number)
    log.error("other")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    kinds = ("bad.token", "request", "bad thing")
    count = {kind: sum(line["event"].startswith(kind) for line in lines) for kind in kinds}
    assert count == {"bad.token": BURST, "request": BURST + 5, "bad thing": BURST}
    assert lines[-1]["event"] == "other"


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_log_that_cannot_be_written_fails_nothing_else(log_format: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("sys.stderr", os.fdopen(writer, "w", buffering=1))
    logs.configure(Settings(log_format=log_format))
    logs.log_request(**REQUEST)
    structlog.get_logger("ours").warning("tried")

    with contextlib.suppress(BrokenPipeError):
        sys.stderr.close()
    logs.log_request(**REQUEST)
    structlog.get_logger("ours").warning("tried")


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("text", ["x" * 9_000, "é" * 9_000, "\n" * 9_000, "a" + "\U0001f600" * 3_000 + "z"])
def test_a_long_text_loses_its_middle(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"), "api-1")
    structlog.get_logger("ours").info("said", text=text, other="short")
    structlog.get_logger("ours").info("counted", numbers=list(range(5_000)))

    said, counted = capsys.readouterr().err.splitlines()
    assert len(said.encode()) < logs.LINE_BYTES
    found = json.loads(said)
    assert (found["event"], found["process"], found["other"]) == ("said", "api-1", "short")
    begin, _, end = found["text"].partition(logs.CUT)
    assert text.startswith(begin)
    assert text.endswith(end)
    assert len(end) > len(begin) > 0
    assert json.loads(counted).keys() == logs.ESSENTIAL


WRITER = """
import logging, sys, structlog
from taskstream.runtime import logs
from taskstream.settings import Settings
logs.configure(Settings(log_format="json"), sys.argv[1])
log = structlog.get_logger("ours")
sys.stdin.readline()
for number in range(400):
    logs.log_request(id="x", caller=None, method="GET", route="/", status=200, ms=1)
    log.info("event", number=number, text="x" * (number % 7) * 1000)
"""


def test_lines_of_several_processes_do_not_mix() -> None:
    reader, writer = os.pipe()
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, name], stdin=subprocess.PIPE, stderr=writer)
        for name in ("api-1", "worker-1")
    ]
    os.close(writer)
    for each in started:
        assert each.stdin is not None
        each.stdin.write(b"go\n")
        each.stdin.close()
    with os.fdopen(reader) as output:
        written = list(output)
    lines = [json.loads(line) for line in written]
    assert max(map(len, written)) <= select.PIPE_BUF
    assert [each.wait() for each in started] == [0, 0]
    count = Counter((line["process"], line["event"]) for line in lines)
    assert count == {(name, event): 400 for name in ("api-1", "worker-1") for event in ("event", "request")}
