"""Log lines: of one kind only so many, whoever causes them."""

from __future__ import annotations

import json
import logging

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


def test_warnings_are_limited_and_information_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    logs.configure(Settings(log_format="json"))
    try:
        log, library = structlog.get_logger("ours"), logging.getLogger("library")
        for number in range(BURST + 5):
            log.warning("bad.token", number=number)
            log.info("request", number=number)
            library.warning("bad thing %d", number)
        log.error("other")
    finally:
        structlog.configure(**before)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    kinds = ("bad.token", "request", "bad thing")
    count = {kind: sum(line["event"].startswith(kind) for line in lines) for kind in kinds}
    assert count == {"bad.token": BURST, "request": BURST + 5, "bad thing": BURST}
    assert lines[-1]["event"] == "other"
