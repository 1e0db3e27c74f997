"""`taskstream top` on terminals."""

from __future__ import annotations

import os
import signal

import pytest
from rich.cells import cell_len

from taskstream.clock import utc_now
from taskstream.operator.top_screen import Overview, TopScreen, spark

from .conftest import Known
from .terminals import ESCAPES, Terminal

pytestmark = pytest.mark.timeout(240)
ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"


@pytest.mark.parametrize("key", ["q", "\x03"], ids=["q", "Ctrl-C"])
def test_a_key_ends_it_and_the_terminal_is_as_before(known: Known, admin: dict[str, str], key: str) -> None:
    terminal = Terminal(["top", "--every", "0.2"], admin)
    terminal.shows("q: quit")
    terminal.type(key)
    assert terminal.ends() == 0
    assert terminal.modes[0] == terminal.modes[1]
    assert terminal.output.index(ALTERNATE) < terminal.output.rindex(BACK)
    assert "\x1b[?25h" in terminal.output[terminal.output.rindex("q: quit") :]  # the cursor


def test_a_signal_ends_it_too(known: Known, admin: dict[str, str]) -> None:
    terminal = Terminal(["top"], admin)
    terminal.shows("q: quit")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.ends() == 0
    assert BACK in terminal.output


def test_it_shows_the_service(known: Known, admin: dict[str, str]) -> None:
    terminal = Terminal(["top", "--every", "0.2"], admin, columns=80, rows=24)
    terminal.shows("q: quit")
    screen = terminal.output
    assert all(text in screen for text in ("waiting", "POOL", "SERVER", "FAILED", "sync"))
    narrow = [line for line in terminal.lines if line.strip()]
    assert max(map(cell_len, narrow)) <= 80
    terminal.resize(40, 12)
    terminal.type("q")
    assert terminal.ends() == 0


def test_it_follows_the_size_of_the_terminal(known: Known, admin: dict[str, str]) -> None:
    terminal = Terminal(["top", "--every", "0.2"], admin, columns=80, rows=24)
    terminal.shows("q: quit")
    terminal.resize(40, 12)
    before = len(terminal.output)
    terminal.shows("q: quit", times=3, after=before)
    last = ESCAPES.sub("", terminal.output[before:].split("\x1b[H")[-2])
    assert len(last.splitlines()) == 12
    assert max(cell_len(line.rstrip("\r")) for line in last.splitlines()) == 40
    terminal.type("q")
    assert terminal.ends() == 0


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5), (200, 60)])
def test_every_size_has_a_screen_that_fits(width: int, height: int) -> None:
    pools = [
        {"name": f"pool-{n}\x1b[31m", "pause": None, "waiting": {"high": n}, "servers": [], "types": []}
        for n in range(40)
    ]
    alarms = [{"severity": "critical", "text": "wrong " * 40}] * 30
    stats = {
        "totals": {"waiting": 10**9, "held": 5, "processing": 7},
        "window": {"finished": 1, "failed": 2, "wait": {"p50": None, "p95": 1.0}, "run": {"p50": 0.1, "p95": 99.0}},
        "series": [{"finished": n, "failed": 0, "cancelled": 0} for n in range(60)],
    }
    overview = Overview(read_at=utc_now(), stats=stats, pools={"pools": pools}, alarms={"alarms": alarms})
    lines = TopScreen("http://x", overview).lines(width, height)

    assert len(lines) == height
    assert lines[-1].plain == "q: quit"
    assert "\x1b" not in "".join(line.plain for line in lines)


def test_what_was_known_stays_while_the_service_is_away() -> None:
    stats = {
        "totals": {"waiting": 3, "held": 0, "processing": 0},
        "window": {"finished": 1, "failed": 2, "wait": {"p50": None, "p95": 1.0}, "run": {"p50": 0.1, "p95": 99.0}},
        "series": [],
    }
    screen = TopScreen("http://x", Overview(read_at=utc_now(), stats=stats))
    screen.overview = Overview(read_at=utc_now(), problem="cannot reach http://x")
    shown = "\n".join(line.plain for line in screen.lines(80, 24))
    assert "cannot reach" in shown
    assert "waiting 3" in shown


def test_a_plot_has_the_newest_values_and_its_highest_is_full() -> None:
    assert spark([0, 1, 2, 4], 10)[-1] == "█"
    assert len(spark(range(100), 10)) == 10
    assert spark([0, 0], 5) == "▁▁"
