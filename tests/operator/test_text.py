"""Values as text for people."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.operator.event_lines import event_line
from taskstream.operator.output import Column, Output, TablePrinter
from taskstream.operator.text import duration, instant, json_line, plain, size, when

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@given(st.text())
def test_plain_text_has_no_control_character(text: str) -> None:
    assert not set(plain(text)) & set(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2028, 0x200B]))


@given(st.text())
def test_a_json_line_is_the_same_value_on_one_line(text: str) -> None:
    encoded = json.dumps({"text": text}, ensure_ascii=False).encode(errors="surrogatepass")
    try:
        encoded.decode()
    except UnicodeDecodeError:
        return
    line = json_line(encoded)
    assert json.loads(line) == {"text": text}
    assert not set(line) & set(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2028]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0123, "12ms"), (5, "5s"), (59.9, "60s"), (63, "1m 3s"), (7200, "2h"), (90_000, "1d 1h")],
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert duration(timedelta(seconds=seconds)) == text


def test_instants_are_relative_unless_exact_is_asked_for() -> None:
    five = NOW - timedelta(minutes=5)
    assert when(five.isoformat(), NOW) == "5m ago"
    assert when(int(five.timestamp() * 1000), NOW) == "5m ago"
    assert when((NOW + timedelta(hours=3)).isoformat(), NOW) == "in 3h"
    assert when(five.isoformat(), NOW, exact=True) == "2026-01-02T02:59:05.000Z"
    assert when("nonsense", NOW) == when(None, NOW) == when(10**40, NOW) == "-"
    assert instant(True) is None


def test_sizes_are_in_units_of_1024() -> None:
    assert [size(each) for each in (0, 1023, 1024, 5 * 2**30, 3 * 2**40)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 GiB", "3.0 TiB"
    ]  # fmt: skip


def test_a_hostile_cell_stays_in_its_row_and_column() -> None:
    out = io.StringIO()
    printer = TablePrinter(Output(out=out), [Column("A", lambda row: row["a"]), Column("B", lambda row: row["b"])])
    printer.add([{"a": "x\n\x1b[2Jy", "b": "[bold]markup[/bold] :smile:"}, {"a": "日本", "b": None}])

    assert out.getvalue().splitlines() == [
        "A            B",
        r"x\n\x1b[2Jy  [bold]markup[/bold] :smile:",
        "日本         -",
    ]


def test_an_event_of_an_unknown_kind_has_a_line() -> None:
    entry = {"at": "2026-01-02T03:04:05Z", "by": {"kind": "user", "id": "a\x1b"}, "event": {"type": "New", "x": [1]}}
    line = event_line(entry).plain
    assert "New" in line
    assert line.endswith("x [1]")
    assert "\x1b" not in line
